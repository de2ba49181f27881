// Attention on the host: cuts a batch into runs of pages that do not depend on the number of threads, computes them, merges what was cut.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "device/backend.hpp"
#include "device/page_pool.hpp"

namespace moekv {

/// Consecutive pages of one task for one KV head: what one thread computes at a time.
struct AttendRun {
  std::span<const PageRead> pages;
  const PoolView* pools;       // by PoolId
  const std::uint64_t* masks;  // AttendBatch::masks
  std::uint32_t kv_head;
  const std::byte* q;  // [group][d_k] in q_format
  ElementFormat q_format;
  std::uint32_t group, d_k, d_v;
  float scale;
  float *m, *l, *o;             // [group], [group], [group][d_v]; all written
  float* logits;                // [group] rows of the run's slots, or null
  std::uint64_t logits_stride;  // values between two rows of logits
};

/// Working memory of one thread, kept between calls.
struct AttendScratch {
  std::vector<float> values;
};

/// Computes one run. Results depend on the run only, not on the thread or on what ran before.
void attend_run(const AttendRun& run, AttendScratch& scratch);

/// Runs batches on up to `n_threads` threads; bit-identical for any number of them.
class HostAttend {
 public:
  explicit HostAttend(int n_threads) : n_threads_(n_threads), scratch_(static_cast<std::size_t>(n_threads)) {}

  void attend(const AttendBatch& batch, std::span<const PoolView> pools);
  /// Merges the rows that `attend` wrote for `tasks` as `merged` says.
  void merge_tasks(const AttendBatch& tasks, const AttendBatch& merged) const;
  [[nodiscard]] std::int64_t scratch_bytes() const;

 private:
  struct Chunk {
    std::uint32_t task, first_page, n_pages;
    std::uint64_t first_slot;  // of the task's slots
    std::uint64_t part;        // first row of partials, or whole_task
  };
  struct Item {
    std::uint32_t chunk, kv_head;
  };
  static constexpr std::uint64_t whole_task = ~std::uint64_t{0};

  void plan(const AttendBatch& batch);
  void plan_task(const AttendBatch& batch, std::uint32_t index);
  [[nodiscard]] AttendRun make_run(const AttendBatch& batch, std::span<const PoolView> pools, const Item& item);
  void merge_chunks(const AttendBatch& batch);

  int n_threads_;
  std::vector<AttendScratch> scratch_;
  std::vector<Chunk> chunks_;
  std::vector<Item> items_;
  std::vector<std::uint64_t> task_slots_;
  std::vector<float> part_m_, part_l_, part_o_;
  std::uint64_t part_rows_ = 0;
};

}  // namespace moekv
