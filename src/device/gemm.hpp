// The seam for products with weight matrices: what a model in the loop needs beside attention.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "rules/codec/format.hpp"

namespace moekv {

/// A matrix [rows][columns], row-major, in its stored type (fp32, bf16 or fp16). Borrowed.
struct MatrixView {
  const std::byte* data = nullptr;
  ElementFormat type = ElementFormat::fp32;
  std::uint32_t rows = 0, columns = 0;
};

/// Tokens [t0, t1) and rows [r0, r1) of a product: what one thread computes at a time.
struct GemmBlock {
  MatrixView w;
  const float* x = nullptr;
  float* y = nullptr;
  std::uint32_t t0 = 0, t1 = 0, r0 = 0, r1 = 0;
};

/// y[t][r] = sum over c of w[r][c] x[t][c] for t < n; rows of x and y are contiguous. Every element is one sum in an order of its own, so it depends
/// neither on n nor on its neighbours nor on threads.
void multiply(const MatrixView& w, const float* x, std::uint32_t n, float* y);

/// Where products are computed. Not thread-safe. Matrices must not change while a Gemm that has seen them lives: it may keep copies of its own.
class Gemm {
 public:
  virtual ~Gemm() = default;
  /// As the function multiply, but for the order of a sum, which is each implementation's. x and y are host memory; y is there at return.
  virtual void multiply(const MatrixView& w, const float* x, std::uint32_t n, float* y) = 0;
};

[[nodiscard]] std::unique_ptr<Gemm> make_host_gemm();
/// cuBLAS on the GPU of this process. Throws DeviceMissing, with what to do, where build, device or library is missing.
[[nodiscard]] std::unique_ptr<Gemm> make_cuda_gemm();
/// What goes with a backend: cuBLAS for cuda, the host for every other.
[[nodiscard]] std::unique_ptr<Gemm> make_gemm(std::string_view backend);

}  // namespace moekv
