// The shapes that tensor kernels are made for, each in a source of its own: 64 and 128 channels, and the latent 576 with V in the first 512.
#pragma once

#include "latent_block.hpp"
#include "rules/codec/narrow.hpp"
#include "warp_block.hpp"

namespace moekv::kernels {

template <ElementFormat element>
using Tensor64 = WarpShape<element, 64, 64>;
template <ElementFormat element>
using Tensor128 = WarpShape<element, 128, 128>;
template <ElementFormat element>
using TensorLatent = LatentShape<element, 576, 512, 2>;

template <class Shape, class Block>
MOEKV_HD void tensor_block(Block& block, const AttendLaunch& work) {
  if constexpr (Shape::heads == 8) {
    WarpSteps<Block, Shape>(block, work).run();
  } else {
    LatentSteps<Block, Shape>(block, work).run();
  }
}

/// Query heads of an item of the shape with these dimensions; none where there is no such shape.
[[nodiscard]] constexpr std::uint32_t tensor_heads(ElementFormat q_format, std::uint32_t d_k, std::uint32_t d_v, bool latent) {
  constexpr ElementFormat any = ElementFormat::bf16;
  if (q_format != ElementFormat::bf16 && q_format != ElementFormat::fp16) return 0;
  if (latent) return d_k == 576 && d_v == 512 ? TensorLatent<any>::heads : 0;
  return d_k == d_v && (d_k == 64 || d_k == 128) ? Tensor128<any>::heads : 0;
}

/// Shared memory of a block that reads pages of this pool, which have such a shape.
[[nodiscard]] constexpr std::uint64_t tensor_bytes(const PoolLayout& pool) {
  constexpr ElementFormat any = ElementFormat::bf16;
  if (pool.latent) return sizeof(LatentShared<TensorLatent<any>>);
  if (pool.k.d == 64) return warp_shared_bytes<Tensor64<any>>(pool.k.row_bytes, pool.v.row_bytes);
  return warp_shared_bytes<Tensor128<any>>(pool.k.row_bytes, pool.v.row_bytes);
}

/// Whether a block that multiplies 16-bit values of `wide` can read the plane: see narrows_to; scales lie at whole words or are 2 bytes.
[[nodiscard]] constexpr bool tensor_reads(const PlaneLayout& plane, ElementFormat wide) {
  const bool scaled = plane.format.scale == ScaleScheme::token;
  return narrows_to(plane.format, wide) &&
         (!scaled || (plane.format.scale_code == ScaleCode::fp16 && (plane.meta_bytes == 2 || plane.meta % 4 == 0)));
}

}  // namespace moekv::kernels
