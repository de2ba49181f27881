// Row-major matrices of the host are the transposed ones of BLAS: y [n][rows] = x [n][columns] w^T is C = A^T B with A = w, B = x, C = y.
#include "device_gemm.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "rules/codec/element.hpp"

namespace moekv::kernels {

DeviceGemm::DeviceGemm(std::unique_ptr<Device> device, std::unique_ptr<Blas> blas)
    : device_(std::move(device)), blas_(std::move(blas)), staging_(*device_), results_(*device_, Sides::device) {}

DeviceGemm::~DeviceGemm() {
  for (const auto& [host, memory] : weights_) device_->release(memory);
}

const float* DeviceGemm::weights(const MatrixView& w) {
  const auto [at, is_new] = weights_.try_emplace(w.data, nullptr);
  if (!is_new) return reinterpret_cast<const float*>(at->second);
  const std::uint64_t n = std::uint64_t{w.rows} * w.columns;
  constexpr std::uint64_t most = std::uint64_t{4} << 20;  // values in one copy
  try {
    at->second = device_->allocate(n * sizeof(float));
  } catch (...) {
    weights_.erase(at);
    throw;
  }
  for (std::uint64_t first = 0; first < n; first += most) {
    const std::uint64_t count = std::min(most, n - first);
    staging_.begin(Staging::room<float>(count), 0);
    const auto part = staging_.part<float>(count);
    const std::byte* from = w.data + first * element_bits(w.type) / 8;
    for (std::uint64_t i = 0; i < count; ++i) part.host[i] = load_raw(w.type, from, static_cast<std::uint32_t>(i));
    staging_.send();
    device_->copy(at->second + first * sizeof(float), reinterpret_cast<const std::byte*>(part.device), count * sizeof(float));
    staging_.end();
  }
  return reinterpret_cast<const float*>(at->second);
}

void DeviceGemm::multiply(const MatrixView& w, const float* x, std::uint32_t n, float* y) {
  if (n == 0) return;
  const float* a = weights(w);
  const std::uint64_t tokens = (std::uint64_t{n} + tile - 1) / tile * tile, given = std::uint64_t{n} * w.columns, used = std::uint64_t{n} * w.rows;
  results_.need(tokens * w.rows * sizeof(float));
  auto* c = reinterpret_cast<float*>(results_.device());
  staging_.begin(Staging::room<float>(tokens * w.columns), Staging::room<float>(used));
  const auto b = staging_.part<float>(tokens * w.columns);
  std::copy_n(x, given, b.host);
  std::fill(b.host + given, b.host + tokens * w.columns, 0.0F);
  staging_.send();
  for (std::uint64_t t = 0; t < tokens; t += tile) blas_->multiply_transposed(w.rows, tile, w.columns, a, b.device + t * w.columns, c + t * w.rows);
  staging_.deliver(y, staging_.bring(c, used), used);
  staging_.end();
  staging_.finish();
}

}  // namespace moekv::kernels
