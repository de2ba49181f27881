// Finds control characters in UTF-8.
#include "core/text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

namespace moekv {
namespace {

struct Character {
  std::uint32_t code = 0;
  std::size_t bytes = 0;  // 0 = no UTF-8
};

Character character_at(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i])); };
  const std::uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t n = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < n) return {};
  std::uint32_t code = lead & (0x7FU >> n);
  for (std::size_t i = 1; i < n; ++i) {
    if ((byte(i) & 0xC0U) != 0x80U) return {};
    code = code << 6U | (byte(i) & 0x3FU);
  }
  constexpr std::uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};  // that needs so many bytes
  return code < least[n] ? Character{} : Character{code, n};
}

}  // namespace

std::string printable(std::string_view text, std::string_view kept) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const Character c = character_at(text.substr(at));
    const std::size_t n = std::max<std::size_t>(1, c.bytes);
    const bool obeyed = c.bytes == 0 || c.code < 0x20 || (c.code >= 0x7F && c.code < 0xA0);
    if (!obeyed || kept.find(text[at]) != std::string_view::npos) {
      out += text.substr(at, n);
    } else if (c.code == '\n') {
      out += "\\n";
    } else if (n == 1) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[at]));
    } else {
      out += fmt::format("\\u{:04x}", c.code);
    }
    at += n;
  }
  return out;
}

}  // namespace moekv
