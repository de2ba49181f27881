// Bounds are kept in the type of the raw keys: a code moves in where its value lies outside.
#include "device/bounds_store.hpp"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <variant>

#include "core/error.hpp"
#include "core/state_stream.hpp"
#include "rules/codec/plane.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t chunk_pages = 64;  // that one thread scores at a time

template <class Code, class ToFloat>
void widen_head(const std::byte* k, std::byte* low, std::byte* high, std::uint32_t d, ToFloat&& to_float) {
  for (std::uint32_t c = 0; c < d; ++c) {
    Code codes[3];
    std::memcpy(&codes[0], k + c * sizeof(Code), sizeof(Code));
    std::memcpy(&codes[1], low + c * sizeof(Code), sizeof(Code));
    std::memcpy(&codes[2], high + c * sizeof(Code), sizeof(Code));
    const float value = to_float(codes[0]), before_low = to_float(codes[1]), before_high = to_float(codes[2]);
    float new_low = before_low, new_high = before_high;
    select::widen(value, new_low, new_high);
    if (new_low < before_low) std::memcpy(low + c * sizeof(Code), &codes[0], sizeof(Code));
    if (new_high > before_high) std::memcpy(high + c * sizeof(Code), &codes[0], sizeof(Code));
  }
}

struct Chunk {
  std::uint32_t task, first, n;
};

/// Working memory of one thread.
struct Scratch {
  std::vector<float> q, bounds;
};

template <class Rule>
void score_chunk(const Rule& rule, const ScoreBatch& batch, std::span<const BoundsStore> bounds, const Chunk& chunk, Scratch& scratch) {
  const ScoreTask& task = batch.tasks[chunk.task];
  const std::uint32_t heads = task.n_kv_heads * task.group, d = batch.d_k;
  const PlaneFormat plane{batch.q_format};
  scratch.q.resize(std::size_t{heads} * d);
  scratch.bounds.resize(std::size_t{2} * d);
  const std::byte* q = batch.q + (std::size_t{task.query} * batch.q_row_heads + task.q_head) * code_bytes(plane, d);
  for (std::uint32_t h = 0; h < heads; ++h) decode_slot(plane, q, nullptr, h, d, &scratch.q[std::size_t{h} * d]);
  for (std::uint32_t p = chunk.first; p < chunk.first + chunk.n; ++p) {
    const BoundsStore& store = bounds[batch.pages[p].pool.value];
    float total = 0;
    for (std::uint32_t h = 0; h < heads; ++h) {
      if (h % task.group == 0) store.read(batch.pages[p].index, h / task.group, scratch.bounds.data());
      const float score = rule.score(&scratch.q[std::size_t{h} * d], scratch.bounds.data(), scratch.bounds.data() + d, d);
      total = h == 0 ? score : select::join(rule.heads, total, score);
    }
    batch.scores[p] = total;
  }
}

void choose(const ScoreBatch& batch) {
  std::uint32_t* to = batch.chosen;
  std::vector<std::uint32_t> pages;
  for (const ScoreTask& task : batch.tasks) {
    select::choose_pages(pick_of(*batch.rule), {batch.scores + task.first_page, task.n_pages}, task.newest, pages);
    to = std::copy(pages.begin(), pages.end(), to);
  }
}

}  // namespace

void BoundsStore::widen(std::uint32_t block, const std::byte* k, bool fresh) {
  if (!needed()) return;
  const std::size_t row = format_.bounds_head_bytes() / 2;
  for (std::uint32_t head = 0; head < format_.n_kv_heads; ++head) {
    std::byte* low = &bytes_[at(block, head)];
    std::byte* high = low + row;
    const std::byte* key = k + head * row;
    if (fresh) {
      std::memcpy(low, key, row);
      std::memcpy(high, key, row);
    } else if (format_.bounds_element == ElementFormat::fp32) {
      widen_head<float>(key, low, high, format_.d_k, [](float x) { return x; });
    } else if (format_.bounds_element == ElementFormat::bf16) {
      widen_head<std::uint16_t>(key, low, high, format_.d_k, float_from_bf16);
    } else {
      widen_head<std::uint16_t>(key, low, high, format_.d_k, float_from_fp16);
    }
  }
}

void BoundsStore::copy(std::uint32_t block, const BoundsStore& from, std::uint32_t from_block) {
  if (!needed()) return;
  MOEKV_EXPECT(from.format_.bounds_bytes() == format_.bounds_bytes());
  std::memcpy(&bytes_[at(block, 0)], &from.bytes_[from.at(from_block, 0)], format_.bounds_bytes());
}

void BoundsStore::read(std::uint32_t block, std::uint32_t kv_head, float* out) const {
  const PlaneFormat plane{format_.bounds_element};
  for (std::uint32_t side = 0; side < 2; ++side) decode_slot(plane, &bytes_[at(block, kv_head)], nullptr, side, format_.d_k, out + side * format_.d_k);
}

void BoundsStore::transfer(StateStream& stream) { stream(bytes_); }

void score_pages(const ScoreBatch& batch, std::span<const BoundsStore> bounds, int n_threads) {
  if (batch.scores == nullptr) {
    std::vector<float> scores(batch.pages.size());
    ScoreBatch scored = batch;
    scored.scores = scores.data();
    return score_pages(scored, bounds, n_threads);
  }
  std::vector<Chunk> chunks;
  for (std::uint32_t t = 0; t < batch.tasks.size(); ++t) {
    const ScoreTask& task = batch.tasks[t];
    for (std::uint32_t i = 0; i < task.n_pages; i += chunk_pages) chunks.push_back({t, task.first_page + i, std::min(chunk_pages, task.n_pages - i)});
  }
  const auto n = static_cast<std::int64_t>(chunks.size());
  std::visit([&](const auto& rule) {
    if constexpr (select::needs_bounds<std::decay_t<decltype(rule)>>) {
#pragma omp parallel num_threads(n_threads) if (n > 1)
      {
        Scratch scratch;
#pragma omp for schedule(dynamic, 1)
            for (std::int64_t i = 0; i < n; ++i) score_chunk(rule, batch, bounds, chunks[static_cast<std::size_t>(i)], scratch);
          }
        }
      },
      *batch.rule);
  if (batch.chosen != nullptr) choose(batch);
}

}  // namespace moekv
