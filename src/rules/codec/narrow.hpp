// Codes of 4 and 8 bits as 16-bit floats, exactly and in few operations: what the tensor path of attention multiplies, with scales applied afterwards.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/hd.hpp"
#include "core/math.hpp"
#include "rules/codec/element.hpp"
#include "rules/codec/format.hpp"

namespace moekv {

/// True where every code of the plane, without scale and zero, is a bf16 and an fp16: raw values of that very type, and what reads_codes names otherwise.
[[nodiscard]] constexpr bool narrows_to(const PlaneFormat& f, ElementFormat wide) {
  if (f.mapped() || wide == ElementFormat::fp32) return false;
  return f.scale == ScaleScheme::none ? f.element == wide : reads_codes(f);
}

/// A value that has no more digits than the 16-bit type.
template <ElementFormat wide>
MOEKV_HD std::uint32_t narrow_exact(float x) {
  if constexpr (wide == ElementFormat::bf16) return bits_of(x) >> 16;
  return fp16_from_float(x);
}

/// The finite number of an E4M3 code.
MOEKV_HD float narrow_e4m3(std::uint32_t code) {
  const float magnitude = float_from_bits((code & 0x7FU) << 20) * 0x1p120F;  // exponent bias 127 - 7; subnormals come out right
  return float_from_bits(bits_of(magnitude) | (code & 0x80U) << 24);
}
/// A signed byte, and an unsigned nibble: the low bits of 2^23, less what that adds.
MOEKV_HD float narrow_int8(std::uint32_t code) { return float_from_bits(0x4B000000U | ((code ^ 0x80U) & 0xFFU)) - 8388736.0F; }
MOEKV_HD float narrow_int4(std::uint32_t code) { return float_from_bits(0x4B000000U | (code & 0xFU)) - 8388608.0F; }

/// The four values of a word of 8-bit codes, or the eight of a word of nibbles, in order, as pairs of 16-bit floats, the first in the low half.
template <ElementFormat wide>
MOEKV_HD void narrow_bytes(ElementFormat element, std::uint32_t word, std::uint32_t* pairs) {
  const bool e4m3 = element == ElementFormat::fp8_e4m3;
  for (std::uint32_t i = 0; i < 2; ++i) {
    const std::uint32_t low = word >> (16 * i) & 0xFFU, high = word >> (16 * i + 8) & 0xFFU;
    pairs[i] = narrow_exact<wide>(e4m3 ? narrow_e4m3(low) : narrow_int8(low)) | narrow_exact<wide>(e4m3 ? narrow_e4m3(high) : narrow_int8(high)) << 16;
  }
}
template <ElementFormat wide>
MOEKV_HD void narrow_nibbles(std::uint32_t word, std::uint32_t* pairs) {
  for (std::uint32_t i = 0; i < 4; ++i)
    pairs[i] = narrow_exact<wide>(narrow_int4(word >> (8 * i))) | narrow_exact<wide>(narrow_int4(word >> (8 * i + 4))) << 16;
}

}  // namespace moekv
