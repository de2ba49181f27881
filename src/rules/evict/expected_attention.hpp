// expected_attention (Devoto et al. 2025): the attention that queries to come would pay a key, if they were Gaussian with the moments of the
// recent ones, times the norm of its value.
#pragma once

#include <algorithm>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/field.hpp"
#include "rules/evict/group_view.hpp"
#include "rules/generate.hpp"

namespace moekv::evict {

struct ExpectedAttention : ScoresState {
  static constexpr std::string_view name = "expected_attention";
  static constexpr std::string_view doc = "least attention expected of the next queries, times |v|, goes; moments of the last `queries` queries";
  static constexpr std::string_view source = "Expected Attention, arXiv 2510.00636";
  static constexpr bool scores_groups = true;
  std::uint32_t future = 512, skip = 4, queries = 128;
  float eps = 0.01F;
  static constexpr auto params =
      std::tuple{Param{"future", &ExpectedAttention::future, "tokens", "next positions that RoPE is averaged over; 0: queries stay as they are", 0, 1e6},
                 Param{"skip", &ExpectedAttention::skip, "tokens", "first positions that are not scored and go last", 0, 1e6},
                 Param{"queries", &ExpectedAttention::queries, "tokens", "recent queries kept for the moments (the original: all of the prompt)", 1, 4096},
                 Param{"eps", &ExpectedAttention::eps, "1", "added to the expected attention before the norm of the value counts", 0, 1}};

  [[nodiscard]] constexpr GroupReads reads() const { return {true, true, queries}; }
  void score_group(const GroupView& g, float* scores) const {
    const std::uint32_t first = g.before(skip), n = g.n - first;
    std::fill_n(scores, g.n, 0.0F);
    std::fill_n(scores, first, goes_last);
    std::vector<float> rows(std::size_t{g.n_queries} * g.d_k), mean(g.d_k), logits(n);
    for (std::uint32_t h = 0; h < g.q_group; ++h) {
      moments(g, h, mean, rows);
      for (std::uint32_t i = 0; i < n; ++i) {
        float variance = 0;
        for (std::uint32_t j = 0; j < g.n_queries; ++j) {
          const float x = g.scale * dot(&rows[std::size_t{j} * g.d_k], g.key(first + i), g.d_k);
          variance += x * x;
        }
        logits[i] = g.scale * dot(mean.data(), g.key(first + i), g.d_k) + (g.n_queries > 0 ? variance / static_cast<float>(2 * g.n_queries) : 0.0F);
      }
      softmax(logits.data(), n);
      for (std::uint32_t i = 0; i < n; ++i) scores[first + i] += logits[i] / static_cast<float>(g.q_group);
    }
    for (std::uint32_t i = first; i < g.n; ++i) scores[i] = (scores[i] + eps) * norm_of(g.value(i), g.d_v);
  }

 private:
  /// Mean of e^(2 pi i turns p) over the `n` positions from `first` on.
  [[nodiscard]] static CosSin mean_turn(double turns, std::uint32_t first, std::uint32_t n) {
    const auto times = [](CosSin a, CosSin b) { return CosSin{a.cos * b.cos - a.sin * b.sin, a.cos * b.sin + a.sin * b.cos}; };
    CosSin sum{0, 0};  // over `done` positions from 0 on
    std::uint32_t done = 0;
    for (std::uint32_t bit = 1U << 31; bit > 0; bit >>= 1) {
      const CosSin ahead = generate::rope_angle(done, turns);
      sum = times(sum, {1 + ahead.cos, ahead.sin});
      done *= 2;
      if ((n & bit) == 0) continue;
      sum = times(sum, generate::rope_angle(1, turns));
      sum.cos += 1;
      done += 1;
    }
    sum = times(sum, generate::rope_angle(first, turns));
    return {sum.cos / static_cast<float>(n), sum.sin / static_cast<float>(n)};
  }
  static void turn(float* row, const GroupView& g, std::uint32_t pair, CosSin by) {
    float &x = row[g.rope_first + pair], &y = row[g.rope_first + pair + g.rope_pairs];
    const float turned = x * by.cos - y * by.sin;
    y = x * by.sin + y * by.cos;
    x = turned;
  }

  /// Mean of the recent queries of a head, and their deviations from it, both turned to the positions to come.
  void moments(const GroupView& g, std::uint32_t h, std::vector<float>& mean, std::vector<float>& rows) const {
    std::fill(mean.begin(), mean.end(), 0.0F);
    for (std::uint32_t j = 0; j < g.n_queries; ++j) {
      float* row = &rows[std::size_t{j} * g.d_k];
      std::copy_n(g.query(j, h), g.d_k, row);
      for (std::uint32_t p = 0; future > 0 && p < g.rope_pairs; ++p) {
        const CosSin at = generate::rope_angle(g.query_positions[j], g.rope_turns[p]);
        turn(row, g, p, {at.cos, -at.sin});
      }
      for (std::uint32_t d = 0; d < g.d_k; ++d) mean[d] += row[d] / static_cast<float>(g.n_queries);
    }
    for (std::uint32_t j = 0; j < g.n_queries; ++j) {
      for (std::uint32_t d = 0; d < g.d_k; ++d) rows[std::size_t{j} * g.d_k + d] -= mean[d];
    }
    for (std::uint32_t p = 0; future > 0 && p < g.rope_pairs; ++p) {
      const CosSin by = mean_turn(g.rope_turns[p], g.length, future);
      turn(mean.data(), g, p, by);
      for (std::uint32_t j = 0; j < g.n_queries; ++j) turn(&rows[std::size_t{j} * g.d_k], g, p, by);
    }
  }
};

}  // namespace moekv::evict
