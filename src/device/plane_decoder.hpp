// PlaneDecoder: rows of a plane whose codes no loader takes, as floats; what decode_slot gives, without its work for every value.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

#include "rules/codec/plane.hpp"

namespace moekv {

/// Codes become values through a table, and a scale is read once for the rows that share it. One decoder for one plane: the table is kept.
class PlaneDecoder {
 public:
  /// Floats of memory for rows of up to `width` values.
  [[nodiscard]] static constexpr std::size_t size(std::uint32_t width) { return 3 * std::size_t{width}; }
  explicit PlaneDecoder(float* memory) : memory_(memory) {}

  /// Row t of `slots`, in ascending order, to out[t * stride .. + width). Equals decode_slot bit for bit.
  void decode(const PlaneFormat& f, const std::byte* codes, const std::byte* meta, std::span<const std::uint16_t> slots, std::uint32_t width,
              float* out, std::size_t stride) {
    const std::uint32_t bits = element_bits(f.element);
    if (bits > 8) {
      for (const std::uint16_t slot : slots) decode_slot(f, codes, meta, slot, width, out + slot * stride);
      return;
    }
    make_table(f, bits);
    float *scale = memory_, *zero = memory_ + width;
    auto* code = reinterpret_cast<std::uint8_t*>(memory_ + 2 * std::size_t{width});
    const std::size_t row_bytes = (std::size_t{width} * bits + 7) / 8;
    std::uint32_t scaled = std::numeric_limits<std::uint32_t>::max();  // group of tokens whose scales are there
    for (const std::uint16_t slot : slots) {
      const std::uint32_t group = f.scale == ScaleScheme::channel_group ? slot / f.group : slot;
      if (group != scaled) load_scales(f, meta, group, width, scale, zero);
      scaled = group;
      unpack(codes + slot * row_bytes, bits, width, code);
      scale_codes(code, scale, zero, width, out + slot * stride);
    }
  }

 private:
  void make_table(const PlaneFormat& f, std::uint32_t bits) {
    if (made_ && f.element == element_ && f.zero_point == zero_point_) return;
    for (std::uint32_t i = 0; i < 1U << bits; ++i) table_[i] = code_value(f, i);
    made_ = true;
    element_ = f.element;
    zero_point_ = f.zero_point;
  }

  /// Scale and zero of every channel, for a group of tokens under channel_group and one token otherwise.
  static void load_scales(const PlaneFormat& f, const std::byte* meta, std::uint32_t group, std::uint32_t width, float* scale, float* zero) {
    if (f.scale == ScaleScheme::channel_group) {
      meta += std::size_t{group} * width * scale_bytes(f);
      for (std::uint32_t c = 0; c < width; ++c, meta += scale_bytes(f)) {
        const RowScale s = load_scale(f, meta);
        scale[c] = s.scale;
        zero[c] = s.zero;
      }
      return;
    }
    meta += std::size_t{group} * row_meta_bytes(f, width);
    const std::uint32_t shared = f.scale == ScaleScheme::token_group ? f.group : width;
    for (std::uint32_t first = 0; first < width; first += shared, meta += scale_bytes(f)) {
      const RowScale s = load_scale(f, meta);
      for (std::uint32_t c = first; c < width && c < first + shared; ++c) {
        scale[c] = s.scale;
        zero[c] = s.zero;
      }
    }
  }

  /// Codes of an asymmetric integer are its values already.
  void scale_codes(const std::uint8_t* __restrict code, const float* __restrict scale, const float* __restrict zero, std::uint32_t width,
                   float* __restrict row) const {
    if (is_integer(element_) && zero_point_) {
      for (std::uint32_t c = 0; c < width; ++c) row[c] = static_cast<float>(code[c]) * scale[c] + zero[c];
    } else {
      for (std::uint32_t c = 0; c < width; ++c) row[c] = table_[code[c]] * scale[c] + zero[c];
    }
  }

  static void unpack(const std::byte* from, std::uint32_t bits, std::uint32_t width, std::uint8_t* code) {
    switch (bits) {
      case 2:
        return unpack_octets<2>(from, width, code);
      case 3:
        return unpack_octets<3>(from, width, code);
      case 4:
        return unpack_nibbles(from, width, code);
      default:
        std::memcpy(code, from, width);
    }
  }
  static void unpack_nibbles(const std::byte* __restrict from, std::uint32_t width, std::uint8_t* __restrict code) {
    for (std::uint32_t i = 0; i < width / 2; ++i) {
      const auto both = static_cast<std::uint8_t>(from[i]);
      code[2 * i] = both & 15U;
      code[2 * i + 1] = both >> 4;
    }
    if (width % 2 != 0) code[width - 1] = static_cast<std::uint8_t>(from[width / 2]) & 15U;
  }
  /// Eight codes are as many bytes as a code has bits.
  template <std::uint32_t bits>
  static void unpack_octets(const std::byte* __restrict from, std::uint32_t width, std::uint8_t* __restrict code) {
    std::uint32_t c = 0;
    for (; c + 8 <= width; c += 8, from += bits) {
      std::uint64_t packed = 0, spread = 0;  // spread: a code in each byte
      std::memcpy(&packed, from, bits);
      for (std::uint32_t j = 0; j < 8; ++j) spread |= (packed >> (j * bits) & ((1U << bits) - 1U)) << (8 * j);
      std::memcpy(code + c, &spread, 8);
    }
    for (std::uint32_t j = 0; c + j < width; ++j) code[c + j] = static_cast<std::uint8_t>(take_code(from, j, bits));
  }

  float* memory_;  // [width] scales, [width] zeros, [width] codes of a byte
  std::array<float, 256> table_;
  ElementFormat element_ = ElementFormat::fp32;
  bool zero_point_ = false, made_ = false;
};

}  // namespace moekv
