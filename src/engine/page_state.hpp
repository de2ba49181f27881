// PageState: the states of a page's tokens as one state of the page, for scores of page units.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/error.hpp"
#include "engine/run_spec.hpp"
#include "rules/select/rule.hpp"

namespace moekv {

class PageState {
 public:
  void add(float state) {
    n_ += 1;
    sum_ += state;
    most_ = std::max(most_, state);
    least_ = std::min(least_, state);
  }
  [[nodiscard]] float reduced(PageReducer reducer) const {
    switch (reducer) {
      case PageReducer::sum: return sum_;
      case PageReducer::max: return most_;
      case PageReducer::min: return least_;
      default: return sum_ / static_cast<float>(n_);
    }
  }

 private:
  std::uint32_t n_ = 0;
  float sum_ = 0, most_ = -std::numeric_limits<float>::infinity(), least_ = std::numeric_limits<float>::infinity();
};

/// Which of two units with equal scores goes first, by the positions of their first entries.
[[nodiscard]] inline bool goes_first(Ties ties, std::uint32_t a, std::uint32_t b) { return ties == Ties::newest ? a < b : a > b; }

/// A number that is smaller the sooner a unit goes: those that are not late by ascending score, then by the position of their first entry.
[[nodiscard]] inline std::uint64_t turn_key(bool late, float score, Ties ties, std::uint32_t position) {
  constexpr std::uint32_t most = 0x7FFFFFFF;
  MOEKV_EXPECT(position <= most);
  return std::uint64_t{late ? 1U : 0U} << 63U | std::uint64_t{select::rank_key(score)} << 31U | (goes_first(ties, 0, 1) ? position : most - position);
}

}  // namespace moekv
