// The shapes that tensor kernels are made for, each in a source of its own: 64 and 128 channels, and the latent 576 with V in the first 512.
#pragma once

#include "tensor_block.hpp"

namespace moekv::kernels {

template <ElementFormat element>
using Tensor64 = TensorShape<element, 64, 64, 1, false>;
template <ElementFormat element>
using Tensor128 = TensorShape<element, 128, 128, 1, false>;
template <ElementFormat element>
using TensorLatent = TensorShape<element, 576, 512, 2, true>;

/// What the planner must know of the shape for these dimensions; no heads where there is none.
struct TensorFacts {
  std::uint32_t heads = 0;
  std::uint64_t shared_bytes = 0;
};
[[nodiscard]] constexpr TensorFacts tensor_facts(ElementFormat q_format, std::uint32_t d_k, std::uint32_t d_v, bool latent) {
  constexpr ElementFormat any = ElementFormat::bf16;
  if (q_format != ElementFormat::bf16 && q_format != ElementFormat::fp16) return {};
  if (d_k == 64 && d_v == 64 && !latent) return {Tensor64<any>::heads, sizeof(TensorShared<Tensor64<any>>)};
  if (d_k == 128 && d_v == 128 && !latent) return {Tensor128<any>::heads, sizeof(TensorShared<Tensor128<any>>)};
  if (d_k == 576 && d_v == 512 && latent) return {TensorLatent<any>::heads, sizeof(TensorShared<TensorLatent<any>>)};
  return {};
}

}  // namespace moekv::kernels
