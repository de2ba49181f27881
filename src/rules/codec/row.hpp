// Encodes and decodes one row (one token of one KV head) in any PlaneFormat: the reference that every backend must equal bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/hd.hpp"
#include "rules/codec/element.hpp"
#include "rules/codec/format.hpp"

namespace moekv {

/// What codes of a row mean: value = code * scale + zero.
struct RowScale {
  float scale = 1.0F;
  float zero = 0.0F;
  bool flat = false;  // when encoding: all values of the row are equal
};

/// Scale and zero of a stored row; `meta` is read only for ScaleScheme::token.
MOEKV_HD RowScale load_scale(const PlaneFormat& f, const std::byte* meta) {
  if (f.scale == ScaleScheme::none) return {};
  if (f.scale == ScaleScheme::head) return {f.head_scale, 0.0F};
  return {float_from_fp16(load_u16(meta)), f.zero_point ? float_from_fp16(load_u16(meta + 2)) : 0.0F};
}

/// Largest code of a quantised format: asymmetric integers use 0..2^b-1, symmetric ones -(2^(b-1)-1)..2^(b-1)-1.
MOEKV_HD float largest_code(const PlaneFormat& f) {
  if (f.element == ElementFormat::fp8_e4m3) return e4m3_max;
  const std::uint32_t bits = element_bits(f.element) - (f.zero_point ? 0U : 1U);
  return static_cast<float>((1U << bits) - 1U);
}

MOEKV_HD float nan_to_zero(float x) { return x != x ? 0.0F : x; }

/// Scale and zero for a row with values from lo to hi, already rounded to fp16. A scale that would be 0 is 2^-24, which is the scale of a row without
/// range too; the codes of a flat asymmetric row are 0.
MOEKV_HD RowScale scale_of_range(const PlaneFormat& f, float lo, float hi) {
  if (f.scale == ScaleScheme::head) return {f.head_scale, 0.0F};
  lo += 0.0F;  // -0 becomes +0: the result does not depend on the order of the values
  const float range = f.zero_point ? hi - lo : (hi > -lo ? hi : -lo);
  const float scale = float_from_fp16(fp16_from_float(range / largest_code(f)));
  return {scale < fp16_min ? fp16_min : scale, f.zero_point ? float_from_fp16(fp16_from_float(lo)) : 0.0F, lo == hi};
}

/// scale_of_range of x[0..d), NaN counting as 0.
MOEKV_HD RowScale fit_scale(const PlaneFormat& f, const float* x, std::uint32_t d) {
  float lo = nan_to_zero(x[0]);
  float hi = lo;
  for (std::uint32_t i = 1; i < d; ++i) {
    const float value = nan_to_zero(x[i]);
    lo = value < lo ? value : lo;
    hi = value > hi ? value : hi;
  }
  return scale_of_range(f, lo, hi);
}

/// Writes scale and zero where the format stores them.
MOEKV_HD void store_scale(const PlaneFormat& f, const RowScale& s, std::byte* meta) {
  if (f.scale != ScaleScheme::token) return;
  store_u16(meta, fp16_from_float(s.scale));
  if (f.zero_point) store_u16(meta + 2, fp16_from_float(s.zero));
}

/// Integer code of x: nearest, ties to even, clamped.
MOEKV_HD std::int32_t quantise(float x, const RowScale& s, float lowest, float highest) {
  float code = (nan_to_zero(x) - s.zero) / s.scale;
  code = code < lowest ? lowest : code;
  code = code > highest ? highest : code;
  return static_cast<std::int32_t>(round_even(code));
}

namespace detail {

MOEKV_HD void encode_integers(const PlaneFormat& f, const RowScale& s, const float* x, std::uint32_t d, std::byte* codes) {
  const float highest = s.flat && f.zero_point ? 0.0F : largest_code(f);
  const float lowest = f.zero_point ? 0.0F : -highest;
  for (std::uint32_t i = 0; i < d; ++i) {
    const auto code = static_cast<std::uint32_t>(quantise(x[i], s, lowest, highest));
    if (f.element == ElementFormat::int8) {
      codes[i] = static_cast<std::byte>(code & 0xFFU);
    } else if ((i & 1U) == 0) {
      codes[i / 2] = static_cast<std::byte>(code & 15U);  // element 0 in the low bits
    } else {
      codes[i / 2] |= static_cast<std::byte>((code & 15U) << 4);
    }
  }
}

MOEKV_HD std::int32_t integer_code(const PlaneFormat& f, const std::byte* codes, std::uint32_t i) {
  if (f.element == ElementFormat::int8) {
    const auto byte = static_cast<std::uint8_t>(codes[i]);
    return f.zero_point ? byte : static_cast<std::int8_t>(byte);
  }
  const auto nibble = static_cast<std::int32_t>(static_cast<std::uint32_t>(codes[i / 2]) >> (4 * (i & 1U)) & 15U);
  return !f.zero_point && nibble > 7 ? nibble - 16 : nibble;
}

}  // namespace detail

/// Encodes x[0..d), d >= 1, into code_bytes(f, d) bytes at `codes` and meta_bytes(f) bytes at `meta` (null where that is 0).
MOEKV_HD void encode_row(const PlaneFormat& f, const float* x, std::uint32_t d, std::byte* codes, std::byte* meta) {
  if (f.scale == ScaleScheme::none) {
    for (std::uint32_t i = 0; i < d; ++i) store_raw(f.element, codes, i, x[i]);
    return;
  }
  const RowScale s = fit_scale(f, x, d);
  store_scale(f, s, meta);
  if (f.element == ElementFormat::fp8_e4m3) {
    for (std::uint32_t i = 0; i < d; ++i) codes[i] = static_cast<std::byte>(e4m3_from_float(x[i] / s.scale));
  } else {
    detail::encode_integers(f, s, x, d, codes);
  }
}

/// Decodes a row into out[0..d).
MOEKV_HD void decode_row(const PlaneFormat& f, const std::byte* codes, const std::byte* meta, std::uint32_t d, float* out) {
  if (f.scale == ScaleScheme::none) {
    for (std::uint32_t i = 0; i < d; ++i) out[i] = load_raw(f.element, codes, i);
    return;
  }
  const RowScale s = load_scale(f, meta);
  for (std::uint32_t i = 0; i < d; ++i) {
    const float code = f.element == ElementFormat::fp8_e4m3 ? float_from_e4m3(static_cast<std::uint8_t>(codes[i]))
                                                            : static_cast<float>(detail::integer_code(f, codes, i));
    out[i] = code * s.scale + s.zero;
  }
}

}  // namespace moekv
