// One line of a JSON log.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/error.hpp"

namespace moekv {

constexpr std::size_t max_json_depth = 64;

/// The value in `text`, discarded when it is no JSON. Nesting deeper than any log needs is a UserError: messages print values recursively.
[[nodiscard]] inline nlohmann::json parse_json_line(std::string_view text, const std::string& place) {
  std::size_t depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      quoted = c != '"';
    } else if (c == '[' || c == '{') {
      if (++depth > max_json_depth) throw UserError(place, fmt::format("nested more than {} levels deep", max_json_depth));
    } else if (c == ']' || c == '}') {
      depth -= depth > 0 ? 1 : 0;
    } else {
      quoted = c == '"';
    }
  }
  return nlohmann::json::parse(text, nullptr, false);
}

}  // namespace moekv
