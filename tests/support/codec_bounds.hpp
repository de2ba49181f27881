// Rows through the encoder and decoder of a format, and how far they may move on the way (compression.md 4.1).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "rules/codec/plane.hpp"

namespace moekv::testing {

/// The format of values behind the codec's map: what element formats and scales are answerable for.
inline PlaneFormat behind_map(PlaneFormat f) {
  f.map = MapKind::identity;
  f.centre = false;
  f.width = 0;
  return f;
}

struct Encoded {
  std::vector<std::byte> codes, meta;
};

inline Encoded encode(const PlaneFormat& f, const std::vector<float>& x, std::uint32_t n = 1) {
  const auto d = static_cast<std::uint32_t>(x.size()) / n;
  Encoded e{std::vector<std::byte>(n * code_bytes(f, d) + 16, std::byte{0xAB}),
            std::vector<std::byte>(plane_meta_bytes(f, d, n) + 16, std::byte{0xAB})};
  encode_plane(f, x.data(), n, d, e.codes.data(), e.meta.data());
  return e;
}

inline std::vector<float> decode(const PlaneFormat& f, const Encoded& e, std::size_t d, std::uint32_t n = 1) {
  std::vector<float> y(d * n, std::numeric_limits<float>::quiet_NaN());
  for (std::uint32_t t = 0; t < n; ++t) decode_slot(f, e.codes.data(), e.meta.data(), t, static_cast<std::uint32_t>(d), &y[t * d]);
  return y;
}

/// Values that share a scale with value i of row t of a page x[n][d].
inline std::vector<float> scaled_with(const PlaneFormat& f, const std::vector<float>& x, std::uint32_t d, std::uint32_t t, std::uint32_t i) {
  const auto n = static_cast<std::uint32_t>(x.size()) / d;
  std::vector<float> group;
  if (f.scale == ScaleScheme::channel_group) {
    for (std::uint32_t s = t / f.group * f.group; s < n && s < (t / f.group + 1) * f.group; ++s) group.push_back(x[std::size_t{s} * d + i]);
    return group;
  }
  const std::uint32_t width = f.scale == ScaleScheme::token_group ? f.group : d;
  for (std::uint32_t c = i / width * width; c < d && c < (i / width + 1) * width; ++c) group.push_back(x[std::size_t{t} * d + c]);
  return group;
}

/// Largest code of a quantised format.
inline double largest_of(const PlaneFormat& f) {
  if (f.element == ElementFormat::fp8_e4m3) return 448.0;
  if (f.element == ElementFormat::fp8_e5m2) return 57344.0;
  if (f.element == ElementFormat::e2m1) return 6.0;
  return std::exp2(element_bits(f.element) - (f.zero_point ? 0U : 1U)) - 1;
}

/// Largest allowed |decode(encode(x)) - x| for one value (compression.md 4.1), in double, from the values that share its scale.
inline double error_bound(const PlaneFormat& f, const std::vector<float>& group, float x) {
  const auto [lo, hi] = std::minmax_element(group.begin(), group.end());
  const double amax = std::max(std::abs(*lo), std::abs(*hi));
  const double size = std::abs(static_cast<double>(x));
  if (f.element == ElementFormat::fp32) return 0.0;
  if (f.element == ElementFormat::bf16) return size * 0x1p-8;
  if (f.element == ElementFormat::fp16) return size * 0x1p-11 + 0x1p-25;
  if (f.scale_code == ScaleCode::e8m0) return amax / 2 + 0x1p-120;  // clipped from 8 to 6 quarters of amax
  if (f.scale_code == ScaleCode::e4m3) return amax / 6 * (1 + 0x1p-4) + static_cast<double>(f.head_scale) * 6 * 0x1p-10;  // half the gap from 4 to 6
  const bool fixed = f.scale == ScaleScheme::head;
  const double largest = largest_of(f), range = f.zero_point ? static_cast<double>(*hi) - *lo : amax;
  const double scale = fixed ? static_cast<double>(f.head_scale) : std::max(range / largest, 0x1p-24) * (1 + 0x1p-11);
  const double past_end = f.zero_point && x < 0 ? size : std::max(0.0, size - largest * scale);
  const double beyond = fixed ? past_end : largest * 0x1p-25;  // clipped; a scale may be a coarse fp16
  if (f.element == ElementFormat::fp8_e5m2) return (size * 0x1p-3 + scale * 0x1p-17) * 1.0001 + beyond;
  if (f.element == ElementFormat::fp8_e4m3) return (size * 0x1p-4 + scale * 0x1p-10) * 1.0001 + beyond;
  if (f.element == ElementFormat::e2m1) return scale * 1.0001 + beyond;
  const double rounded_meta = fixed ? 0.0 : largest * scale * 0x1p-11 + (f.zero_point ? std::abs(static_cast<double>(*lo)) * 0x1p-11 : 0.0);
  return scale / 2 + rounded_meta + beyond + amax * 1e-6;
}

}  // namespace moekv::testing
