// Text of foreign files in messages: what a terminal would obey is spelt out instead.
#pragma once

#include <string>
#include <string_view>

namespace moekv {

/// `text` with control characters, and bytes that are no UTF-8, written as \n, \x1b or \u009b; characters of `kept` stay as they are.
[[nodiscard]] std::string printable(std::string_view text, std::string_view kept = {});

}  // namespace moekv
