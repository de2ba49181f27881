// Baseline kernels: grid-stride loops of 16-byte words.
#include "gpu_baselines.hpp"

#include "cuda_check.hpp"

namespace moekv::bench {
namespace {

constexpr int threads = 256;

__global__ void read_all(const uint4* from, std::uint64_t n, unsigned* sink) {
  unsigned sum = 0;
  const std::uint64_t step = std::uint64_t{gridDim.x} * blockDim.x;
  std::uint64_t i = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 3 * step < n; i += 4 * step) {  // four loads under way
    const uint4 a = __ldcs(from + i), b = __ldcs(from + i + step), c = __ldcs(from + i + 2 * step), d = __ldcs(from + i + 3 * step);
    sum += a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
  }
  for (; i < n; i += step) sum += from[i].x ^ from[i].y ^ from[i].z ^ from[i].w;
  if (sum == 0x12345678U) *sink = sum;
}

__global__ void copy_all(uint4* to, const uint4* from, std::uint64_t n) {
  const std::uint64_t step = std::uint64_t{gridDim.x} * blockDim.x;
  for (std::uint64_t i = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) to[i] = from[i];
}

__global__ void nothing() {}

__global__ void fill(std::uint32_t* to, std::uint64_t n, std::uint32_t seed) {
  const std::uint64_t step = std::uint64_t{gridDim.x} * blockDim.x;
  for (std::uint64_t i = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    std::uint32_t h = static_cast<std::uint32_t>(i) * 0x9E3779B1U ^ seed;
    h = (h ^ h >> 16) * 0x85EBCA6BU;
    h = (h ^ h >> 13) * 0xC2B2AE35U;
    h ^= h >> 16;
    to[i] = (h & 0x83FF83FFU) | 0x3C003C00U;
  }
}

}  // namespace

void launch_read(const std::byte* from, std::uint64_t bytes, unsigned* sink, int n_blocks, cudaStream_t stream) {
  read_all<<<n_blocks, threads, 0, stream>>>(reinterpret_cast<const uint4*>(from), bytes / 16, sink);
  kernels::check(cudaGetLastError());
}
void launch_copy(std::byte* to, const std::byte* from, std::uint64_t bytes, int n_blocks, cudaStream_t stream) {
  copy_all<<<n_blocks, threads, 0, stream>>>(reinterpret_cast<uint4*>(to), reinterpret_cast<const uint4*>(from), bytes / 16);
  kernels::check(cudaGetLastError());
}
void launch_nothing(cudaStream_t stream) {
  nothing<<<1, 32, 0, stream>>>();
  kernels::check(cudaGetLastError());
}
void launch_fill(std::byte* to, std::uint64_t bytes, std::uint32_t seed, cudaStream_t stream) {
  fill<<<1024, threads, 0, stream>>>(reinterpret_cast<std::uint32_t*>(to), bytes / 4, seed);
  kernels::check(cudaGetLastError());
}

}  // namespace moekv::bench
