// The codec algebra of the first set: element format x scale scheme, and the byte layout of a page block (compression.md sections 3, 4, 8.2).
#pragma once

#include <cstdint>
#include <string_view>

#include "core/hd.hpp"

namespace moekv {

enum class ElementFormat : std::uint8_t { fp32, bf16, fp16, fp8_e4m3, int8, int4 };
/// `none`: raw. `head`: one fp32 scale per head, fixed for the run. `token`: per (token, head) in the page's metadata plane.
enum class ScaleScheme : std::uint8_t { none, head, token };

/// How one plane (K or V) is stored. Trivially copyable; the catalogue's codecs each yield one.
struct PlaneFormat {
  ElementFormat element = ElementFormat::bf16;
  ScaleScheme scale = ScaleScheme::none;
  bool zero_point = false;   // asymmetric: (scale, zero) pair instead of scale
  float head_scale = 1.0F;   // ScaleScheme::head only

  [[nodiscard]] bool raw() const { return scale == ScaleScheme::none; }
  friend bool operator==(const PlaneFormat&, const PlaneFormat&) = default;
};

[[nodiscard]] constexpr std::uint32_t element_bits(ElementFormat f) {
  switch (f) {
    case ElementFormat::fp32: return 32;
    case ElementFormat::bf16:
    case ElementFormat::fp16: return 16;
    case ElementFormat::fp8_e4m3:
    case ElementFormat::int8: return 8;
    default: return 4;
  }
}

/// Bytes of codes of one row of d values.
[[nodiscard]] constexpr std::uint32_t code_bytes(const PlaneFormat& f, std::uint32_t d) { return (d * element_bits(f.element) + 7) / 8; }
/// Bytes of metadata (fp16 scale, fp16 zero) of one row.
[[nodiscard]] constexpr std::uint32_t meta_bytes(const PlaneFormat& f) {
  return f.scale == ScaleScheme::token ? (f.zero_point ? 4U : 2U) : 0U;
}

/// One page block holds P slots of one head group: for each KV head [K codes | V codes | K meta | V meta], padded to 128 bytes a head.
struct BlockFormat {
  PlaneFormat k, v;
  std::uint32_t page_slots = 64;  // P
  std::uint32_t n_kv_heads = 1;   // of the head group
  std::uint32_t d_k = 0, d_v = 0;
  bool latent = false;            // MLA: one plane of d_k values, V is its first d_v channels; `v` is unused

  [[nodiscard]] constexpr std::uint64_t k_codes() const { return 0; }
  [[nodiscard]] constexpr std::uint64_t v_codes() const { return std::uint64_t{page_slots} * code_bytes(k, d_k); }
  [[nodiscard]] constexpr std::uint64_t k_meta() const { return v_codes() + (latent ? 0 : std::uint64_t{page_slots} * code_bytes(v, d_v)); }
  [[nodiscard]] constexpr std::uint64_t v_meta() const { return k_meta() + std::uint64_t{page_slots} * meta_bytes(k); }
  [[nodiscard]] constexpr std::uint64_t head_bytes() const {
    const std::uint64_t bytes = v_meta() + (latent ? 0 : std::uint64_t{page_slots} * meta_bytes(v));
    return (bytes + 127) / 128 * 128;
  }
  [[nodiscard]] constexpr std::uint64_t block_bytes() const { return head_bytes() * n_kv_heads; }
};

}  // namespace moekv
