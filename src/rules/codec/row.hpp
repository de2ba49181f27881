// Encodes and decodes one row (one token of one KV head) of any format whose scales are the row's own: the reference that backends must equal.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/hd.hpp"
#include "core/math.hpp"
#include "rules/codec/element.hpp"
#include "rules/codec/format.hpp"
#include "rules/codec/lloyd.hpp"
#include "rules/codec/packing.hpp"

namespace moekv {

/// What codes mean: value = code * scale + zero.
struct RowScale {
  float scale = 1.0F;
  float zero = 0.0F;
  bool flat = false;  // when encoding: all values are equal
};

/// Scale and zero as stored at `meta`, which is read only where the format stores them.
MOEKV_HD RowScale load_scale(const PlaneFormat& f, const std::byte* meta) {
  if (f.scale == ScaleScheme::none) return {};
  if (f.scale == ScaleScheme::head) return {f.head_scale, 0.0F};
  if (f.scale_code == ScaleCode::e4m3) return {float_from_e4m3(static_cast<std::uint8_t>(*meta)) * f.head_scale, 0.0F};
  if (f.scale_code == ScaleCode::e8m0) return {float_from_e8m0(static_cast<std::uint8_t>(*meta)), 0.0F};
  return {float_from_fp16(load_u16(meta)), f.zero_point ? float_from_fp16(load_u16(meta + 2)) : 0.0F};
}

/// Largest code of a quantised format: asymmetric integers use 0..2^b-1, symmetric ones -(2^(b-1)-1)..2^(b-1)-1.
MOEKV_HD float largest_code(const PlaneFormat& f) {
  if (f.element == ElementFormat::fp8_e4m3) return e4m3_max;
  if (f.element == ElementFormat::fp8_e5m2) return 57344.0F;
  if (f.element == ElementFormat::e2m1) return 6.0F;
  const std::uint32_t bits = element_bits(f.element) - (f.zero_point ? 0U : 1U);
  return static_cast<float>((1U << bits) - 1U);
}

MOEKV_HD float nan_to_zero(float x) { return x != x ? 0.0F : x; }

/// Scale and zero for values from lo to hi, already rounded to fp16. A scale that would be 0 is 2^-24, which is the scale of values without
/// range too; the codes of flat asymmetric values are 0.
MOEKV_HD RowScale scale_of_range(const PlaneFormat& f, float lo, float hi) {
  if (f.scale == ScaleScheme::head) return {f.head_scale, 0.0F};
  lo += 0.0F;  // -0 becomes +0: the result does not depend on the order of the values
  const float range = f.zero_point ? hi - lo : (hi > -lo ? hi : -lo);
  const float scale = float_from_fp16(fp16_from_float(range / largest_code(f)));
  return {scale < fp16_min ? fp16_min : scale, f.zero_point ? float_from_fp16(fp16_from_float(lo)) : 0.0F, lo == hi};
}

/// scale_of_range of n values, NaN counting as 0; `stride` values lie between two of them.
MOEKV_HD RowScale fit_scale(const PlaneFormat& f, const float* x, std::uint32_t n, std::size_t stride = 1) {
  float lo = nan_to_zero(x[0]);
  float hi = lo;
  for (std::uint32_t i = 1; i < n; ++i) {
    const float value = nan_to_zero(x[i * stride]);
    lo = value < lo ? value : lo;
    hi = value > hi ? value : hi;
  }
  return scale_of_range(f, lo, hi);
}

/// Writes scale and zero where the format stores them in fp16.
MOEKV_HD void store_scale(const PlaneFormat& f, const RowScale& s, std::byte* meta) {
  if (f.scale == ScaleScheme::none || f.scale == ScaleScheme::head) return;
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

/// The code of x under a scale; not for Lloyd-Max, whose values are relative to the whole row.
MOEKV_HD std::uint32_t encode_value(const PlaneFormat& f, const RowScale& s, float x) {
  switch (f.element) {
    case ElementFormat::fp8_e4m3: return e4m3_from_float(x / s.scale);
    case ElementFormat::fp8_e5m2: return e5m2_from_float(x / s.scale);
    case ElementFormat::e2m1: return e2m1_from_float(x / s.scale);
    default: break;
  }
  const float highest = s.flat && f.zero_point ? 0.0F : largest_code(f);
  return static_cast<std::uint32_t>(quantise(x, s, f.zero_point ? 0.0F : -highest, highest));
}

/// What a stored code stands for before scale and zero.
MOEKV_HD float code_value(const PlaneFormat& f, std::uint32_t code) {
  switch (f.element) {
    case ElementFormat::fp8_e4m3: return float_from_e4m3(static_cast<std::uint8_t>(code));
    case ElementFormat::fp8_e5m2: return float_from_e5m2(static_cast<std::uint8_t>(code));
    case ElementFormat::e2m1: return float_from_e2m1(static_cast<std::uint8_t>(code));
    default: break;
  }
  const std::uint32_t bits = element_bits(f.element);
  if (is_lloyd(f.element)) return lloyd_level(code, bits);
  const bool negative = !f.zero_point && (code >> (bits - 1) & 1U) != 0;
  return static_cast<float>(negative ? static_cast<std::int32_t>(code) - (1 << bits) : static_cast<std::int32_t>(code));
}

namespace detail {

/// Sum of squared errors of n values in E2M1 under one scale.
MOEKV_HD float e2m1_error(const float* x, std::uint32_t n, float scale) {
  float sum = 0.0F;
  for (std::uint32_t i = 0; i < n; ++i) {
    const float value = nan_to_zero(x[i]);
    const float error = value - float_from_e2m1(e2m1_from_float(value / scale)) * scale;
    sum += error * error;
  }
  return sum;
}

/// Stored byte of the scale of one block of values (NVFP4: E4M3 over the tensor scale; MXFP4: a power of two).
MOEKV_HD std::uint8_t block_scale(const PlaneFormat& f, const float* x, std::uint32_t n) {
  float amax = 0.0F;
  for (std::uint32_t i = 0; i < n; ++i) {
    const float value = nan_to_zero(x[i]);
    amax = value > amax ? value : (-value > amax ? -value : amax);
  }
  if (f.scale_code == ScaleCode::e8m0) {
    const std::uint32_t exponent = bits_of(amax) >> 23;  // floor(log2 amax) + 127; 0 for subnormal and 0
    return static_cast<std::uint8_t>(exponent > 254U ? 252U : exponent > 2U ? exponent - 2U : 0U);  // 6 * 2^125 is finite
  }
  const std::uint8_t six = e4m3_from_float(amax / (6.0F * f.head_scale));
  if (!f.four_over_six) return six;
  const std::uint8_t four = e4m3_from_float(amax / (4.0F * f.head_scale));
  const float error_six = e2m1_error(x, n, float_from_e4m3(six) * f.head_scale);
  return e2m1_error(x, n, float_from_e4m3(four) * f.head_scale) < error_six ? four : six;
}

/// TurboQuant row: levels of the row at unit spread; the scale restores its norm exactly (norm correction).
MOEKV_HD void encode_lloyd(const PlaneFormat& f, const float* x, std::uint32_t d, std::byte* codes, std::byte* meta) {
  constexpr float largest = 1e30F;
  const std::uint32_t bits = element_bits(f.element);
  const auto value = [&](std::uint32_t i) {
    const float y = nan_to_zero(x[i]);
    return y > largest ? largest : (y < -largest ? -largest : y);
  };
  float amax = 0x1p-126F;
  for (std::uint32_t i = 0; i < d; ++i) amax = value(i) > amax ? value(i) : (-value(i) > amax ? -value(i) : amax);
  float squares = 0.0F;
  for (std::uint32_t i = 0; i < d; ++i) squares += (value(i) / amax) * (value(i) / amax);
  const float spread = sqrt_fixed(squares / static_cast<float>(d));  // of x / amax
  float levels = 0.0F;
  for (std::uint32_t i = 0; i < d; ++i) {
    const std::uint32_t code = lloyd_code(spread > 0.0F ? value(i) / amax / spread : 0.0F, bits);
    put_code(codes, i, bits, code);
    levels += lloyd_level(code, bits) * lloyd_level(code, bits);
  }
  store_u16(meta, fp16_from_float(squares > 0.0F ? sqrt_fixed(squares / levels) * amax : 0.0F));
}

}  // namespace detail

/// Encodes width = stored_width(f, ...) values into their codes at `codes` and the row's metadata at `meta` (null where there is none).
/// `width` is what the map has left of the row; formats with ScaleScheme::channel_group are encoded by the plane (plane.hpp).
MOEKV_HD void encode_row(const PlaneFormat& f, const float* x, std::uint32_t width, std::byte* codes, std::byte* meta) {
  const std::uint32_t bits = element_bits(f.element);
  if (f.scale == ScaleScheme::none && bits >= 16) {
    for (std::uint32_t i = 0; i < width; ++i) store_raw(f.element, codes, i, x[i]);
    return;
  }
  for (std::uint32_t i = 0; i < (width * bits + 7) / 8; ++i) codes[i] = std::byte{0};
  if (is_lloyd(f.element)) return detail::encode_lloyd(f, x, width, codes, meta);
  const std::uint32_t group = f.scale == ScaleScheme::token_group ? f.group : width;
  for (std::uint32_t first = 0; first < width; first += group) {
    const std::uint32_t n = width - first < group ? width - first : group;
    RowScale s;
    if (f.scale_code != ScaleCode::fp16) {
      *meta = static_cast<std::byte>(detail::block_scale(f, x + first, n));
      s = load_scale(f, meta);
      meta += 1;
    } else if (f.scale != ScaleScheme::none) {
      s = fit_scale(f, x + first, n);
      store_scale(f, s, meta);
      meta += f.scale == ScaleScheme::head ? 0 : scale_bytes(f);
    }
    for (std::uint32_t i = first; i < first + n; ++i) put_code(codes, i, bits, encode_value(f, s, x[i]));
  }
}

/// Encodes the values of octet i, x[8 i .. 8 i + 8), of a row of `width`, value c under scale(c): whole bytes that no other octet touches.
template <class Scale>
MOEKV_HD void encode_octet(const PlaneFormat& f, Scale&& scale, const float* x, std::uint32_t i, std::uint32_t width, std::byte* codes) {
  const std::uint32_t bits = element_bits(f.element), end = 8 * i + 8 < width ? 8 * i + 8 : width;
  for (std::uint32_t b = i * bits; b < (end * bits + 7) / 8; ++b) codes[b] = std::byte{0};
  for (std::uint32_t c = 8 * i; c < end; ++c) put_code(codes, c, bits, encode_value(f, scale(c), x[c]));
}

/// Decodes a row into out[0..width).
MOEKV_HD void decode_row(const PlaneFormat& f, const std::byte* codes, const std::byte* meta, std::uint32_t width, float* out) {
  const std::uint32_t bits = element_bits(f.element);
  if (f.scale == ScaleScheme::none && bits >= 16) {
    for (std::uint32_t i = 0; i < width; ++i) out[i] = load_raw(f.element, codes, i);
    return;
  }
  const std::uint32_t group = f.scale == ScaleScheme::token_group ? f.group : width;
  for (std::uint32_t first = 0; first < width; first += group, meta += scale_bytes(f)) {
    const RowScale s = load_scale(f, meta);
    for (std::uint32_t i = first; i < width && i < first + group; ++i) out[i] = code_value(f, take_code(codes, i, bits)) * s.scale + s.zero;
  }
}

}  // namespace moekv
