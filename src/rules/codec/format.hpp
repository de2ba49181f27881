// The codec algebra: map x element format x scale scheme (+ centre) of a plane, and the byte layout of a page block (compression.md 3, 4, 8).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "core/hd.hpp"

namespace moekv {

/// How one number is stored. `e2m1` is FP4; `lloydN` are the N-bit Lloyd-Max levels of a normal distribution.
enum class ElementFormat : std::uint8_t { fp32, bf16, fp16, fp8_e4m3, int8, int4, fp8_e5m2, int3, int2, e2m1, lloyd4, lloyd3, lloyd2 };
/// `none`: stored values are the numbers. `head`: one fp32 scale per head, fixed for the run. `token`: per (token, head).
/// `token_group`: per (token, `group` channels). `channel_group`: per (channel, `group` tokens of a page). The last three lie in the page's metadata.
enum class ScaleScheme : std::uint8_t { none, head, token, token_group, channel_group };
/// How a scale of a token or token_group is stored; the other schemes use fp16.
enum class ScaleCode : std::uint8_t { fp16, e4m3, e8m0 };
/// The linear map before quantisation. `select` keeps some channels, `pool` means of adjacent ones, `basis` multiplies by a matrix, `diag` divides
/// every channel by a number of its own. `codebook` is not linear: values are numbers of centroids (rules/codec/codebook.hpp).
enum class MapKind : std::uint8_t { identity, hadamard, pool, select, basis, diag, codebook };
/// How the table of a map is made: first channels; largest mean square; largest mean square times that of the queries; principal components;
/// the rank that is best for logits; a file; largest |value| of each channel to the power alpha, and the same with the larger of RoPE partners for
/// both (compression.md 4, QServe); k-means centroids.
enum class TableFit : std::uint8_t { none, crop, magnitude, think, pca, kq_svd, loaded, smooth, smooth_pairs, kmeans };
/// Who shares a table: nobody (it lies in the page), the pages of one (request, layer, shard, head group), or the run's pages of one layer.
enum class TableScope : std::uint8_t { page, sequence, run };
/// Which plane of an entry.
enum class Role : std::uint8_t { k, v };
constexpr auto enum_names(Role) {
  return std::array<std::string_view, 2>{"k", "v"};
}

/// How one plane (K or V) is stored. Trivially copyable; the catalogue's codecs each yield one per role.
struct PlaneFormat {
  ElementFormat element = ElementFormat::bf16;
  ScaleScheme scale = ScaleScheme::none;
  bool zero_point = false;   // asymmetric: (scale, zero) pair instead of scale
  float head_scale = 1.0F;   // ScaleScheme::head, and the tensor scale of ScaleCode::e4m3
  std::uint16_t group = 0;   // channels or tokens of a scale
  ScaleCode scale_code = ScaleCode::fp16;
  bool four_over_six = false;  // ScaleCode::e4m3: also tries the scale that puts the largest value on 4 instead of 6
  MapKind map = MapKind::identity;
  TableFit fit = TableFit::none;
  TableScope scope = TableScope::sequence;
  bool centre = false;       // a channel mean is subtracted before the map
  std::uint16_t width = 0;   // channels after the map; 0 = as many as before. MapKind::pool: adjacent channels of one mean
  float alpha = 0.0F;        // TableFit::smooth, smooth_pairs

  [[nodiscard]] bool raw() const { return scale == ScaleScheme::none && map == MapKind::identity && element <= ElementFormat::fp16; }
  /// True where a map or centre is data: made from what is stored, or loaded.
  [[nodiscard]] constexpr bool has_table() const { return centre || map >= MapKind::select; }
  [[nodiscard]] constexpr bool mapped() const { return centre || map != MapKind::identity; }
  friend bool operator==(const PlaneFormat&, const PlaneFormat&) = default;
};

[[nodiscard]] constexpr std::uint32_t element_bits(ElementFormat f) {
  switch (f) {
    case ElementFormat::fp32: return 32;
    case ElementFormat::bf16:
    case ElementFormat::fp16: return 16;
    case ElementFormat::fp8_e4m3:
    case ElementFormat::fp8_e5m2:
    case ElementFormat::int8: return 8;
    case ElementFormat::int3:
    case ElementFormat::lloyd3: return 3;
    case ElementFormat::int2:
    case ElementFormat::lloyd2: return 2;
    default: return 4;
  }
}
/// Integer codes: value = code * scale + zero.
[[nodiscard]] constexpr bool is_integer(ElementFormat f) {
  return f == ElementFormat::int8 || f == ElementFormat::int4 || f == ElementFormat::int3 || f == ElementFormat::int2;
}
[[nodiscard]] constexpr bool is_lloyd(ElementFormat f) { return f >= ElementFormat::lloyd4; }

/// Values stored of a row of d channels.
[[nodiscard]] constexpr std::uint32_t stored_width(const PlaneFormat& f, std::uint32_t d) {
  if (f.map == MapKind::pool) return (d + f.width - 1) / f.width;
  return f.width == 0 || f.width > d ? d : f.width;
}
/// Bytes of codes of one row of d values.
[[nodiscard]] constexpr std::uint32_t code_bytes(const PlaneFormat& f, std::uint32_t d) { return (stored_width(f, d) * element_bits(f.element) + 7) / 8; }
/// Bytes of one scale in the metadata, with its zero where it has one.
[[nodiscard]] constexpr std::uint32_t scale_bytes(const PlaneFormat& f) {
  return (f.scale_code == ScaleCode::fp16 ? 2U : 1U) + (f.zero_point ? 2U : 0U);
}
/// Bytes of metadata (scales, zeros) that a row of `width` stored values has for itself.
[[nodiscard]] constexpr std::uint32_t row_meta_bytes(const PlaneFormat& f, std::uint32_t width) {
  if (f.scale == ScaleScheme::token) return scale_bytes(f);
  return f.scale == ScaleScheme::token_group ? (width + f.group - 1) / f.group * scale_bytes(f) : 0U;
}
/// The same of a row of d channels.
[[nodiscard]] constexpr std::uint32_t meta_bytes(const PlaneFormat& f, std::uint32_t d) { return row_meta_bytes(f, stored_width(f, d)); }
/// Bytes of metadata of `slots` rows.
[[nodiscard]] constexpr std::uint64_t plane_meta_bytes(const PlaneFormat& f, std::uint32_t d, std::uint32_t slots) {
  if (f.scale == ScaleScheme::channel_group) return std::uint64_t{(slots + f.group - 1) / f.group} * stored_width(f, d) * scale_bytes(f);
  return std::uint64_t{slots} * meta_bytes(f, d);
}
/// Bytes of a plane's table: fp16 centre [d], then 16-bit channel numbers [width], fp16 matrices [width][d], fp16 divisors [d] or
/// fp16 centroids [d][256] (rules/codec/map.hpp).
[[nodiscard]] constexpr std::uint64_t table_bytes(const PlaneFormat& f, std::uint32_t d) {
  const std::uint64_t width = stored_width(f, d);
  const bool two_matrices = f.fit == TableFit::kq_svd || f.fit == TableFit::loaded;
  std::uint64_t values = f.centre ? d : 0;
  if (f.map == MapKind::select || f.map == MapKind::diag) values += width;
  if (f.map == MapKind::basis) values += width * d * (two_matrices ? 2 : 1);
  if (f.map == MapKind::codebook) values += std::uint64_t{256} * d;
  return 2 * values;
}
/// True where attention reads the codes themselves; the rows of other formats are decoded to a raw staging page first.
[[nodiscard]] constexpr bool reads_codes(const PlaneFormat& f) {
  if (f.scale == ScaleScheme::none) return f.element <= ElementFormat::fp16;
  if (f.scale != ScaleScheme::head && f.scale != ScaleScheme::token) return false;
  if (f.element == ElementFormat::fp8_e4m3) return !f.zero_point;
  return f.element == (f.zero_point ? ElementFormat::int4 : ElementFormat::int8);
}

/// One page block holds P slots of one head group: for each KV head [K codes | V codes | K meta | V meta | K table | V table], padded to 128 bytes a
/// head. Only tables of TableScope::page lie in the page.
struct BlockFormat {
  PlaneFormat k, v;
  std::uint32_t page_slots = 64;  // P
  std::uint32_t n_kv_heads = 1;   // of the head group
  std::uint32_t d_k = 0, d_v = 0;
  bool latent = false;            // MLA: one plane of d_k values, V is its first d_v channels; `v` is unused
  bool bounds = false;            // smallest and largest stored key by channel and KV head are kept, beside the blocks
  ElementFormat bounds_element = ElementFormat::bf16;  // of the bounds: that of the raw keys, so they are exact

  /// The first channel of K that RoPE turns.
  [[nodiscard]] constexpr std::uint32_t first_rotated() const { return latent ? d_v : 0; }

  [[nodiscard]] constexpr std::uint64_t k_codes() const { return 0; }
  [[nodiscard]] constexpr std::uint64_t v_codes() const { return std::uint64_t{page_slots} * code_bytes(k, d_k); }
  [[nodiscard]] constexpr std::uint64_t k_meta() const { return v_codes() + (latent ? 0 : std::uint64_t{page_slots} * code_bytes(v, d_v)); }
  [[nodiscard]] constexpr std::uint64_t v_meta() const { return k_meta() + plane_meta_bytes(k, d_k, page_slots); }
  [[nodiscard]] constexpr std::uint64_t k_table() const { return v_meta() + (latent ? 0 : plane_meta_bytes(v, d_v, page_slots)); }
  [[nodiscard]] constexpr std::uint64_t v_table() const { return k_table() + (k.scope == TableScope::page ? table_bytes(k, d_k) : 0); }
  [[nodiscard]] constexpr std::uint64_t head_bytes() const {
    const std::uint64_t bytes = v_table() + (!latent && v.scope == TableScope::page ? table_bytes(v, d_v) : 0);
    return (bytes + 127) / 128 * 128;
  }
  [[nodiscard]] constexpr std::uint64_t block_bytes() const { return head_bytes() * n_kv_heads; }
  /// Bytes of a page's bounds: [head][low | high] of d_k values.
  [[nodiscard]] constexpr std::uint64_t bounds_head_bytes() const { return bounds ? std::uint64_t{2} * d_k * element_bits(bounds_element) / 8 : 0; }
  [[nodiscard]] constexpr std::uint64_t bounds_bytes() const { return bounds_head_bytes() * n_kv_heads; }
  /// Codes alone, without metadata and padding: the first of the three ratios.
  [[nodiscard]] constexpr std::uint64_t block_code_bytes() const { return k_meta() * n_kv_heads; }

  /// Bytes of the tables of all heads that pages share: [head][K | V].
  [[nodiscard]] constexpr std::uint64_t shared_k_table() const { return k.scope == TableScope::page ? 0 : table_bytes(k, d_k); }
  [[nodiscard]] constexpr std::uint64_t shared_head_bytes() const {
    return shared_k_table() + (latent || v.scope == TableScope::page ? 0 : table_bytes(v, d_v));
  }
  [[nodiscard]] constexpr std::uint64_t shared_bytes() const { return shared_head_bytes() * n_kv_heads; }
};

}  // namespace moekv
