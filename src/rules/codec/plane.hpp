// Encodes and decodes the rows of one plane of a page (one KV head, mapped values), with scales per row or per channel over a group of tokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/hd.hpp"
#include "rules/codec/row.hpp"

namespace moekv {

/// Encodes n rows x[n][width] into the code plane and the metadata plane of a page. A group of tokens that n cuts short is scaled by its rows.
MOEKV_HD void encode_plane(const PlaneFormat& f, const float* x, std::uint32_t n, std::uint32_t width, std::byte* codes, std::byte* meta) {
  const std::uint32_t bits = element_bits(f.element);
  const std::size_t row_bytes = (std::size_t{width} * bits + 7) / 8;
  if (f.scale != ScaleScheme::channel_group) {
    const std::uint32_t row_meta = row_meta_bytes(f, width);
    for (std::uint32_t t = 0; t < n; ++t) {
      encode_row(f, x + std::size_t{t} * width, width, codes + t * row_bytes, row_meta == 0 ? nullptr : meta + std::size_t{t} * row_meta);
    }
    return;
  }
  for (std::size_t i = 0; i < n * row_bytes; ++i) codes[i] = std::byte{0};
  for (std::uint32_t first = 0; first < n; first += f.group) {
    const std::uint32_t rows = n - first < f.group ? n - first : f.group;
    for (std::uint32_t c = 0; c < width; ++c, meta += scale_bytes(f)) {
      const float* column = x + std::size_t{first} * width + c;
      const RowScale s = fit_scale(f, column, rows, width);
      store_scale(f, s, meta);
      for (std::uint32_t t = 0; t < rows; ++t) put_code(codes + (first + t) * row_bytes, c, bits, encode_value(f, s, column[std::size_t{t} * width]));
    }
  }
}

/// Decodes the row of `slot` into out[0..width).
MOEKV_HD void decode_slot(const PlaneFormat& f, const std::byte* codes, const std::byte* meta, std::uint32_t slot, std::uint32_t width, float* out) {
  const std::uint32_t bits = element_bits(f.element);
  const std::byte* row = codes + slot * ((std::size_t{width} * bits + 7) / 8);
  if (f.scale != ScaleScheme::channel_group) {
    decode_row(f, row, meta + std::size_t{slot} * row_meta_bytes(f, width), width, out);
    return;
  }
  meta += std::size_t{slot / f.group} * width * scale_bytes(f);
  for (std::uint32_t c = 0; c < width; ++c, meta += scale_bytes(f)) {
    const RowScale s = load_scale(f, meta);
    out[c] = code_value(f, take_code(row, c, bits)) * s.scale + s.zero;
  }
}

/// Value c of the row of `slot`: what decode_slot writes to out[c].
MOEKV_HD float decode_value(const PlaneFormat& f, const std::byte* codes, const std::byte* meta, std::uint32_t slot, std::uint32_t width, std::uint32_t c) {
  const std::uint32_t bits = element_bits(f.element);
  const std::byte* row = codes + slot * ((std::size_t{width} * bits + 7) / 8);
  if (f.scale == ScaleScheme::none && bits >= 16) return load_raw(f.element, row, c);
  std::size_t at = 0;
  if (f.scale == ScaleScheme::channel_group) {
    at = (std::size_t{slot / f.group} * width + c) * scale_bytes(f);
  } else {
    at = std::size_t{slot} * row_meta_bytes(f, width) + (f.scale == ScaleScheme::token_group ? c / f.group * scale_bytes(f) : 0U);
  }
  const RowScale s = load_scale(f, meta + at);
  return code_value(f, take_code(row, c, bits)) * s.scale + s.zero;
}

}  // namespace moekv
