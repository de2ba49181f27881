// Attention on a device: the plan's lists go there in one copy, results come back task by task.
#include <algorithm>

#include "device_backend.hpp"

namespace moekv::kernels {

class DeviceBackend::Addresses final : public PageTable {
 public:
  explicit Addresses(DeviceBackend& backend) : backend_(backend) { pools = backend.layouts_; }
  void locate(std::span<const PageRead> pages, std::span<DevicePage> out) const override {
    for (std::size_t i = 0; i < pages.size(); ++i) {
      const DevicePool& pool = backend_.pool(pages[i].block);
      out[i].block = pool.block(pages[i].block.index);
      out[i].table = pool.table(pages[i].block.index);
    }
  }

 private:
  DeviceBackend& backend_;
};

void DeviceBackend::attend(const AttendBatch& batch) {
  if (batch.tasks.empty()) return;
  const Addresses addresses(*this);
  const AttendPlan plan = plan_attention(batch, addresses, device_->shared_limit());
  std::uint64_t n_queries = 0;
  for (const AttendTask& task : batch.tasks) n_queries = std::max<std::uint64_t>(n_queries, task.query + std::uint64_t{1});
  const std::uint64_t q_bytes = n_queries * batch.q_row_heads * code_bytes({batch.q_format}, batch.d_k);
  const std::uint64_t rows = rounded_up(plan.n_rows), n_brought = plan.n_merged_rows > 0 ? plan.n_merged_rows : plan.n_task_rows;
  AttendLaunch work = launch_of(plan, batch, addresses);
  work.pools = layouts();
  const std::uint64_t n_values = rows * (batch.d_v + 2);
  results_.need((n_values + (batch.keep_logits ? 0 : plan.n_logits)) * sizeof(float));
  if (batch.keep_logits) kept_.need(plan.n_logits * sizeof(float));
  const std::uint64_t merge_lists = Staging::room<std::uint32_t>(plan.merge_offsets.size()) + Staging::room<std::uint32_t>(plan.merge_parts.size()) +
                                    Staging::room<std::uint32_t>(plan.merge_rows.size()) + Staging::room<std::uint32_t>(plan.shard_offsets.size()) +
                                    Staging::room<std::uint32_t>(plan.shard_parts.size());
  staging_.begin(Staging::room<DevicePage>(plan.pages.size()) + Staging::room<std::uint64_t>(batch.masks.size()) + merge_lists +
                     Staging::room<AttendItem>(plan.tensor.size()) + Staging::room<AttendItem>(plan.portable.size()) +
                     Staging::room<std::byte>(q_bytes),
                 Staging::room<float>(2 * rows + n_brought * batch.d_v) + (batch.logits != nullptr ? Staging::room<float>(plan.n_logits) : 0));
  work.pages = staging_.put(std::span<const DevicePage>(plan.pages));
  work.masks = staging_.put(batch.masks);
  work.q = staging_.put(std::span<const std::byte>(batch.q, q_bytes));
  work.m = reinterpret_cast<float*>(results_.device());
  work.l = work.m + rows;
  work.o = work.l + rows;
  if (plan.n_logits > 0) work.logits = batch.keep_logits ? reinterpret_cast<float*>(kept_.device()) : work.m + n_values;
  launch_attention(plan, work);
  deliver_attention(batch, plan, work);
  staging_.end();
}

void DeviceBackend::launch_attention(const AttendPlan& plan, AttendLaunch work) {
  const AttendItem* tensor = staging_.put(std::span<const AttendItem>(plan.tensor));
  const AttendItem* portable = staging_.put(std::span<const AttendItem>(plan.portable));
  MergeLaunch merge{};
  merge.offsets = staging_.put(std::span<const std::uint32_t>(plan.merge_offsets));
  merge.parts = staging_.put(std::span<const std::uint32_t>(plan.merge_parts));
  merge.rows = staging_.put(std::span<const std::uint32_t>(plan.merge_rows));
  merge.n_items = static_cast<std::uint32_t>(plan.merge_rows.size());
  merge.m = merge.m_out = work.m;
  merge.l = merge.l_out = work.l;
  merge.o = merge.o_out = work.o;
  merge.d_v = work.d_v;
  work.items = tensor;
  work.n_items = static_cast<std::uint32_t>(plan.tensor.size());
  work.shared_bytes = plan.tensor_bytes;
  work.on_tensor_cores = true;
  staging_.launch(work);
  work.items = portable;
  work.n_items = static_cast<std::uint32_t>(plan.portable.size());
  work.shared_bytes = plan.portable_bytes;
  work.on_tensor_cores = false;
  staging_.launch(work);
  staging_.launch(merge);
  merge.offsets = staging_.put(std::span<const std::uint32_t>(plan.shard_offsets));
  merge.parts = staging_.put(std::span<const std::uint32_t>(plan.shard_parts));
  merge.rows = nullptr;
  merge.n_items = plan.n_merged_rows;
  staging_.launch(merge);
}

void DeviceBackend::deliver_attention(const AttendBatch& batch, const AttendPlan& plan, const AttendLaunch& work) {
  // One copy: m and l of all rows, then o of the rows that are wanted, which come first.
  const std::uint64_t n_brought = plan.n_merged_rows > 0 ? plan.n_merged_rows : plan.n_task_rows;
  const float* m = staging_.bring(static_cast<const float*>(work.m), static_cast<std::uint64_t>(work.o - work.m) + n_brought * batch.d_v);
  const float *l = m + (work.l - work.m), *o = m + (work.o - work.m);
  const float* logits = batch.logits != nullptr ? staging_.bring(static_cast<const float*>(work.logits), plan.n_logits) : nullptr;
  staging_.deliver(batch.m, m, plan.n_merged_rows);
  staging_.deliver(batch.l, l, plan.n_merged_rows);
  staging_.deliver(batch.o, o, std::uint64_t{plan.n_merged_rows} * batch.d_v);
  for (std::size_t t = 0; t < batch.tasks.size(); ++t) {
    const AttendTask& task = batch.tasks[t];
    const std::uint64_t heads = std::uint64_t{task.n_kv_heads} * task.group, row = plan.task_row[t];
    if (plan.n_merged_rows == 0) {
      staging_.deliver(batch.m + task.out, m + row, heads);
      staging_.deliver(batch.l + task.out, l + row, heads);
      staging_.deliver(batch.o + std::uint64_t{task.out} * batch.d_v, o + row * batch.d_v, heads * batch.d_v);
    }
    if (batch.logits != nullptr) staging_.deliver(batch.logits + task.logits, logits + task.logits, heads * plan.task_slots[t]);
  }
}

}  // namespace moekv::kernels
