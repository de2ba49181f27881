// CudaBlock: a thread block as kernel bodies see it. Where a body says "for every thread", each thread does its own part.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "core/hd.hpp"
#include "launches.hpp"
#include "rules/codec/element.hpp"

namespace moekv::kernels {

template <unsigned threads>
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

  [[nodiscard]] __device__ static constexpr unsigned n_threads() { return threads; }
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
      v[0] = fmaxf(v[0], __shfl_xor_sync(0xFFFFFFFFU, v[0], distance));
    }
  }
  __device__ void sum(Lanes<float>& v, unsigned width) {
    for (unsigned distance = width / 2; distance > 0; distance /= 2) v[0] += __shfl_xor_sync(0xFFFFFFFFU, v[0], distance);
  }

  /// The same over the eight lanes of a warp whose numbers differ by multiples of 4.
  __device__ void largest_of_column(Lanes<float>& v) {
    for (unsigned distance = 16; distance >= 4; distance /= 2) {
      v[0] = fmaxf(v[0], __shfl_xor_sync(0xFFFFFFFFU, v[0], distance));
    }
  }
  __device__ void sum_of_column(Lanes<float>& v) {
    for (unsigned distance = 16; distance >= 4; distance /= 2) v[0] += __shfl_xor_sync(0xFFFFFFFFU, v[0], distance);
  }
  __device__ void largest_of_warp(Lanes<std::uint32_t>& v) { v[0] = __reduce_max_sync(0xFFFFFFFFU, v[0]); }
  __device__ void smallest_of_warp(Lanes<std::uint32_t>& v) { v[0] = __reduce_min_sync(0xFFFFFFFFU, v[0]); }
  __device__ void any_of_warp(Lanes<bool>& v) { v[0] = __any_sync(0xFFFFFFFFU, v[0] ? 1 : 0) != 0; }
  __device__ void sum_of_warp(Lanes<std::uint32_t>& v) { v[0] = __reduce_add_sync(0xFFFFFFFFU, v[0]); }
  /// What lanes of a warp wrote to shared memory, or had copied there and waited for, is seen by all of them.
  __device__ void sync_warps() { __syncwarp(); }

  /// Byte i of the result is byte `selector >> 4 i & 7` of the eight bytes of x and y.
  static __device__ std::uint32_t select_bytes(std::uint32_t x, std::uint32_t y, std::uint32_t selector) { return __byte_perm(x, y, selector); }
  /// a b + c in both halves.
  template <ElementFormat element>
  static __device__ std::uint32_t multiply_add(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    std::uint32_t d;
    if constexpr (element == ElementFormat::bf16) {
      asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    } else {
      asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    }
    return d;
  }
  /// e^x to 2^-20 of it.
  static __device__ float exp(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504F));
    return y;
  }
  /// Two values rounded to 16 bits, the first in the low half.
  template <ElementFormat element>
  static __device__ std::uint32_t round_pair(float low, float high) {
    std::uint32_t d;
    if constexpr (element == ElementFormat::bf16) {
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    } else {
      asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    }
    return d;
  }

  /// Of two numbers, which are no NaNs.
  static __device__ float larger(float a, float b) { return fmaxf(a, b); }
  static __device__ float smaller(float a, float b) { return fminf(a, b); }
  /// x / s as division rounds it, for an fp16 s above 0 and its inverse rounded: the remainder of the first quotient is exact (Markstein, "Computation of
  /// elementary functions on the IBM RISC System/6000 processor", 1990). Quotients below 2^-60 may differ.
  static __device__ float divide(float x, float s, float inverse) {
    const float q = x * inverse;
    return fmaf(fmaf(-q, s, x), inverse, q);
  }
  /// E4M3 codes of two numbers, the first in the low byte.
  static __device__ std::uint32_t e4m3_pair(float low, float high) {
#if __CUDA_ARCH__ >= 890
    std::uint16_t d;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(d) : "f"(high), "f"(low));
    return d;
#else
    return e4m3_from_float(low) | static_cast<std::uint32_t>(e4m3_from_float(high)) << 8;
#endif
  }

  static __device__ void load_wide(const void* from, std::uint32_t* words) {
    const uint4 w = *static_cast<const uint4*>(from);
    words[0] = w.x;
    words[1] = w.y;
    words[2] = w.z;
    words[3] = w.w;
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

  /// Transposes the 8x8 matrix of 16-bit values of each warp: lane l has the pair (l / 4; 2 (l % 4), + 1).
  template <class Word>
  __device__ void transpose(Word&& word) {
    std::uint32_t& w = word(threadIdx.x);
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(w));
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
  /// The same for four bytes.
  __device__ void copy_word_later(void* to, const void* from, bool copies) {
    const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" : : "r"(address), "l"(from), "r"(copies ? 4 : 0) : "memory");
  }
  __device__ void end_group() { asm volatile("cp.async.commit_group;" : : : "memory"); }
  /// Lets at most `newest` groups, 0 or 1, be under way.
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
