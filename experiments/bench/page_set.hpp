// PageSet: a working set of pages on a host backend and slices of attention that read it in shuffled order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "device/backend.hpp"

namespace moekv::bench {

struct Shape {
  std::uint32_t n_kv_heads = 4, group = 4, d_k = 128, d_v = 128;
  bool latent = false;
  std::uint32_t context_tokens = 4096;
};

class PageSet {
 public:
  /// Fills `bytes` of pages of `page_slots` slots in format `plane` with Gaussian rows.
  PageSet(const Shape& shape, const PlaneFormat& plane, std::uint32_t page_slots, std::size_t bytes, int n_threads);

  /// Attends to the next `n_tasks` tasks; a task reads context_tokens tokens of shuffled pages, each page once per pass. Returns payload bytes read.
  std::size_t attend(std::size_t n_tasks);
  [[nodiscard]] std::size_t n_tasks() const { return tasks_.size(); }
  [[nodiscard]] std::size_t task_bytes() const;
  /// Bytes of one page of one KV head: what is contiguous.
  [[nodiscard]] std::size_t tile_bytes() const { return format_.head_bytes(); }
  /// Offsets of all tiles in the order in which attention reads them.
  [[nodiscard]] std::vector<std::size_t> tile_offsets() const;
  [[nodiscard]] Backend& backend() { return *backend_; }
  [[nodiscard]] const BlockFormat& format() const { return format_; }

 private:
  void fill(const PlaneFormat& plane);

  Shape shape_;
  BlockFormat format_;
  std::unique_ptr<Backend> backend_;
  PoolId pool_;
  std::vector<PageRead> pages_;
  std::vector<AttendTask> tasks_;
  std::vector<std::byte> q_;
  std::vector<float> m_, l_, o_;
  std::size_t next_task_ = 0;
};

/// n values of N(0, 1) in bf16.
[[nodiscard]] std::vector<std::byte> gaussian_bf16(std::size_t n, unsigned seed);

}  // namespace moekv::bench
