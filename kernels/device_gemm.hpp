// DeviceGemm: products with weight matrices on a Device. Weights stay there; tokens go there and results come back with each product.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "device/gemm.hpp"
#include "staging.hpp"

namespace moekv::kernels {

/// A library of products, in the order of a Device's work.
class Blas {
 public:
  virtual ~Blas() = default;
  /// C = A^T B in fp32, all column by column as BLAS has it: A is k x m, B is k x n, C is m x n, without gaps between columns.
  virtual void multiply_transposed(std::uint32_t m, std::uint32_t n, std::uint32_t k, const float* a, const float* b, float* c) = 0;
};

/// Weights are widened to fp32, which is exact. Every call of the library is for `tile` tokens, padded with zeros, so that a token's result does not
/// depend on how many there are.
class DeviceGemm final : public Gemm {
 public:
  static constexpr std::uint32_t tile = 64;
  DeviceGemm(std::unique_ptr<Device> device, std::unique_ptr<Blas> blas);
  ~DeviceGemm() override;
  DeviceGemm(const DeviceGemm&) = delete;
  DeviceGemm& operator=(const DeviceGemm&) = delete;

  void multiply(const MatrixView& w, const float* x, std::uint32_t n, float* y) override;

 private:
  const float* weights(const MatrixView& w);

  std::unique_ptr<Device> device_;
  std::unique_ptr<Blas> blas_;
  std::map<const std::byte*, std::byte*> weights_;  // host to device
  Staging staging_;
  GrowingMemory results_;
};

/// cuBLAS on `stream`, a cudaStream_t. Throws DeviceMissing where the library is missing. Of a build with CUDA.
[[nodiscard]] std::unique_ptr<Blas> make_cublas(void* stream);

}  // namespace moekv::kernels
