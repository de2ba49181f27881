// Whole blocks between the device and host memory: pages that move, host pools, and the host's own code on copies of blocks (audits, single rows).
#include <algorithm>
#include <cstring>

#include "core/error.hpp"
#include "device/audit.hpp"
#include "device/seal.hpp"
#include "device_backend.hpp"

namespace moekv::kernels {

std::vector<std::byte> DeviceBackend::fetch(std::span<const BlockRef> blocks) {
  std::uint64_t bytes = 0, room = 0;
  for (const BlockRef& b : blocks) {
    bytes += pool(b).format().block_bytes();
    room += Staging::room<std::byte>(pool(b).format().block_bytes());
  }
  std::vector<std::byte> all(bytes);
  staging_.begin(0, room);
  std::uint64_t at = 0;
  for (const BlockRef& b : blocks) {
    const std::uint64_t n = pool(b).format().block_bytes();
    staging_.deliver(all.data() + at, staging_.bring(static_cast<const std::byte*>(pool(b).block(b.index)), n), n);
    at += n;
  }
  staging_.end();
  staging_.finish();
  return all;
}

HostBlock DeviceBackend::fetch_one(const BlockRef& block) {
  DevicePool& from = pool(block);
  std::span<const std::byte> tables;
  if (from.tables().needed() && from.home() == block.pool) tables = {from.tables().of(block.index), from.format().shared_bytes()};
  return {from.format(), fetch({&block, 1}), tables};
}

void DeviceBackend::store(std::span<const BlockRef> blocks, std::span<const std::byte> bytes) {
  row_block_.reset();
  staging_.begin(Staging::room<std::byte>(bytes.size()), 0);
  const std::byte* staged = staging_.put(bytes);
  staging_.send();
  for (const BlockRef& b : blocks) {
    use(b);
    device_->copy(pool(b).block(b.index), staged, pool(b).format().block_bytes());
    staged += pool(b).format().block_bytes();
  }
  staging_.end();
}

void DeviceBackend::read_blocks(std::span<const BlockOut> ops) {
  for (const BlockOut& op : ops) {
    const DevicePool& from = pool(op.block);
    const std::uint64_t n = from.format().block_bytes();
    staging_.begin(0, Staging::room<std::byte>(n));
    staging_.deliver(op.bytes, staging_.bring(static_cast<const std::byte*>(from.block(op.block.index)), n), n);
    staging_.end();
    if (op.tables != nullptr) std::memcpy(op.tables, pool(op.block).tables().of(op.block.index), from.format().shared_bytes());
  }
}

void DeviceBackend::write_blocks(std::span<const BlockIn> ops) {
  for (const BlockIn& op : ops) {
    DevicePool& to = pool(op.block);
    store({&op.block, 1}, {op.bytes, to.format().block_bytes()});
    TableStore& tables = to.tables();
    if (!tables.needed()) continue;
    if (!tables.has(op.table_key)) {
      MOEKV_EXPECT(op.tables != nullptr);
      std::copy_n(op.tables, to.format().shared_bytes(), tables.add(op.table_key, false));
      upload_table(to, op.table_key, {op.tables, to.format().shared_bytes()});
    }
    tables.assign(op.block.index, op.table_key);
  }
}

void DeviceBackend::copy_bounds(const BlockRef& to, const BlockRef& from) {
  const std::uint64_t bytes = pool(to).format().bounds_bytes();
  if (bytes > 0) device_->copy(pool(to).bounds(to.index), pool(from).bounds(from.index), bytes);
}

void DeviceBackend::copy(std::span<const CopyOp> ops) {
  row_block_.reset();
  for (const CopyOp& op : ops) {
    use(op.to);
    TableStore& tables = pools_[pool(op.to).home().value].tables();
    if (tables.needed()) tables.assign(op.to.index, op.table_key, pool(op.to).home() != op.to.pool);
    copy_bounds(op.to, op.from);
    device_->copy(pool(op.to).block(op.to.index), pool(op.from).block(op.from.index), pool(op.to).format().block_bytes());
  }
  staging_.begin(0, 0);
  staging_.end();
}

void DeviceBackend::audit(std::span<const SealOp> ops, AuditOf what, float scale, SealAudit* out) {
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const HostBlock raw = fetch_one(ops[i].from);
    const BlockFormat& format = pool(ops[i].to).format();
    if (what == AuditOf::trial) {
      MOEKV_EXPECT(format.shared_bytes() == 0);
      const HostBlock trial(format, std::vector<std::byte>(format.block_bytes()), {});
      seal_block(raw.view(), 0, trial.view(), 0, ops[i].n_slots);
      out[i] = audit_block(ops[i], raw.view(), trial.view(), 0, scale);
    } else {
      const HostBlock stored = fetch_one(ops[i].to);
      SealOp op = ops[i];
      op.from.index = 0;
      out[i] = audit_block(op, raw.view(), stored.view(), 0, scale);
    }
  }
}

void DeviceBackend::read_row(BlockRef block, std::uint32_t head, std::uint32_t slot, float* k, float* v) {
  if (row_block_ == nullptr || row_ref_.pool != block.pool || row_ref_.index != block.index) {
    row_block_ = std::make_unique<HostBlock>(fetch_one(block));
    row_ref_ = block;
  }
  read_slot(row_block_->view(), 0, head, slot, k, v);
}

}  // namespace moekv::kernels
