// Names of catalogue entries as gtest takes them.
#pragma once

#include <cctype>
#include <string>
#include <string_view>

namespace moekv::testing {

/// Letters and digits stay, "+" is spelled, everything else becomes "_".
[[nodiscard]] inline std::string test_name(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (c == '+')
      out += "plus";
    else
      out += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  }
  return out;
}

}  // namespace moekv::testing
