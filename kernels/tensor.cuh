// The kernel of attention on tensor cores for one shape, in bf16 and fp16.
#pragma once

#include "cuda_launch.cuh"
#include "tensor_shapes.hpp"

namespace moekv::kernels {

template <class Shape>
struct Tensor {
  using Work = AttendLaunch;
  static constexpr unsigned blocks = Shape::heads == 8 ? 4 : 1;
  template <class Block>
  static __device__ void run(Block& block, const Work& work) { tensor_block<Shape>(block, work); }
};

template <template <ElementFormat> class Shape>
void launch_tensor(const AttendLaunch& work, cudaStream_t stream) {
  if (work.q_format == ElementFormat::bf16) {
    launch_blocks<Tensor<Shape<ElementFormat::bf16>>>(work.n_items, work.shared_bytes, work, stream);
  } else {
    launch_blocks<Tensor<Shape<ElementFormat::fp16>>>(work.n_items, work.shared_bytes, work, stream);
  }
}

}  // namespace moekv::kernels
