// What memory gives on this device at this moment: the kernels that gpu_bench sets every other time against. All asynchronous on `stream`.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace moekv::bench {

/// Reads all of [from, from + bytes) with 16-byte loads; `sink` takes a sum that nobody looks at.
void launch_read(const std::byte* from, std::uint64_t bytes, unsigned* sink, int n_blocks, cudaStream_t stream);
/// Reads and writes `bytes`.
void launch_copy(std::byte* to, const std::byte* from, std::uint64_t bytes, int n_blocks, cudaStream_t stream);
void launch_nothing(cudaStream_t stream);
/// Random 16-bit words that are finite numbers between 2^-7 and 2 in bf16 and about 1 in fp16.
void launch_fill(std::byte* to, std::uint64_t bytes, std::uint32_t seed, cudaStream_t stream);

}  // namespace moekv::bench
