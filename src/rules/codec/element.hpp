// Conversions between fp32 and the stored element formats: round to nearest even, saturate, NaN becomes 0 (compression.md section 3). A device has
// instructions for those that are asked for most; what they give is the same.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/hd.hpp"
#include "core/math.hpp"
#include "rules/codec/format.hpp"

namespace moekv {

inline constexpr float e4m3_max = 448.0F;
inline constexpr float fp16_max = 65504.0F;
/// Smallest positive fp16: the scale of a row without range.
inline constexpr float fp16_min = 0x1p-24F;

/// Nearest integer, ties to even, for |x| < 2^22; needs the default rounding mode.
MOEKV_HD float round_even(float x) {
  constexpr float magic = 12582912.0F;  // 1.5 * 2^23: its unit in the last place is 1
  return (x + magic) - magic;
}

/// bfloat16; beyond its range the largest finite value.
MOEKV_HD std::uint16_t bf16_from_float(float x) {
  if (x != x) return 0;
#if defined(__CUDA_ARCH__)
  std::uint16_t h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return (h & 0x7FFFU) > 0x7F7FU ? (h & 0x8000U) | 0x7F7FU : h;
#else
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  std::uint32_t rounded = (magnitude + 0x7FFFU + ((magnitude >> 16) & 1U)) >> 16;
  if (rounded > 0x7F7FU) rounded = 0x7F7FU;
  return static_cast<std::uint16_t>((bits >> 16 & 0x8000U) | rounded);
#endif
}
MOEKV_HD float float_from_bf16(std::uint16_t h) { return float_from_bits(static_cast<std::uint32_t>(h) << 16); }

/// IEEE half; beyond its range +-65504.
MOEKV_HD std::uint16_t fp16_from_float(float x) {
  if (x != x) return 0;
#if defined(__CUDA_ARCH__)
  std::uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return (h & 0x7FFFU) > 0x7BFFU ? (h & 0x8000U) | 0x7BFFU : h;
#else
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  std::uint32_t rounded = 0;
  if (magnitude < 0x38800000U) {  // below 2^-14: adding 0.5 rounds to multiples of 2^-24
    rounded = bits_of(float_from_bits(magnitude) + 0.5F) - 0x3F000000U;
  } else {
    rounded = (magnitude - (112U << 23) + 0xFFFU + ((magnitude >> 13) & 1U)) >> 13;
    if (rounded > 0x7BFFU) rounded = 0x7BFFU;
  }
  return static_cast<std::uint16_t>((bits >> 16 & 0x8000U) | rounded);
#endif
}
MOEKV_HD float float_from_fp16(std::uint16_t h) {
#if defined(__CUDA_ARCH__)
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
  return x;
#else
  const std::uint32_t sign = (h & 0x8000U) << 16;
  const std::uint32_t exponent = h >> 10 & 31U;
  const std::uint32_t mantissa = h & 0x3FFU;
  if (exponent == 0) {
    const float value = static_cast<float>(mantissa) * 0x1p-24F;
    return float_from_bits(sign | bits_of(value));
  }
  const std::uint32_t wide = exponent == 31 ? 255U : exponent + 112U;
  return float_from_bits(sign | wide << 23 | mantissa << 13);
#endif
}

/// E4M3FN: bias 7, largest 448, no infinity, NaN 0x7F (never produced here).
MOEKV_HD std::uint8_t e4m3_from_float(float x) {
  if (x != x) return 0;
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  std::uint32_t rounded = 0;
  if (magnitude < 0x3C800000U) {  // below 2^-6: adding 2^14 rounds to multiples of 2^-9
    rounded = bits_of(float_from_bits(magnitude) + 16384.0F) - 0x46800000U;
  } else {
    rounded = (magnitude - (120U << 23) + 0x7FFFFU + ((magnitude >> 20) & 1U)) >> 20;
    if (rounded > 0x7EU) rounded = 0x7EU;
  }
  return static_cast<std::uint8_t>((bits >> 24 & 0x80U) | rounded);
}
MOEKV_HD float float_from_e4m3(std::uint8_t c) {
  const std::uint32_t sign = (c & 0x80U) << 24;
  const std::uint32_t magnitude = c & 0x7FU;
  if (magnitude == 0x7FU) return float_from_bits(sign | 0x7FC00000U);
  if (magnitude < 8U) return float_from_bits(sign | bits_of(static_cast<float>(magnitude) * 0x1p-9F));
  return float_from_bits(sign | ((magnitude << 20) + (120U << 23)));
}

/// E5M2: the upper byte of fp16, largest 57344, rounded once from fp32.
MOEKV_HD std::uint8_t e5m2_from_float(float x) {
  if (x != x) return 0;
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  std::uint32_t rounded = 0;
  if (magnitude < 0x38800000U) {  // below 2^-14: adding 2^7 rounds to multiples of 2^-16
    rounded = bits_of(float_from_bits(magnitude) + 128.0F) - 0x43000000U;
  } else {
    rounded = (magnitude - (112U << 23) + 0xFFFFFU + ((magnitude >> 21) & 1U)) >> 21;
    if (rounded > 0x7BU) rounded = 0x7BU;
  }
  return static_cast<std::uint8_t>((bits >> 24 & 0x80U) | rounded);
}
MOEKV_HD float float_from_e5m2(std::uint8_t c) { return float_from_fp16(static_cast<std::uint16_t>(c << 8)); }

/// E2M1: {0, .5, 1, 1.5, 2, 3, 4, 6} and their negatives, 4 bits.
MOEKV_HD std::uint8_t e2m1_from_float(float x) {
  if (x != x) return 0;
  const float a = x < 0.0F ? -x : x;
  // NOLINTNEXTLINE(readability-implicit-bool-conversion): how many hold
  const int level = (a > 0.25F) + (a >= 0.75F) + (a > 1.25F) + (a >= 1.75F) + (a > 2.5F) + (a >= 3.5F) + (a > 5.0F);
  return static_cast<std::uint8_t>(level | (x < 0.0F ? 8 : 0));
}
MOEKV_HD float float_from_e2m1(std::uint8_t c) {
  const std::uint32_t level = c & 7U;
  const float a = level < 2 ? 0.5F * static_cast<float>(level) : float_from_bits((level + 252U) << 22);  // e + 126 above one mantissa bit
  return (c & 8U) != 0 ? -a : a;
}

/// E8M0: 2^(c - 127), c <= 254.
MOEKV_HD float float_from_e8m0(std::uint8_t c) { return c == 0 ? 0x1p-127F : float_from_bits(static_cast<std::uint32_t>(c) << 23); }

/// Little-endian 16-bit access to packed rows, which need no alignment.
MOEKV_HD std::uint16_t load_u16(const std::byte* p) {
  return static_cast<std::uint16_t>(static_cast<unsigned>(p[0]) | static_cast<unsigned>(p[1]) << 8);
}
MOEKV_HD void store_u16(std::byte* p, std::uint16_t value) {
  p[0] = static_cast<std::byte>(value & 0xFFU);
  p[1] = static_cast<std::byte>(value >> 8);
}

/// Element i of a row of raw values (fp32, bf16 or fp16).
MOEKV_HD float load_raw(ElementFormat format, const std::byte* row, std::uint32_t i) {
  if (format == ElementFormat::fp32) {
    return float_from_bits(load_u16(row + 4 * std::size_t{i}) | static_cast<std::uint32_t>(load_u16(row + 4 * std::size_t{i} + 2)) << 16);
  }
  const std::uint16_t half = load_u16(row + 2 * std::size_t{i});
  return format == ElementFormat::bf16 ? float_from_bf16(half) : float_from_fp16(half);
}
/// Stores x as element i of a row of raw values. fp32 is kept bit for bit.
MOEKV_HD void store_raw(ElementFormat format, std::byte* row, std::uint32_t i, float x) {
  if (format == ElementFormat::fp32) {
    store_u16(row + 4 * std::size_t{i}, static_cast<std::uint16_t>(bits_of(x) & 0xFFFFU));
    store_u16(row + 4 * std::size_t{i} + 2, static_cast<std::uint16_t>(bits_of(x) >> 16));
    return;
  }
  store_u16(row + 2 * std::size_t{i}, format == ElementFormat::bf16 ? bf16_from_float(x) : fp16_from_float(x));
}

}  // namespace moekv
