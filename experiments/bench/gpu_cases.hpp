// The cases of gpu_bench: pages in shuffled order in device memory, and launches on them as the backend makes them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cuda_device.hpp"
#include "gpu_timing.hpp"
#include "rules/codec/catalogue.hpp"

namespace moekv::bench {

struct AttendShape {
  std::string name;
  std::uint32_t n_kv_heads, group, d_k, d_v;
  bool latent;
  std::uint32_t page_slots;
};

/// Device memory that ends with its case.
class Case {
 public:
  explicit Case(kernels::CudaDevice& device) : device_(device) {}
  virtual ~Case();
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;
  [[nodiscard]] virtual Piece piece() = 0;

 protected:
  /// Memory filled with numbers (launch_fill).
  std::byte* filled(std::uint64_t bytes);
  template <class T>
  const T* put(const std::vector<T>& values) {
    return static_cast<const T*>(put_bytes(values.data(), values.size() * sizeof(T)));
  }
  const void* put_bytes(const void* values, std::uint64_t bytes);

  kernels::CudaDevice& device_;

 private:
  std::vector<std::byte*> memory_;
};

/// Attention of `n_requests` queries over `context` tokens each, K and V in `codec`.
[[nodiscard]] std::unique_ptr<Case> attend_case(kernels::CudaDevice& device, const AttendShape& shape, const Codec& codec, std::uint32_t n_requests,
                                                std::uint32_t context);
/// Entries of `n_tokens` tokens, each to another page.
[[nodiscard]] std::unique_ptr<Case> append_case(kernels::CudaDevice& device, std::uint32_t n_tokens);
/// Sealing `n_pages` bf16 pages into `codec`.
[[nodiscard]] std::unique_ptr<Case> seal_case(kernels::CudaDevice& device, const Codec& codec, std::uint32_t n_pages);
/// Scoring `n_pages` pages for one query.
[[nodiscard]] std::unique_ptr<Case> score_case(kernels::CudaDevice& device, std::uint32_t n_pages);
/// The gate of `n_tokens` tokens; softmax before the choice.
[[nodiscard]] std::unique_ptr<Case> gate_case(kernels::CudaDevice& device, std::uint32_t n_tokens, std::uint32_t n_experts, std::uint32_t top_k);
/// Choosing an eighth of `n_pages` scored pages, for each of `n_rows` queries.
[[nodiscard]] std::unique_ptr<Case> select_case(kernels::CudaDevice& device, std::uint32_t n_pages, std::uint32_t n_rows);
/// Choosing an eighth of `n_keys` units that may be evicted, in each of `n_lists`.
[[nodiscard]] std::unique_ptr<Case> lowest_case(kernels::CudaDevice& device, std::uint32_t n_keys, std::uint32_t n_lists);
/// Making q, k and v of `n_tokens` tokens of one request at one layer.
[[nodiscard]] std::unique_ptr<Case> generate_case(kernels::CudaDevice& device, std::uint32_t n_tokens);
/// Masses of `n_requests` queries with `n_heads` heads over `context` tokens each.
[[nodiscard]] std::unique_ptr<Case> mass_case(kernels::CudaDevice& device, std::uint32_t n_requests, std::uint32_t context, std::uint32_t n_heads);

}  // namespace moekv::bench
