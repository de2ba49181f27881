// What a rule with `score_group` sees of a whole group at once, and the arithmetic that such rules share. Host only: on a device these rules run
// through staging. The engine asks for scores once for every KV head of the group and reduces them as `eviction.head_reducer` says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "core/math.hpp"
#include "rules/evict/rule.hpp"
#include "rules/evict/vector.hpp"

namespace moekv::evict {

/// What a rule reads besides the states of entries: rows of the store, and the newest queries that this owner got for the group's request.
struct GroupReads {
  bool keys = false, values = false;
  std::uint32_t queries = 0;
};

/// Live entries of one group in order of position, as one KV head sees them. Copies of a token are entries of their own.
struct GroupView {
  std::uint32_t n = 0;                             // entries
  std::uint32_t length = 0;                        // tokens of the request
  std::uint32_t d_k = 0, d_v = 0;
  std::uint32_t n_queries = 0, q_group = 1;        // queries; query heads of the KV head
  float scale = 1;                                 // of logits
  const std::uint32_t* positions = nullptr;        // [n]
  const std::uint32_t* pages = nullptr;            // [n] number of the entry's page, counted within the group
  const float* states = nullptr;                   // [n]
  const float *keys = nullptr, *values = nullptr;  // [n][d]: what attention would read, in sealed pages what the codec gives back
  const float* queries = nullptr;                  // [n_queries][q_group][d_k], oldest first
  const std::uint32_t* query_positions = nullptr;  // [n_queries]
  const double* rope_turns = nullptr;              // [rope_pairs] turns per position of channel rope_first + i with its partner
  std::uint32_t rope_pairs = 0, rope_first = 0;

  [[nodiscard]] const float* key(std::uint32_t i) const { return keys + std::size_t{i} * d_k; }
  [[nodiscard]] const float* value(std::uint32_t i) const { return values + std::size_t{i} * d_v; }
  [[nodiscard]] const float* query(std::uint32_t j, std::uint32_t h) const { return queries + (std::size_t{j} * q_group + h) * d_k; }
  /// Entries at positions below `position`.
  [[nodiscard]] std::uint32_t before(std::uint32_t position) const {
    std::uint32_t i = 0;
    while (i < n && positions[i] < position) ++i;
    return i;
  }
  /// Entries that are not among the last `window` tokens of the request.
  [[nodiscard]] std::uint32_t prefix(std::uint32_t window) const { return before(length > window ? length - window : 0); }
};

/// Score of entries that a rule does not rank: they go after all others.
inline constexpr float goes_last = 1e30F;

/// Softmax in place; a value of -infinity gets 0, as all do where nothing else is there.
inline void softmax(float* x, std::uint32_t n) {
  float most = -std::numeric_limits<float>::infinity(), sum = 0;
  for (std::uint32_t i = 0; i < n; ++i) most = x[i] > most ? x[i] : most;
  for (std::uint32_t i = 0; i < n; ++i) {
    x[i] = x[i] > -std::numeric_limits<float>::infinity() ? exp_fixed(x[i] - most) : 0.0F;
    sum += x[i];
  }
  for (std::uint32_t i = 0; i < n && sum > 0; ++i) x[i] /= sum;
}

/// Mean or maximum of a window of `kernel` neighbours around value i of n; the mean counts what lies outside as 0.
[[nodiscard]] inline float mean_around(const float* x, std::uint32_t n, std::uint32_t i, std::uint32_t kernel) {
  const std::uint32_t half = kernel / 2, begin = i > half ? i - half : 0, end = i + half + 1 < n ? i + half + 1 : n;
  float sum = 0;
  for (std::uint32_t j = begin; j < end; ++j) sum += x[j];
  return sum / static_cast<float>(2 * half + 1);
}
[[nodiscard]] inline float most_around(const float* x, std::uint32_t n, std::uint32_t i, std::uint32_t kernel) {
  const std::uint32_t half = kernel / 2, begin = i > half ? i - half : 0, end = i + half + 1 < n ? i + half + 1 : n;
  float most = x[i];
  for (std::uint32_t j = begin; j < end; ++j) most = x[j] > most ? x[j] : most;
  return most;
}

/// Logits of query j, head h over entries [0, n); -infinity for those that it stands before.
inline void logits_of(const GroupView& g, std::uint32_t j, std::uint32_t h, std::uint32_t n, float* out) {
  for (std::uint32_t i = 0; i < n; ++i)
    out[i] = g.positions[i] <= g.query_positions[j] ? g.scale * dot(g.query(j, h), g.key(i), g.d_k) : -std::numeric_limits<float>::infinity();
}

}  // namespace moekv::evict
