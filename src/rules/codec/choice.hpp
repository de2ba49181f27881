// Codecs that store pages in one of several ways: which of them a page gets when it is sealed.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/hd.hpp"

namespace moekv {

/// Ways of a codec that has several, smallest first.
inline constexpr std::uint32_t n_page_classes = 3;

/// What decides: nothing (one way), what storing the page in a class would lose, or the page's share of attention.
enum class ChooseBy : std::uint8_t { fixed, error, importance };

struct ClassChoice {
  ChooseBy by = ChooseBy::fixed;
  float max_error = 0.0F;         // of ChooseBy::error
  float low = 0.0F, high = 1.0F;  // of ChooseBy::importance
  friend bool operator==(const ClassChoice&, const ClassChoice&) = default;
};

/// Whether a page whose class would lose `error` must take a larger one, where there is one. NaN fits no class but the last.
MOEKV_HD bool needs_larger_class(const ClassChoice& choice, double error) { return !(error <= static_cast<double>(choice.max_error)); }

/// Importance of a page whose entries receive `ratio` times the attention of an average entry: 1/2 for an average page.
MOEKV_HD double importance_of(double ratio) { return ratio / (1.0 + ratio); }

/// A page that no query has looked at counts as average.
inline constexpr double unknown_importance = 0.5;

/// Class of a page by its importance in [0, 1].
MOEKV_HD std::uint32_t class_of_importance(const ClassChoice& choice, double importance) {
  if (importance < static_cast<double>(choice.low)) return 0;
  return importance < static_cast<double>(choice.high) ? n_page_classes / 2 : n_page_classes - 1;
}

namespace codec::detail {

inline constexpr std::string_view low_doc = "importance below which a page gets the smallest class; 0.5 is an average page";
inline constexpr std::string_view high_doc = "importance from which on it gets the largest";

}  // namespace codec::detail

}  // namespace moekv
