// expected_attention (Devoto et al. 2025): the attention that queries to come would pay a key, if they were Gaussian with the moments of the
// recent ones, times the norm of its value.
#pragma once

#include <algorithm>
#include <cstring>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/field.hpp"
#include "rules/evict/group_view.hpp"
#include "rules/generate.hpp"

namespace moekv::evict {

/// Rows side by side, for products of each with one row after another: equal to `dot` bit for bit, and vectors in a machine's instructions.
class RowBlock {
 public:
  RowBlock(const float* rows, std::uint32_t n, std::uint32_t d) : d_(d), values_(std::size_t{(n + lanes - 1) / lanes} * lanes * d) {
    for (std::uint32_t j = 0; j < n; ++j) {
      for (std::uint32_t i = 0; i < d; ++i) values_[(std::size_t{j / lanes} * d + i) * lanes + j % lanes] = rows[std::size_t{j} * d + i];
    }
    products_.resize(d == 0 ? 0 : values_.size() / d);
  }
  /// Products of every row with x; valid until the next call.
  [[nodiscard]] const float* times(const float* x) {
    for (std::size_t first = 0; first < products_.size(); first += lanes) {
      const float* next = &values_[first * d_];
      Lanes sums{}, column;
      for (std::uint32_t i = 0; i < d_; ++i, next += lanes) {
        std::memcpy(&column, next, sizeof(column));
        sums += column * x[i];
      }
      std::memcpy(&products_[first], &sums, sizeof(sums));
    }
    return products_.data();
  }

 private:
  static constexpr std::uint32_t lanes = 16;
  using Lanes [[gnu::vector_size(lanes * sizeof(float))]] = float;
  std::uint32_t d_;
  std::vector<float> values_, products_;  // [row / lanes][d][lanes]; [row]
};

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
    const Turns turns = turns_of(g);
    for (std::uint32_t h = 0; h < g.q_group; ++h) {
      moments(g, h, turns, mean, rows);
      RowBlock deviations(rows.data(), g.n_queries, g.d_k);
      for (std::uint32_t i = 0; i < n; ++i) {
        const float* products = deviations.times(g.key(first + i));
        float variance = 0;
        for (std::uint32_t j = 0; j < g.n_queries; ++j) {
          const float x = g.scale * products[j];
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
  struct Turns {
    std::vector<CosSin> back, ahead;  // [query][pair] from the query's position to 0; [pair] the mean over the positions to come; both empty without future
  };
  [[nodiscard]] Turns turns_of(const GroupView& g) const {
    Turns turns;
    if (future == 0) return turns;
    turns.back.reserve(std::size_t{g.n_queries} * g.rope_pairs);
    turns.ahead.reserve(g.rope_pairs);
    for (std::uint32_t j = 0; j < g.n_queries; ++j) {
      for (std::uint32_t p = 0; p < g.rope_pairs; ++p) {
        const CosSin at = generate::rope_angle(g.query_positions[j], g.rope_turns[p]);
        turns.back.push_back({at.cos, -at.sin});
      }
    }
    for (std::uint32_t p = 0; p < g.rope_pairs; ++p) turns.ahead.push_back(mean_turn(g.rope_turns[p], g.length, future));
    return turns;
  }
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
  static void moments(const GroupView& g, std::uint32_t h, const Turns& turns, std::vector<float>& mean, std::vector<float>& rows) {
    const auto n_pairs = static_cast<std::uint32_t>(turns.ahead.size());
    std::fill(mean.begin(), mean.end(), 0.0F);
    for (std::uint32_t j = 0; j < g.n_queries; ++j) {
      float* row = &rows[std::size_t{j} * g.d_k];
      std::copy_n(g.query(j, h), g.d_k, row);
      for (std::uint32_t p = 0; p < n_pairs; ++p) turn(row, g, p, turns.back[std::size_t{j} * n_pairs + p]);
      for (std::uint32_t d = 0; d < g.d_k; ++d) mean[d] += row[d] / static_cast<float>(g.n_queries);
    }
    for (std::uint32_t j = 0; j < g.n_queries; ++j) {
      for (std::uint32_t d = 0; d < g.d_k; ++d) rows[std::size_t{j} * g.d_k + d] -= mean[d];
    }
    for (std::uint32_t p = 0; p < n_pairs; ++p) {
      turn(mean.data(), g, p, turns.ahead[p]);
      for (std::uint32_t j = 0; j < g.n_queries; ++j) turn(&rows[std::size_t{j} * g.d_k], g, p, turns.ahead[p]);
    }
  }
};

}  // namespace moekv::evict
