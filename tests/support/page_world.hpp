// PageWorld: random entries written through a Backend, and the same attention in double precision from its own copy of them.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "device/backend.hpp"
#include "rules/codec/row.hpp"

namespace moekv::test {

struct Geometry {
  std::uint32_t page_slots = 16, n_kv_heads = 2, group = 4, d_k = 64, d_v = 64;
  bool latent = false;
  ElementFormat payload = ElementFormat::bf16;
  PlaneFormat sealed_k{ElementFormat::bf16}, sealed_v{ElementFormat::bf16};
  float sealed_share = 0.0F;  // of pages that are sealed into the second pool
  float v_spread = 1.0F;
};

/// What attend must give, in double precision.
struct OracleRow {
  double m, l;
  std::vector<double> o;       // not divided by l
  std::vector<double> logits;  // of all slots of the task; unread = -infinity
};

/// Buffers of one batch, poisoned with NaN before use.
struct AttendOutput {
  std::vector<float> m, l, o, logits;
};

class PageWorld {
 public:
  PageWorld(Backend& backend, const Geometry& geometry, std::uint32_t n_pages, unsigned seed);

  /// Adds a task that reads `n_pages` random pages; each page is read wholly or by a random mask with `masked_share`.
  void add_task(std::uint32_t n_pages, float masked_share);
  /// Adds a task that reads exactly `pages`, each with `n_slots` slots.
  void add_task_on(const std::vector<std::uint32_t>& pages, std::uint32_t n_slots);

  /// `to_weigh`: the backend keeps the logits too.
  [[nodiscard]] AttendOutput attend(Backend& backend, bool keep_logits, bool to_weigh = true) const;
  /// Merged rows, as AttendBatch takes the lists; the last row is a guard.
  [[nodiscard]] AttendOutput attend_merged(Backend& backend, std::span<const std::uint32_t> offsets, std::span<const std::uint32_t> parts) const;
  [[nodiscard]] OracleRow oracle(std::uint32_t task, std::uint32_t head) const;  // head in [0, n_kv_heads * group)
  [[nodiscard]] std::uint32_t rows_per_task() const { return geometry_.n_kv_heads * geometry_.group; }
  [[nodiscard]] const std::vector<AttendTask>& tasks() const { return tasks_; }
  [[nodiscard]] std::uint64_t task_slots(std::uint32_t task) const;

  [[nodiscard]] const Geometry& geometry() const { return geometry_; }
  [[nodiscard]] BlockRef block(std::uint32_t page) const { return pages_[page]; }
  /// The values attention must see for an entry: what the codec makes of it.
  [[nodiscard]] const float* k_row(std::uint32_t page, std::uint32_t head, std::uint32_t slot) const;
  [[nodiscard]] const float* v_row(std::uint32_t page, std::uint32_t head, std::uint32_t slot) const;

 private:
  void write_page(Backend& backend, std::uint32_t page, PoolId raw, PoolId sealed);
  void set_run_tables(Backend& backend, PoolId pool, const BlockFormat& format);
  /// All tasks into poisoned rows of `out`.
  [[nodiscard]] AttendBatch batch(AttendOutput& out, std::size_t n_rows) const;
  void finish_task(std::uint32_t first_page, std::uint32_t n_pages);
  [[nodiscard]] bool is_read(const PageRead& read, std::uint32_t slot) const;

  Geometry geometry_;
  std::mt19937 random_;
  std::vector<BlockRef> pages_;
  std::vector<float> k_, v_;  // [page][head][slot][d]
  std::vector<AttendTask> tasks_;
  std::vector<PageRead> reads_;
  std::vector<std::uint32_t> read_pages_;  // page of each read
  std::vector<std::uint64_t> masks_;
  std::vector<std::byte> q_;
  std::uint32_t next_row_ = 0;
  std::uint64_t next_logit_ = 0;
};

}  // namespace moekv::test
