// AttendPlan: which blocks of threads compute a batch of attention. A pure function of the batch and its formats; a task's part in it depends on the
// task alone, so results do not depend on what else is in the batch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/backend.hpp"
#include "launches.hpp"

namespace moekv::kernels {

/// Where blocks lie, as the plan needs it.
struct PageTable {
  std::span<const PoolLayout> pools;
  virtual ~PageTable() = default;
  /// Sets the device addresses of the block of each page, and of what it shares (or null).
  virtual void locate(std::span<const PageRead> pages, std::span<DevicePage> out) const = 0;
};

struct AttendPlan {
  std::vector<DevicePage> pages;
  std::vector<AttendItem> tensor, portable;
  std::vector<std::uint32_t> task_row;  // first of the rows that a task fills; merged rows of the batch, all tasks' rows, then those of parts
  std::vector<std::uint64_t> task_slots;
  std::vector<std::uint32_t> merge_offsets, merge_parts, merge_rows;  // rows of tasks that were cut
  std::vector<std::uint32_t> shard_offsets, shard_parts;              // AttendBatch's merge in rows of the plan; row i of the result is row i
  std::uint32_t n_merged_rows = 0;
  std::uint32_t n_task_rows = 0, n_rows = 0;  // up to the last of a task, of a part
  std::uint64_t n_logits = 0;                 // up to the last one of a task, where logits are wanted
  std::uint32_t page_slots = 0;               // of the pages of tensor items
  std::uint32_t tile_slots = 0;               // of portable items
  bool mapped = false, codes = false;
  std::uint64_t tensor_bytes = 0, portable_bytes = 0;  // shared memory of a block
};

/// `shared_limit`: shared memory that a block may have. Throws PointFailure where not even one row fits.
[[nodiscard]] AttendPlan plan_attention(const AttendBatch& batch, const PageTable& table, std::uint64_t shared_limit);

/// A launch with what the plan decided; its items, and what lies in device memory, are the caller's.
[[nodiscard]] AttendLaunch launch_of(const AttendPlan& plan, const AttendBatch& batch, const PageTable& table);

/// Slots of a part of a task with `slots` slots: enough parts for a whole device, few enough to merge. `narrow`: on tensor cores, where starting a
/// block of threads costs as much as some hundred slots.
[[nodiscard]] std::uint64_t part_slots(std::uint64_t slots, bool narrow);

}  // namespace moekv::kernels
