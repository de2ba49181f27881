// What a rule of `read.select` must declare, the bounds of a page's keys that it may look at, and the choice among scored pages.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

#include "core/hd.hpp"
#include "core/math.hpp"

namespace moekv::select {

/// How many pages are read: the best by score, and the newest one besides where it is set apart.
struct Pick {
  std::uint32_t best = 0;
  bool newest = false;  // the newest page is read always and is not among the best
  friend bool operator==(const Pick&, const Pick&) = default;
};

/// How the scores of the query heads that share a page become one.
enum class HeadReducer : std::uint8_t { sum, max };
constexpr auto enum_names(HeadReducer) { return std::array<std::string_view, 2>{"sum", "max"}; }

/// What queries of the prompt read.
enum class PromptReads : std::uint8_t { dense, selected };
constexpr auto enum_names(PromptReads) { return std::array<std::string_view, 2>{"dense", "selected"}; }

/// The rule scores pages by the smallest and largest value that each channel of their keys ever had.
template <class Rule>
inline constexpr bool needs_bounds = requires { requires Rule::needs_bounds; };

/// Takes one channel of a key into its bounds. A page's bounds start with its first key and only grow while the page lives.
MOEKV_HD void widen(float k, float& low, float& high) {
  low = k < low ? k : low;
  high = k > high ? k : high;
}

/// sum over channels of max(q low, q high): no key within the bounds has a larger q.k. The sum runs in `lanes` fixed parts.
MOEKV_HD float upper_bound(const float* q, const float* low, const float* high, std::uint32_t d) {
  constexpr std::uint32_t lanes = 16;
  float part[lanes] = {};
  std::uint32_t c = 0;
  for (; c + lanes <= d; c += lanes) {
    for (std::uint32_t i = 0; i < lanes; ++i) {
      const float a = q[c + i] * low[c + i], b = q[c + i] * high[c + i];
      part[i] += a > b ? a : b;
    }
  }
  for (std::uint32_t i = 0; c + i < d; ++i) {
    const float a = q[c + i] * low[c + i], b = q[c + i] * high[c + i];
    part[i] += a > b ? a : b;
  }
  for (std::uint32_t width = lanes / 2; width > 0; width /= 2) {
    for (std::uint32_t i = 0; i < width; ++i) part[i] += part[i + width];
  }
  return part[0];
}

/// One more query head's score of a page.
MOEKV_HD float join(HeadReducer how, float so_far, float score) {
  if (how == HeadReducer::sum) return so_far + score;
  return score > so_far ? score : so_far;
}

/// How many of n pages are read.
[[nodiscard]] MOEKV_HD std::uint32_t n_chosen(const Pick& pick, std::uint32_t n) {
  const std::uint32_t apart = pick.newest && n > 0 ? 1U : 0U, rest = n - apart;
  return (pick.best < rest ? pick.best : rest) + apart;
}

/// A number that is larger where the score is; equal for equal scores, and for a score that is no number that of -infinity.
MOEKV_HD std::uint32_t rank_key(float score) {
  const std::uint32_t bits = bits_of(score == score ? score + 0.0F : -std::numeric_limits<float>::infinity());  // -0 counts as 0
  return (bits >> 31U) != 0 ? ~bits : bits | 0x80000000U;
}

/// Indices of the pages that are read, ascending. Among equal scores the lowest page wins; a score that is no number loses to all.
inline void choose_pages(const Pick& pick, std::span<const float> scores, std::uint32_t newest, std::vector<std::uint32_t>& chosen) {
  chosen.resize(scores.size());
  std::iota(chosen.begin(), chosen.end(), 0U);
  if (pick.newest && !chosen.empty()) chosen.erase(chosen.begin() + newest);
  const auto value = [&](std::uint32_t i) { return scores[i] == scores[i] ? scores[i] : -std::numeric_limits<float>::infinity(); };
  const std::size_t best = std::min<std::size_t>(pick.best, chosen.size());
  std::nth_element(chosen.begin(), chosen.begin() + static_cast<std::ptrdiff_t>(best), chosen.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return value(a) != value(b) ? value(a) > value(b) : a < b; });
  chosen.resize(best);
  if (pick.newest && !scores.empty()) chosen.push_back(newest);
  std::sort(chosen.begin(), chosen.end());
}

}  // namespace moekv::select
