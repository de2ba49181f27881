// CudaBlock: a thread block as kernel bodies see it. Where a body says "for every thread", each thread does its own part.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "core/hd.hpp"
#include "launches.hpp"
#include "rules/codec/format.hpp"

namespace moekv::kernels {

class CudaBlock {
 public:
  using Wide = uint4;
  /// One value a thread, in registers.
  template <class T>
  class Lanes {
   public:
    __device__ T& operator[](unsigned) { return value_; }

   private:
    T value_;
  };

  __device__ explicit CudaBlock(std::byte* shared) : shared_(shared) {}

  [[nodiscard]] __device__ static constexpr unsigned n_threads() { return block_threads; }
  [[nodiscard]] __device__ std::uint32_t index() const { return blockIdx.x; }
  [[nodiscard]] __device__ std::byte* shared() const { return shared_; }

  template <class F>
  __device__ void free_each(F&& f) {
    f(threadIdx.x);
  }
  template <class F>
  __device__ void each(F&& f) {
    f(threadIdx.x);
    __syncthreads();
  }

  __device__ void largest(Lanes<float>& v, unsigned width) {
    for (unsigned distance = width / 2; distance > 0; distance /= 2) {
      const float other = __shfl_xor_sync(0xFFFFFFFFU, v[0], distance);
      v[0] = v[0] > other ? v[0] : other;
    }
  }
  __device__ void sum(Lanes<float>& v, unsigned width) {
    for (unsigned distance = width / 2; distance > 0; distance /= 2) v[0] += __shfl_xor_sync(0xFFFFFFFFU, v[0], distance);
  }

  static __device__ void store_wide(void* to, const std::uint32_t* words) { *static_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]); }

  template <class Row, class Out>
  __device__ void load_matrices(bool transposed, Row&& row, Out&& out) {
    const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row(threadIdx.x)));
    std::uint32_t(&m)[4] = out(threadIdx.x);
    if (transposed) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                   : "r"(address)
                   : "memory");
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                   : "r"(address)
                   : "memory");
    }
  }

  template <ElementFormat element, class C, class A, class B>
  __device__ void multiply(C&& c_of, A&& a_of, B&& b_of) {
    float(&c)[4] = c_of(threadIdx.x);
    const std::uint32_t(&a)[4] = a_of(threadIdx.x);
    const std::uint32_t(&b)[2] = b_of(threadIdx.x);
    if constexpr (element == ElementFormat::bf16) {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
  }

  /// `from` is an address of device memory in any case; nothing is read there when `copies` is false.
  __device__ void copy_later(std::byte* to, const std::byte* from, bool copies) {
    const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" : : "r"(address), "l"(from), "r"(copies ? 16 : 0) : "memory");
  }
  __device__ void end_group() { asm volatile("cp.async.commit_group;" : : : "memory"); }
  __device__ void wait_groups(unsigned newest) {
    if (newest == 0) {
      asm volatile("cp.async.wait_group 0;" : : : "memory");
    } else {
      asm volatile("cp.async.wait_group 1;" : : : "memory");
    }
  }

 private:
  std::byte* shared_;
};

}  // namespace moekv::kernels
