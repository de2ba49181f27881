// Numbers in texts, where the whole text is the number.
#pragma once

#include <charconv>
#include <optional>
#include <string_view>

namespace moekv {

/// The number that all of `text` is, in the notation of std::from_chars (no blanks, no '+'); none where it is anything else or T does not hold it.
template <class T>
[[nodiscard]] std::optional<T> parse_whole(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

/// Whether two texts are one value of a configuration key: they are equal, or stand for the same number (0.10 and 0.1; true is 1).
[[nodiscard]] inline bool same_value(std::string_view a, std::string_view b) {
  const auto number = [](std::string_view text) -> std::optional<double> {
    if (text == "true" || text == "false") return text == "true" ? 1 : 0;
    return parse_whole<double>(text);
  };
  if (a == b) return true;
  const auto x = number(a), y = number(b);
  return x && y && *x == *y;
}

}  // namespace moekv
