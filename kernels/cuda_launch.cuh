// One kernel for every body: builds the block and hands it over.
#pragma once

#include <algorithm>

#include "cuda_block.cuh"
#include "cuda_check.hpp"
#include "cuda_launch.hpp"

namespace moekv::kernels {

extern __shared__ __align__(16) std::byte shared_memory[];

/// Blocks of a body that shall fit a multiprocessor by their registers: its `blocks`, or 1.
template <class Body>
constexpr unsigned blocks_of() {
  if constexpr (requires { Body::blocks; }) {
    return Body::blocks;
  } else {
    return 1;
  }
}

/// Threads of a block: its body's `threads`, or block_threads.
template <class Body>
constexpr unsigned threads_of() {
  if constexpr (requires { Body::threads; }) {
    return Body::threads;
  } else {
    return block_threads;
  }
}

/// `Body` has a type Work and run(block, work).
template <class Body>
__global__ void __launch_bounds__(threads_of<Body>(), blocks_of<Body>()) run_blocks(const __grid_constant__ typename Body::Work work) {
  if (work.count != nullptr && blockIdx.x >= *work.count) return;
  CudaBlock<threads_of<Body>()> block(shared_memory);
  Body::run(block, work);
}

/// `n` blocks of threads with `shared_bytes` of shared memory each.
template <class Body>
void launch_blocks(std::uint32_t n, std::uint64_t shared_bytes, const typename Body::Work& work, cudaStream_t stream) {
  constexpr std::uint64_t without_asking = 48 << 10;
  static std::uint64_t most = without_asking;  // one device a process
  if (shared_bytes > most) {
    check(cudaFuncSetAttribute(run_blocks<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
    most = shared_bytes;
  }
  run_blocks<Body><<<n, threads_of<Body>(), shared_bytes, stream>>>(work);
  check(cudaGetLastError());
}

}  // namespace moekv::kernels
