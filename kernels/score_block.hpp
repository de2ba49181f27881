// Scoring pages by the bounds of their keys: one thread takes one (page, query head) through the rule, as the host does.
#pragma once

#include "launches.hpp"
#include "rules/codec/element.hpp"

namespace moekv::kernels {

inline constexpr std::uint32_t score_pages_most = 16;

/// Floats of shared memory for n pages: queries of a KV head, both bounds of the pages, and scores.
[[nodiscard]] constexpr std::uint64_t score_floats(std::uint32_t n_pages, std::uint32_t group, std::uint32_t d) {
  return (std::uint64_t{group} + 2 * n_pages) * (d | 1U) + std::uint64_t{n_pages} * group;
}

template <class Block, class Rule>
MOEKV_HD void score_block(Block& block, const ScoreLaunch& work, const Rule& rule) {
  const ScoreItem& item = work.items[block.index()];
  const PoolLayout& pool = work.pools[item.pool];
  const std::uint32_t d = work.d_k, stride = d | 1U, group = item.group;  // odd strides spread rows over the banks
  float* q = reinterpret_cast<float*>(block.shared());
  float* bounds = q + group * stride;
  float* scores = bounds + 2 * item.n_pages * stride;
  for (std::uint32_t kv = 0; kv < item.n_kv_heads; ++kv) {
    block.each([&](unsigned t) {
      for (std::uint32_t i = t; i < group * d; i += block.n_threads()) {
        const std::uint64_t row = item.first_q + kv * group + i / d;
        q[i / d * stride + i % d] = load_raw(work.q_format, work.q + row * d * element_bits(work.q_format) / 8, i % d);
      }
      for (std::uint32_t i = t; i < 2 * item.n_pages * d; i += block.n_threads()) {
        const std::byte* side = work.bounds[item.first_page + i / d / 2] + kv * pool.bounds_head_bytes + i / d % 2 * (pool.bounds_head_bytes / 2);
        bounds[i / d * stride + i % d] = load_raw(pool.bounds_element, side, i % d);
      }
    });
    block.each([&](unsigned t) {
      for (std::uint32_t i = t; i < item.n_pages * group; i += block.n_threads()) {
        const float* low = bounds + 2 * (i / group) * stride;
        scores[i] = rule.score(q + i % group * stride, low, low + stride, d);
      }
    });
    block.each([&](unsigned t) {
      for (std::uint32_t page = t; page < item.n_pages; page += block.n_threads()) {
        float& total = work.scores[item.first_page + page];
        for (std::uint32_t h = 0; h < group; ++h) {
          const float score = scores[page * group + h];
          total = kv == 0 && h == 0 ? score : select::join(rule.heads, total, score);
        }
      }
    });
  }
}

}  // namespace moekv::kernels
