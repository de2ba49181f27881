// Sealing on a device. Tables are fitted on the host from copies of the raw pages; pages whose tables lie in them are sealed there altogether.
#include <algorithm>

#include "core/error.hpp"
#include "device/seal.hpp"
#include "device_backend.hpp"
#include "seal_block.hpp"

namespace moekv::kernels {

bool DeviceBackend::seals_on_host(const SealOp& op) const {
  const BlockFormat& f = pools_[op.to.pool.value].format();
  const PoolLayout& layout = layouts_[op.to.pool.value];
  const PoolLayout& raw = layouts_[op.from.pool.value];
  const auto too_much = [&](const PlaneLayout& from, const PlaneLayout& to) {
    const bool in_page = to.has_table && to.table_in_page;
    return in_page || seal_shared_bytes(from, to) > device_->shared_limit();
  };
  return too_much(raw.k, layout.k) || (!f.latent && too_much(raw.v, layout.v));
}

void DeviceBackend::share_tables(std::span<const SealOp> ops) {
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const SealOp& op = ops[i];
    DevicePool& to = pool(op.to);
    if (!to.tables().needed()) continue;
    if (!to.tables().has(op.table_key)) {
      std::vector<SealOp> same;
      std::vector<BlockRef> blocks;
      for (std::size_t j = i; j < ops.size(); ++j) {
        if (ops[j].to.pool != op.to.pool || ops[j].table_key != op.table_key) continue;
        same.push_back(ops[j]);
        blocks.push_back(ops[j].from);
        same.back().from.index = static_cast<std::uint32_t>(blocks.size() - 1);
      }
      const BlockFormat& raw = pool(op.from).format();
      std::vector<std::byte> bytes = fetch(blocks);
      const PoolView view{bytes.data(), raw.block_bytes(), raw.head_bytes(), raw, nullptr};
      std::vector<const SealOp*> pointers;
      for (const SealOp& s : same) pointers.push_back(&s);
      std::byte* table = to.tables().add(op.table_key, false);
      fit_shared_tables(view, to.format(), pointers, table);
      upload_table(to, op.table_key, {table, to.format().shared_bytes()});
    }
    to.tables().assign(op.to.index, op.table_key);
  }
}

void DeviceBackend::seal_on_host(std::span<const SealOp* const> ops) {
  for (const SealOp* op : ops) {
    const HostBlock raw = fetch_one(op->from);
    DevicePool& to = pool(op->to);
    std::span<const std::byte> tables;
    if (to.tables().needed()) tables = {to.tables().of(op->to.index), to.format().shared_bytes()};
    const HostBlock sealed(to.format(), fetch({&op->to, 1}), tables);
    seal_block(raw.view(), 0, sealed.view(), 0, op->n_slots);
    store({&op->to, 1}, sealed.bytes());
  }
}

void DeviceBackend::launch_seal(std::span<const SealOp* const> ops) {
  std::vector<SealItem> items;
  std::uint64_t shared_bytes = 0;
  for (const SealOp* op : ops) {
    const PoolLayout &layout = layouts_[op->to.pool.value], &raw = layouts_[op->from.pool.value];
    for (std::uint32_t plane = 0; plane < (layout.latent ? 1U : 2U); ++plane) {
      const PlaneLayout& to = plane == 0 ? layout.k : layout.v;
      const PlaneLayout& from = plane == 0 ? raw.k : raw.v;
      const std::uint32_t step = seal_item_rows(from, to);
      shared_bytes = std::max(shared_bytes, seal_shared_bytes(from, to));
      for (std::uint32_t head = 0; head < layout.n_kv_heads; ++head) {
        for (std::uint32_t row = 0; row < op->n_slots; row += step) {
          items.push_back({pool(op->from).block(op->from.index), pool(op->to).block(op->to.index), pool(op->to).table(op->to.index), op->from.pool.value,
                           op->to.pool.value, head, plane, row, std::min(step, op->n_slots - row)});
        }
      }
    }
  }
  if (items.empty()) return;
  const PoolLayout* pools = layouts();
  staging_.begin(Staging::room<SealItem>(items.size()), 0);
  const SealItem* memory = staging_.put(std::span<const SealItem>(items));
  staging_.launch(SealLaunch{pools, memory, static_cast<std::uint32_t>(items.size()), shared_bytes});
  staging_.end();
}

void DeviceBackend::seal(std::span<const SealOp> ops) {
  row_block_.reset();
  for (const SealOp& op : ops) use(op.to);
  share_tables(ops);
  std::vector<const SealOp*> on_host, here;
  for (const SealOp& op : ops) (seals_on_host(op) ? on_host : here).push_back(&op);
  seal_on_host(on_host);
  launch_seal(here);
  for (const SealOp& op : ops) copy_bounds(op.to, op.from);
}

}  // namespace moekv::kernels
