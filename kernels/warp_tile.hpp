// Tiles of 16 slots as warps take them: what shared memory holds, and which channel stands where in the fragments of tensor-core products.
#pragma once

#include "launches.hpp"
#include "rules/codec/row.hpp"

namespace moekv::kernels {

inline constexpr std::uint32_t warp_tile = 16;  // slots
inline constexpr std::uint32_t n_warps = block_threads / 32;
inline constexpr std::uint32_t warp_stages = 2;  // tiles that a warp has in shared memory; three leave room for fewer blocks
inline constexpr std::uint32_t row_pad = 16;     // bytes between rows of shared memory: rows of a fragment fall into different banks

/// Row widths that a kernel is made for; one KV head with up to eight query heads.
template <ElementFormat e, std::uint32_t k, std::uint32_t v>
struct WarpShape {
  static constexpr ElementFormat element = e;
  static constexpr std::uint32_t d_k = k, d_v = v, heads = 8;
  static constexpr std::uint32_t out_stride = v + 4;  // floats between heads when warps are merged
};

/// What a block shares: the queries as fragments, and what is left of each warp in the end.
template <class Shape>
struct WarpShared {
  std::uint32_t q[Shape::d_k / 16][32][2];
  float q_sum[Shape::heads];
  float m[n_warps][Shape::heads], l[n_warps][Shape::heads], zero[n_warps][Shape::heads];
  float share[n_warps][Shape::heads];  // of a warp's sums in the block's

  [[nodiscard]] MOEKV_HD float largest_m(std::uint32_t head) const {
    float largest = m[0][head];
    for (std::uint32_t w = 1; w < n_warps; ++w) largest = m[w][head] > largest ? m[w][head] : largest;
    return largest;
  }
};

/// What a block needs of a plane, taken from memory once.
struct WarpPlane {
  std::uint64_t codes, meta;
  std::uint32_t row_bytes, meta_bytes;
  std::uint32_t row_shift;  // log2 of the 16-byte pieces of a row
  ElementFormat element;
  ScaleScheme scale;
  bool has_zero;
  float head_scale;
};
[[nodiscard]] MOEKV_HD WarpPlane warp_plane(const PlaneLayout& p) {
  WarpPlane plane{p.codes, p.meta, p.row_bytes, p.meta_bytes, 0, p.format.element, p.format.scale, p.format.zero_point, p.format.head_scale};
  while ((32U << plane.row_shift) <= p.row_bytes) ++plane.row_shift;
  return plane;
}

/// Scale and zero of a row, of which `word` is where they begin.
[[nodiscard]] MOEKV_HD RowScale scale_of(const WarpPlane& plane, std::uint32_t word, std::uint32_t slot) {
  if (plane.scale == ScaleScheme::none) return {};
  if (plane.scale == ScaleScheme::head) return {plane.head_scale, 0.0F};
  const auto at = static_cast<std::uint32_t>(plane.meta + slot * plane.meta_bytes) % 4;
  return {float_from_fp16(static_cast<std::uint16_t>(word >> (8 * at))),
          plane.has_zero ? float_from_fp16(static_cast<std::uint16_t>(word >> 16)) : 0.0F};
}

/// What is known of the slots of a tile, behind its rows.
struct TileSlots {
  std::uint32_t meta[2][warp_tile];  // words in which the metadata of a row of K and of V begins
  std::uint32_t live;                // bit s: slot s is read
  std::uint32_t n, first_slot;       // slots that there are, and the place of the first among the task's
  std::uint32_t unused;
};

[[nodiscard]] MOEKV_HD constexpr std::uint32_t stage_bytes(std::uint32_t k_row_bytes, std::uint32_t v_row_bytes) {
  return warp_tile * (k_row_bytes + v_row_bytes + 2 * row_pad) + static_cast<std::uint32_t>(sizeof(TileSlots));
}

/// Shared memory of a block.
template <class Shape>
[[nodiscard]] constexpr std::uint64_t warp_shared_bytes(std::uint32_t k_row_bytes, std::uint32_t v_row_bytes) {
  const std::uint64_t tiles = std::uint64_t{n_warps} * warp_stages * stage_bytes(k_row_bytes, v_row_bytes);
  const std::uint64_t sums = std::uint64_t{n_warps} * Shape::heads * Shape::out_stride * sizeof(float);
  return sizeof(WarpShared<Shape>) + (tiles > sums ? tiles : sums);
}

/// How the codes of a row come out of its words: as they are, two pairs of bytes, four pairs of nibbles.
enum class CodeWidth : std::uint8_t { raw, bytes, nibbles };
[[nodiscard]] MOEKV_HD constexpr CodeWidth code_width(ElementFormat f) {
  return f == ElementFormat::int4 ? CodeWidth::nibbles : f == ElementFormat::int8 || f == ElementFormat::fp8_e4m3 ? CodeWidth::bytes : CodeWidth::raw;
}
/// Products that 32 bytes of each of 16 rows serve.
[[nodiscard]] MOEKV_HD constexpr std::uint32_t products_of(ElementFormat f) {
  return code_width(f) == CodeWidth::raw ? 1 : code_width(f) == CodeWidth::bytes ? 2 : 4;
}

/// Channel of K at place kk of product `step`.
[[nodiscard]] MOEKV_HD constexpr std::uint32_t k_channel(CodeWidth w, std::uint32_t step, std::uint32_t kk) {
  const std::uint32_t lane = kk % 8 / 2, low = kk % 2, upper = kk / 8;
  if (w == CodeWidth::raw) return 16 * step + kk;
  if (w == CodeWidth::bytes) return 16 * step + 4 * lane + 2 * upper + low;
  return 32 * (step / 2) + 8 * lane + 4 * low + 2 * (step % 2) + upper;
}

/// Channel of V in row `row` of product m.
[[nodiscard]] MOEKV_HD constexpr std::uint32_t v_channel(CodeWidth w, std::uint32_t m, std::uint32_t row) {
  const std::uint32_t lane = row % 8, upper = row / 8;
  if (w == CodeWidth::raw) return 16 * m + row;
  if (w == CodeWidth::bytes) return 16 * m + 2 * lane + upper;
  return 32 * (m / 2) + 4 * lane + 2 * (m % 2) + upper;
}

}  // namespace moekv::kernels
