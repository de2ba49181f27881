// Plans runs of at least `chunk_slots` slots, a fixed number, so that a result's bits never depend on how many threads there were.
#include "device/host_attend.hpp"

#include <omp.h>

#include "core/error.hpp"
#include "device/float_mode.hpp"
#include "rules/merge.hpp"

namespace moekv {
namespace {

constexpr std::uint64_t chunk_slots = 2048;  // about 1 MiB of bf16 K and V at 128 channels: some 80 us of one core

}  // namespace

void HostAttend::plan_task(const AttendBatch& batch, std::uint32_t index) {
  const AttendTask& task = batch.tasks[index];
  const std::size_t first_chunk = chunks_.size();
  Chunk chunk{index, task.first_page, 0, 0, whole_task};
  std::uint64_t slot = 0;
  for (std::uint32_t i = 0; i < task.n_pages; ++i) {
    if (slot - chunk.first_slot >= chunk_slots) {
      chunks_.push_back(chunk);
      chunk = {index, task.first_page + i, 0, slot, whole_task};
    }
    ++chunk.n_pages;
    slot += batch.pages[task.first_page + i].n_slots;
  }
  chunks_.push_back(chunk);
  task_slots_[index] = slot;
  const bool cut = chunks_.size() - first_chunk > 1;
  for (std::size_t c = first_chunk; c < chunks_.size(); ++c) {
    if (cut) {
      chunks_[c].part = part_rows_;
      part_rows_ += std::uint64_t{task.n_kv_heads} * task.group;
    }
    for (std::uint32_t head = 0; head < task.n_kv_heads; ++head) items_.push_back({static_cast<std::uint32_t>(c), head});
  }
}

void HostAttend::plan(const AttendBatch& batch) {
  chunks_.clear();
  items_.clear();
  task_slots_.resize(batch.tasks.size());
  part_rows_ = 0;
  for (std::uint32_t t = 0; t < batch.tasks.size(); ++t) plan_task(batch, t);
  if (part_m_.size() < part_rows_) {
    part_m_.resize(part_rows_);
    part_l_.resize(part_rows_);
  }
  if (part_o_.size() < part_rows_ * batch.d_v) part_o_.resize(part_rows_ * batch.d_v);
}

AttendRun HostAttend::make_run(const AttendBatch& batch, std::span<const PoolView> pools, const Item& item) {
  const Chunk& chunk = chunks_[item.chunk];
  const AttendTask& task = batch.tasks[chunk.task];
  const std::uint64_t first_head = std::uint64_t{item.kv_head} * task.group;
  const bool whole = chunk.part == whole_task;
  const std::uint64_t row = first_head + (whole ? task.out : chunk.part);
  const std::uint64_t slots = task_slots_[chunk.task];
  const std::uint64_t q_row = std::uint64_t{task.query} * batch.q_row_heads + task.q_head + first_head;
  return {
      .pages = batch.pages.subspan(chunk.first_page, chunk.n_pages),
      .pools = pools.data(),
      .masks = batch.masks.data(),
      .kv_head = item.kv_head,
      .q = batch.q + q_row * code_bytes({batch.q_format}, batch.d_k),
      .q_format = batch.q_format,
      .group = task.group,
      .d_k = batch.d_k,
      .d_v = batch.d_v,
      .scale = batch.scale,
      .m = (whole ? batch.m : part_m_.data()) + row,
      .l = (whole ? batch.l : part_l_.data()) + row,
      .o = (whole ? batch.o : part_o_.data()) + row * batch.d_v,
      .logits = batch.logits == nullptr ? nullptr : batch.logits + task.logits + first_head * slots + chunk.first_slot,
      .logits_stride = slots,
  };
}

void HostAttend::merge_chunks(const AttendBatch& batch) {
  const auto n_chunks = static_cast<std::int64_t>(chunks_.size());
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_threads_) if (part_rows_ > 64)
  for (std::int64_t first = 0; first < n_chunks; ++first) {
    const Chunk& chunk = chunks_[static_cast<std::size_t>(first)];
    if (chunk.part == whole_task || chunk.first_slot != 0) continue;  // the first chunk of a cut task merges them all
    const AttendTask& task = batch.tasks[chunk.task];
    const std::uint64_t rows = std::uint64_t{task.n_kv_heads} * task.group;
    for (std::uint64_t r = 0; r < rows; ++r) {
      SoftmaxState state;
      float* o = batch.o + (task.out + r) * batch.d_v;
      for (std::uint32_t c = 0; c < batch.d_v; ++c) o[c] = 0.0F;
      for (std::int64_t i = first; i < n_chunks && chunks_[static_cast<std::size_t>(i)].task == chunk.task; ++i) {
        const std::uint64_t part = chunks_[static_cast<std::size_t>(i)].part + r;
        merge_part(state, o, {part_m_[part], part_l_[part]}, part_o_.data() + part * batch.d_v, batch.d_v);
      }
      batch.m[task.out + r] = state.m;
      batch.l[task.out + r] = state.l;
    }
  }
}

void HostAttend::attend(const AttendBatch& batch, std::span<const PoolView> pools) {
  plan(batch);
  const auto n_items = static_cast<std::int64_t>(items_.size());
#pragma omp parallel num_threads(n_threads_) if (n_items > 1)
  {
    const FlushDenormals guard;
    AttendScratch& scratch = scratch_[static_cast<std::size_t>(omp_get_thread_num())];
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t i = 0; i < n_items; ++i) attend_run(make_run(batch, pools, items_[static_cast<std::size_t>(i)]), scratch);
  }
  if (part_rows_ > 0) merge_chunks(batch);
}

void HostAttend::merge_tasks(const AttendBatch& tasks, const AttendBatch& merged) const {
  const auto rows = static_cast<std::int64_t>(merged.merge_offsets.size()) - 1;
#pragma omp parallel for schedule(static) num_threads(n_threads_) if (rows * merged.d_v > 16384)
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto row = static_cast<std::size_t>(r);
    SoftmaxState state;
    float* o = merged.o + row * merged.d_v;
    for (std::uint32_t c = 0; c < merged.d_v; ++c) o[c] = 0.0F;
    for (std::uint32_t i = merged.merge_offsets[row]; i < merged.merge_offsets[row + 1]; ++i) {
      const std::size_t part = merged.merge_parts[i];
      merge_part(state, o, {tasks.m[part], tasks.l[part]}, tasks.o + part * merged.d_v, merged.d_v);
    }
    merged.m[row] = state.m;
    merged.l[row] = state.l;
  }
}

std::int64_t HostAttend::scratch_bytes() const {
  std::size_t floats = part_m_.capacity() + part_l_.capacity() + part_o_.capacity();
  for (const AttendScratch& scratch : scratch_) floats += scratch.values.capacity();
  const std::size_t lists = chunks_.capacity() * sizeof(Chunk) + items_.capacity() * sizeof(Item) + task_slots_.capacity() * sizeof(std::uint64_t);
  return static_cast<std::int64_t>(floats * sizeof(float) + lists);
}

}  // namespace moekv
