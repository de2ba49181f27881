// One kernel for every body: builds the block and hands it over.
#pragma once

#include <algorithm>

#include "cuda_block.cuh"
#include "cuda_check.hpp"
#include "cuda_launch.hpp"

namespace moekv::kernels {

extern __shared__ __align__(16) std::byte shared_memory[];

/// `Body` has a type Work and run(block, work).
template <class Body>
__global__ void __launch_bounds__(block_threads) run_blocks(const __grid_constant__ typename Body::Work work) {
  if (work.count != nullptr && blockIdx.x >= *work.count) return;
  CudaBlock block(shared_memory);
  Body::run(block, work);
}

/// `n` blocks of block_threads threads with `shared_bytes` of shared memory each.
template <class Body>
void launch_blocks(std::uint32_t n, std::uint64_t shared_bytes, const typename Body::Work& work, cudaStream_t stream) {
  constexpr std::uint64_t without_asking = 48 << 10;
  static std::uint64_t most = without_asking;  // one device a process
  if (shared_bytes > most) {
    check(cudaFuncSetAttribute(run_blocks<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
    most = shared_bytes;
  }
  run_blocks<Body><<<n, block_threads, shared_bytes, stream>>>(work);
  check(cudaGetLastError());
}

}  // namespace moekv::kernels
