// Empirical entropy of stored codes: what an ideal entropy coder would send of them, an estimate of their size on the wire.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>

#include "rules/codec/element.hpp"
#include "rules/codec/format.hpp"
#include "rules/codec/packing.hpp"

namespace moekv {

/// Counts of code values.
using CodeCounts = std::map<std::uint32_t, std::uint64_t>;

/// Adds the codes of n rows of `width` stored values. Raw formats count their 16-bit words, fp32 two a value.
inline void count_codes(const PlaneFormat& f, const std::byte* codes, std::uint32_t n, std::uint32_t width, CodeCounts& counts) {
  const std::uint32_t bits = element_bits(f.element);
  const std::size_t row_bytes = (std::size_t{width} * bits + 7) / 8;
  for (std::uint32_t t = 0; t < n; ++t, codes += row_bytes) {
    if (bits < 16) {
      for (std::uint32_t i = 0; i < width; ++i) ++counts[take_code(codes, i, bits)];
    } else {
      for (std::size_t i = 0; i < row_bytes; i += 2) ++counts[load_u16(codes + i)];
    }
  }
}

/// Bits per counted code; 0 where there is none.
[[nodiscard]] inline double entropy_bits(const CodeCounts& counts) {
  double total = 0.0, sum = 0.0;
  for (const auto& [code, n] : counts) total += static_cast<double>(n);
  for (const auto& [code, n] : counts) sum -= static_cast<double>(n) * std::log2(static_cast<double>(n) / total);
  return total > 0 ? sum / total : 0.0;
}

}  // namespace moekv
