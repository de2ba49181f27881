// Codes of 2 to 8 bits packed little-endian: element 0 in the least significant bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/hd.hpp"

namespace moekv {

/// Ors code i of `bits` bits into a row that was zeroed.
MOEKV_HD void put_code(std::byte* codes, std::uint32_t i, std::uint32_t bits, std::uint32_t code) {
  const std::uint32_t bit = i * bits;
  const std::uint32_t shifted = (code & ((1U << bits) - 1U)) << (bit % 8);
  codes[bit / 8] |= static_cast<std::byte>(shifted & 0xFFU);
  if (bit % 8 + bits > 8) codes[bit / 8 + 1] |= static_cast<std::byte>(shifted >> 8);
}

[[nodiscard]] MOEKV_HD std::uint32_t take_code(const std::byte* codes, std::uint32_t i, std::uint32_t bits) {
  const std::uint32_t bit = i * bits;
  auto window = static_cast<std::uint32_t>(codes[bit / 8]);
  if (bit % 8 + bits > 8) window |= static_cast<std::uint32_t>(codes[bit / 8 + 1]) << 8;
  return window >> (bit % 8) & ((1U << bits) - 1U);
}

}  // namespace moekv
