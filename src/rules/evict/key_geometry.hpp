// keydiff, lagkv, cur: rules of how keys and values lie among the others of their group. No attention.
#pragma once

#include <algorithm>
#include <numeric>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/field.hpp"
#include "rules/evict/group_view.hpp"

namespace moekv::evict {

/// Park et al. 2025: keys that point where the others do are redundant.
struct KeyDiff : ScoresState {
  static constexpr std::string_view name = "keydiff";
  static constexpr std::string_view doc = "KeyDiff: the key most like the mean direction of all keys goes";
  static constexpr std::string_view source = "KeyDiff, arXiv 2504.15364";
  static constexpr bool scores_groups = true;
  static constexpr auto params = std::tuple{};

  [[nodiscard]] static constexpr GroupReads reads() { return {.keys = true}; }
  void score_group(const GroupView& g, float* scores) const {
    std::vector<float> anchor(g.d_k, 0.0F);
    for (std::uint32_t i = 0; i < g.n; ++i) {
      const float norm = norm_of(g.key(i), g.d_k);
      for (std::uint32_t d = 0; d < g.d_k && norm > 0; ++d) anchor[d] += g.key(i)[d] / norm;
    }
    const float length = norm_of(anchor.data(), g.d_k);
    for (std::uint32_t i = 0; i < g.n; ++i) {
      const float norm = norm_of(g.key(i), g.d_k) * length;
      scores[i] = norm > 0 ? -dot(g.key(i), anchor.data(), g.d_k) / norm : 0.0F;
    }
  }
};

/// Liang et al. 2025, as kvpress has it: how much keys and values of a chunk spread in the range of the chunk that follows. A chunk is `lag`
/// resident entries; sinks, the last full chunk and what follows it have no score.
struct LagKv : ScoresState {
  static constexpr std::string_view name = "lagkv";
  static constexpr std::string_view doc = "LagKV: of each chunk the entries that spread least in the range of the next chunk go";
  static constexpr std::string_view source = "LagKV, arXiv 2504.04704";
  static constexpr bool scores_groups = true;
  std::uint32_t lag = 128, skip = 4;
  static constexpr auto params = std::tuple{Param{"lag", &LagKv::lag, "tokens", "entries of a chunk", 1, 1e6},
                                            Param{"skip", &LagKv::skip, "tokens", "first positions that are not scored and go last", 0, 1e6}};

  [[nodiscard]] static constexpr GroupReads reads() { return {.keys = true, .values = true}; }
  void score_group(const GroupView& g, float* scores) const {
    std::fill_n(scores, g.n, goes_last);
    std::vector<float> spread(lag), of_keys(lag), of_values(lag);
    std::vector<std::uint32_t> order(lag);
    for (std::uint32_t first = g.before(skip); g.n - first >= 2 * lag; first += lag) {
      spreads(g.key(first), g.d_k, of_keys);
      spreads(g.value(first), g.d_v, of_values);
      for (std::uint32_t i = 0; i < lag; ++i) spread[i] = (of_keys[i] + of_values[i]) / 2;
      std::iota(order.begin(), order.end(), 0U);
      std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return spread[a] < spread[b]; });
      for (std::uint32_t rank = 0; rank < lag; ++rank) scores[first + order[rank]] = static_cast<float>(rank) / static_cast<float>(lag);
    }
  }

 private:
  /// Softmax over a chunk of the deviation over channels of its rows in the range of the next chunk's; a channel that is constant there adds 0.
  void spreads(const float* rows, std::uint32_t d, std::vector<float>& out) const {
    std::vector<float> low(rows + std::size_t{lag} * d, rows + std::size_t{lag + 1} * d), high = low, x(d);
    for (std::uint32_t i = lag; i < 2 * lag; ++i) {
      for (std::uint32_t c = 0; c < d; ++c) {
        low[c] = std::min(low[c], rows[std::size_t{i} * d + c]);
        high[c] = std::max(high[c], rows[std::size_t{i} * d + c]);
      }
    }
    for (std::uint32_t i = 0; i < lag; ++i) {
      float mean = 0, squares = 0;
      for (std::uint32_t c = 0; c < d; ++c) {
        x[c] = high[c] > low[c] ? (rows[std::size_t{i} * d + c] - low[c]) / (high[c] - low[c]) : 0.0F;
        mean += x[c] / static_cast<float>(d);
      }
      for (std::uint32_t c = 0; c < d; ++c) squares += (x[c] - mean) * (x[c] - mean);
      out[i] = d > 1 ? sqrt_fixed(squares / static_cast<float>(d - 1)) : 0.0F;
    }
    softmax(out.data(), lag);
  }
};

/// CurDKV (Sengupta et al. 2025) without its random projection, as kvpress has it: leverage of key and value, each as a share of its window.
struct Cur : ScoresState {
  static constexpr std::string_view name = "cur";
  static constexpr std::string_view doc = "CUR: smallest product of the shares of |k|^2 and |v|^2 in a window of neighbours goes";
  static constexpr std::string_view source = "CurDKV, as in kvpress";
  static constexpr bool scores_groups = true;
  std::uint32_t window = 16, skip = 4;
  static constexpr auto params = std::tuple{Param{"window", &Cur::window, "tokens", "entries that norms are compared in", 1, 1e6},
                                            Param{"skip", &Cur::skip, "tokens", "first positions that are not scored and go last", 0, 1e6}};

  [[nodiscard]] static constexpr GroupReads reads() { return {.keys = true, .values = true}; }
  void score_group(const GroupView& g, float* scores) const {
    const auto square = [](const float* x, std::uint32_t d) { return dot(x, x, d); };
    for (std::uint32_t first = 0; first < g.n; first += window) {
      const std::uint32_t end = std::min(g.n, first + window);
      float keys = 0, values = 0;
      for (std::uint32_t i = first; i < end; ++i) {
        keys += square(g.key(i), g.d_k);
        values += square(g.value(i), g.d_v);
      }
      const float all = keys * values;
      for (std::uint32_t i = first; i < end; ++i) scores[i] = all > 0 ? square(g.key(i), g.d_k) * square(g.value(i), g.d_v) / all : 0.0F;
    }
    std::fill_n(scores, g.before(skip), goes_last);
  }
};

}  // namespace moekv::evict
