// Pools, entries, blocks and bounds. Everything is enqueued in the order of the calls; what must be there at return waits.
#include "device_backend.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "core/error.hpp"
#include "device/audit.hpp"
#include "device/seal.hpp"

namespace moekv::kernels {

DeviceBackend::DeviceBackend(std::unique_ptr<Device> device)
    : device_(std::move(device)),
      layout_memory_(*device_, Sides::both),
      staging_(*device_),
      results_(*device_, Sides::device),
      kept_(*device_, Sides::device) {}

DeviceBackend::~DeviceBackend() { forget_planes(); }

DevicePool& DeviceBackend::pool(const BlockRef& block) {
  MOEKV_EXPECT(block.pool.value < pools_.size());
  return pools_[block.pool.value];
}

PoolId DeviceBackend::add_pool(const BlockFormat& format, std::uint32_t max_blocks, Place place, PoolId home) {
  const PoolId id(static_cast<std::uint32_t>(pools_.size()));
  pools_.emplace_back(*device_, format, max_blocks, place, home.valid() ? home : id);
  layouts_.push_back(pool_layout(format));
  return id;
}

PoolId DeviceBackend::create_pool(const BlockFormat& format, std::uint32_t max_blocks) { return add_pool(format, max_blocks, Place::device, {}); }

PoolId DeviceBackend::create_host_pool(PoolId of, std::uint32_t max_blocks) {
  MOEKV_EXPECT(of.value < pools_.size());
  const BlockFormat format = pools_[of.value].format();
  return add_pool(format, max_blocks, Place::pinned, of);
}

const PoolLayout* DeviceBackend::layouts() {
  if (n_uploaded_ != layouts_.size()) {
    device_->synchronize();  // the pinned side may still be read
    const std::uint64_t bytes = layouts_.size() * sizeof(PoolLayout);
    layout_memory_.need(bytes);
    std::memcpy(layout_memory_.pinned(), layouts_.data(), bytes);
    device_->copy(layout_memory_.device(), layout_memory_.pinned(), bytes);
    n_uploaded_ = layouts_.size();
  }
  return reinterpret_cast<const PoolLayout*>(layout_memory_.device());
}

void DeviceBackend::upload_table(DevicePool& to, std::uint64_t key, std::span<const std::byte> bytes) {
  std::byte* memory = to.table_memory(key);
  staging_.begin(Staging::room<std::byte>(bytes.size()), 0);
  const std::byte* staged = staging_.put(bytes);
  staging_.send();
  device_->copy(memory, staged, bytes.size());
  staging_.end();
}

void DeviceBackend::set_tables(PoolId id, std::uint64_t table_key, std::span<const std::byte> tables) {
  DevicePool& to = pools_[id.value];
  MOEKV_EXPECT(tables.size() == to.format().shared_bytes());
  std::copy(tables.begin(), tables.end(), to.tables().add(table_key, true));
  upload_table(to, table_key, tables);
}

void DeviceBackend::release_pools() {
  staging_.finish();
  staging_.graphs().clear();
  forget_planes();
  row_block_.reset();
  pools_.clear();
  layouts_.clear();
  n_uploaded_ = 0;
}

DeviceBackend::WidenLists DeviceBackend::widen_lists(std::span<const AppendOp> ops) {
  std::vector<std::uint32_t> order;
  for (std::uint32_t i = 0; i < ops.size(); ++i) {
    if (pool(ops[i].block).format().bounds) order.push_back(i);
  }
  const auto block_of = [&](std::uint32_t i) { return std::pair(ops[i].block.pool.value, ops[i].block.index); };
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return block_of(a) < block_of(b); });
  WidenLists lists;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const AppendOp& op = ops[order[i]];
    if (i == 0 || block_of(order[i]) != block_of(order[i - 1]))
      lists.items.push_back({pool(op.block).bounds(op.block.index), static_cast<std::uint32_t>(i), 0, op.block.pool.value, ~0U});
    if (op.fresh) lists.items.back().fresh = lists.items.back().n;
    lists.items.back().n += 1;
  }
  lists.order = std::move(order);
  return lists;
}

void DeviceBackend::append(std::span<const AppendOp> ops) {
  if (ops.empty()) return;
  row_block_.reset();
  const auto row_bytes = [&](const AppendOp& op) {
    const BlockFormat& f = pool(op.block).format();
    const std::uint64_t k = std::uint64_t{f.n_kv_heads} * code_bytes(f.k, f.d_k);
    return std::pair(k, f.latent ? 0 : std::uint64_t{f.n_kv_heads} * code_bytes(f.v, f.d_v));
  };
  std::uint64_t bytes = 0;
  for (const AppendOp& op : ops) {
    use(op.block);
    const auto [k, v] = row_bytes(op);
    bytes += (k + 15) / 16 * 16 + (v + 15) / 16 * 16;
  }
  const WidenLists widen = widen_lists(ops);
  const PoolLayout* pools = layouts();
  staging_.begin(Staging::room<std::byte>(bytes) + Staging::room<AppendItem>(ops.size()) + Staging::room<WidenItem>(widen.items.size()) +
                     Staging::room<const std::byte*>(widen.order.size()),
                 0);
  const auto rows = staging_.part<std::byte>(bytes);
  const auto items = staging_.part<AppendItem>(ops.size());
  const WidenItem* widen_items = staging_.put(std::span<const WidenItem>(widen.items));
  const auto keys = staging_.part<const std::byte*>(widen.order.size());
  std::uint64_t at = 0;
  const auto pack = [&](const std::byte* from, std::uint64_t n) -> const std::byte* {
    if (n == 0) return nullptr;
    std::memcpy(rows.host + at, from, n);
    return rows.device + std::exchange(at, at + (n + 15) / 16 * 16);
  };
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const AppendOp& op = ops[i];
    MOEKV_EXPECT(pool(op.block).format().k.scale == ScaleScheme::none && op.slot < pool(op.block).format().page_slots);
    const auto [k, v] = row_bytes(op);
    const std::byte* packed_k = pack(op.k, k);
    const std::byte* packed_v = pack(op.v, v);
    items.host[i] = {pool(op.block).block(op.block.index), packed_k, packed_v, op.block.pool.value, op.slot};
  }
  for (std::size_t i = 0; i < widen.order.size(); ++i) keys.host[i] = items.host[widen.order[i]].k;
  staging_.launch(AppendLaunch{pools, items.device, static_cast<std::uint32_t>(ops.size())});
  staging_.launch(WidenLaunch{pools, widen_items, static_cast<std::uint32_t>(widen.items.size()), keys.device});
  staging_.end();
}

BackendMemory DeviceBackend::memory() const {
  BackendMemory memory;
  for (const DevicePool& p : pools_) p.add_to(memory);
  memory.scratch_bytes = staging_.bytes() + results_.bytes() + kept_.bytes() + layout_memory_.bytes() + plane_bytes_;
  return memory;
}

}  // namespace moekv::kernels
