// The host backend: pools in this process's memory, OpenMP threads over operations, Highway kernels for attention.
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "core/error.hpp"
#include "core/state_stream.hpp"
#include "core/threads.hpp"
#include "device/audit.hpp"
#include "device/backend.hpp"
#include "device/bounds_store.hpp"
#include "device/host_attend.hpp"
#include "device/page_pool.hpp"
#include "device/seal.hpp"

namespace moekv {
namespace {

class HostBackend final : public Backend {
 public:
  explicit HostBackend(int n_threads) : n_threads_(thread_count(n_threads)), attend_(n_threads_) {}

  [[nodiscard]] std::string_view name() const override { return "host"; }
  [[nodiscard]] bool has_payload() const override { return true; }

  PoolId create_pool(const BlockFormat& format, std::uint32_t max_blocks) override {
    pools_.emplace_back(format, max_blocks);
    views_.push_back(pools_.back().view());
    bounds_.emplace_back(format);
    const PoolId id(static_cast<std::uint32_t>(pools_.size() - 1));
    home_.push_back(id);
    return id;
  }

  PoolId create_host_pool(PoolId of, std::uint32_t max_blocks) override {
    MOEKV_EXPECT(of.value < pools_.size());
    const BlockFormat format = views_[of.value].format;
    const PoolId id = create_pool(format, max_blocks);
    home_.back() = of;
    return id;
  }

  void set_tables(PoolId pool, std::uint64_t table_key, std::span<const std::byte> tables) override {
    MOEKV_EXPECT(pool.value < pools_.size() && tables.size() == views_[pool.value].format.shared_bytes());
    std::copy(tables.begin(), tables.end(), pools_[pool.value].tables().add(table_key, true));
  }

  void release_pools() override {
    views_.clear();
    bounds_.clear();
    pools_.clear();
    home_.clear();
  }

  void append(std::span<const AppendOp> ops) override {
    for (const AppendOp& op : ops) use(op.block);
    const auto n = static_cast<std::int64_t>(ops.size());
#pragma omp parallel for schedule(static) num_threads(n_threads_) if (n > parallel_ops)
    for (std::int64_t i = 0; i < n; ++i) append_one(ops[static_cast<std::size_t>(i)]);
    if (std::any_of(bounds_.begin(), bounds_.end(), [](const BoundsStore& b) { return b.needed(); })) widen_bounds(ops);
  }

  void seal(std::span<const SealOp> ops) override {
    for (const SealOp& op : ops) use(op.to);
    share_tables(ops);
    const auto n = static_cast<std::int64_t>(ops.size());
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_threads_) if (n > 1)
    for (std::int64_t i = 0; i < n; ++i) {
      const SealOp& op = ops[static_cast<std::size_t>(i)];
      seal_block(pool(op.from), op.from.index, pool(op.to), op.to.index, op.n_slots);
      bounds_[op.to.pool.value].copy(op.to.index, bounds_[op.from.pool.value], op.from.index);
    }
  }

  void score_pages(const ScoreBatch& batch) override { moekv::score_pages(batch, bounds_, n_threads_); }
  void weigh(const WeighBatch& batch) override {
    MOEKV_EXPECT(batch.logits != nullptr);
    const auto n = static_cast<std::int64_t>(batch.pages.size());
#pragma omp parallel for schedule(static) num_threads(n_threads_) if (n > parallel_copies)
    for (std::int64_t p = 0; p < n; ++p) {
      SlotMass* mass = batch.mass + p * batch.page_slots;
      for (std::uint32_t slot = 0; slot < batch.page_slots; ++slot) {
        mass[slot] = slot_mass(batch.pages[static_cast<std::size_t>(p)], batch.reads.data(), batch.tasks.data(), batch.logits, batch.lse.data(),
                               batch.heads, slot);
      }
    }
  }
  void audit(std::span<const SealOp> ops, AuditOf what, float scale, SealAudit* out) override {
    const auto n = static_cast<std::int64_t>(ops.size());
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_threads_) if (n > 1)
    for (std::int64_t i = 0; i < n; ++i) {
      const SealOp& op = ops[static_cast<std::size_t>(i)];
      PoolView to = pool(op.to);
      std::vector<std::byte> trial;
      std::uint32_t block = op.to.index;
      if (what == AuditOf::trial) {
        MOEKV_EXPECT(to.format.shared_bytes() == 0);
        trial.resize(to.block_bytes);
        to.base = trial.data();
        block = 0;
        seal_block(pool(op.from), op.from.index, to, block, op.n_slots);
      }
      out[i] = audit_block(op, pool(op.from), to, block, scale);
    }
  }

  void read_blocks(std::span<const BlockOut> ops) override {
    for (const BlockOut& op : ops) {
      const PoolView& from = pool(op.block);
      std::memcpy(op.bytes, from.head(op.block.index, 0), from.block_bytes);
      if (op.tables != nullptr) std::memcpy(op.tables, from.tables->of(op.block.index), from.format.shared_bytes());
    }
  }

  void write_blocks(std::span<const BlockIn> ops) override {
    for (const BlockIn& op : ops) {
      use(op.block);
      const PoolView& to = pool(op.block);
      std::memcpy(to.head(op.block.index, 0), op.bytes, to.block_bytes);
      TableStore& tables = pools_[op.block.pool.value].tables();
      if (!tables.needed()) continue;
      if (!tables.has(op.table_key)) {
        MOEKV_EXPECT(op.tables != nullptr);
        std::copy_n(op.tables, to.format.shared_bytes(), tables.add(op.table_key, false));
      }
      tables.assign(op.block.index, op.table_key);
    }
  }

  void copy(std::span<const CopyOp> ops) override {
    for (const CopyOp& op : ops) {
      use(op.to);
      TableStore& tables = pools_[home_[op.to.pool.value].value].tables();
      if (tables.needed()) tables.assign(op.to.index, op.table_key, home_[op.to.pool.value] != op.to.pool);
      bounds_[op.to.pool.value].copy(op.to.index, bounds_[op.from.pool.value], op.from.index);
    }
    const auto n = static_cast<std::int64_t>(ops.size());
#pragma omp parallel for schedule(static) num_threads(n_threads_) if (n > parallel_copies)
    for (std::int64_t i = 0; i < n; ++i) {
      const CopyOp& op = ops[static_cast<std::size_t>(i)];
      const PoolView &from = pool(op.from), &to = pool(op.to);
      std::memcpy(to.base + op.to.index * to.block_bytes, from.base + op.from.index * from.block_bytes, to.block_bytes);
    }
  }

  void attend(const AttendBatch& batch) override {
    if (batch.merge_offsets.empty()) return attend_.attend(batch, views_);
    std::uint32_t n_rows = 0;
    for (const std::uint32_t part : batch.merge_parts) n_rows = std::max(n_rows, part + 1);
    for (const AttendTask& task : batch.tasks) n_rows = std::max(n_rows, task.out + task.n_kv_heads * task.group);
    part_m_.assign(n_rows, -std::numeric_limits<float>::infinity());
    part_l_.assign(n_rows, 0.0F);
    part_o_.resize(std::size_t{n_rows} * batch.d_v);
    AttendBatch parts = batch;
    parts.merge_offsets = {};
    parts.m = part_m_.data();
    parts.l = part_l_.data();
    parts.o = part_o_.data();
    attend_.attend(parts, views_);
    attend_.merge_tasks(parts, batch);
  }

  void read_row(BlockRef block, std::uint32_t head, std::uint32_t slot, float* k, float* v) override {
    read_slot(pool(block), block.index, head, slot, k, v);
  }

  void sync() override {}

  [[nodiscard]] BackendMemory memory() const override {
    BackendMemory memory;
    for (const PagePool& p : pools_) {
      memory.pool_bytes += p.used_bytes();
      memory.reserved_bytes += p.committed_bytes();
      memory.table_bytes += p.tables().bytes();
    }
    for (const BoundsStore& b : bounds_) memory.bounds_bytes += b.bytes();
    memory.scratch_bytes =
        attend_.scratch_bytes() + static_cast<std::int64_t>((part_m_.capacity() + part_l_.capacity() + part_o_.capacity()) * sizeof(float));
    return memory;
  }

  [[nodiscard]] bool can_transfer() const override { return true; }
  void transfer(StateStream& stream) override {
    for (PagePool& p : pools_) stream(p);
    for (BoundsStore& b : bounds_) stream(b);
  }

 private:
  static constexpr std::int64_t parallel_copies = 8;
  static constexpr std::int64_t parallel_ops = 256;  // fewer appends are done sooner than threads wake up

  [[nodiscard]] const PoolView& pool(const BlockRef& block) const {
    MOEKV_EXPECT(block.pool.value < views_.size());
    return views_[block.pool.value];
  }
  void use(const BlockRef& block) {
    MOEKV_EXPECT(block.pool.value < pools_.size());
    pools_[block.pool.value].use(block.index);
    bounds_[block.pool.value].use(block.index);
  }

  /// Gives every block of `ops` the table of its key; a key's first blocks decide its table.
  void share_tables(std::span<const SealOp> ops) {
    std::vector<const SealOp*> same;
    for (std::size_t i = 0; i < ops.size(); ++i) {
      const SealOp& op = ops[i];
      TableStore& tables = pools_[op.to.pool.value].tables();
      if (!tables.needed()) continue;
      if (!tables.has(op.table_key)) {
        same.clear();
        for (std::size_t j = i; j < ops.size(); ++j) {
          if (ops[j].to.pool == op.to.pool && ops[j].table_key == op.table_key) same.push_back(&ops[j]);
        }
        fit_shared_tables(pool(op.from), views_[op.to.pool.value].format, same, tables.add(op.table_key, false));
      }
      tables.assign(op.to.index, op.table_key);
    }
  }

  void append_one(const AppendOp& op) const {
    const PoolView& to = pool(op.block);
    const BlockFormat& f = to.format;
    const std::size_t k_bytes = code_bytes(f.k, f.d_k);
    const std::size_t v_bytes = f.latent ? 0 : code_bytes(f.v, f.d_v);
    MOEKV_EXPECT(f.k.scale == ScaleScheme::none && op.slot < f.page_slots);
    for (std::uint32_t head = 0; head < f.n_kv_heads; ++head) {
      std::byte* base = to.head(op.block.index, head);
      std::memcpy(base + f.k_codes() + op.slot * k_bytes, op.k + head * k_bytes, k_bytes);
      if (!f.latent) std::memcpy(base + f.v_codes() + op.slot * v_bytes, op.v + head * v_bytes, v_bytes);
    }
  }

  /// One thread takes all keys of a block, in their order.
  void widen_bounds(std::span<const AppendOp> ops) {
    const auto n = static_cast<std::int64_t>(ops.size());
#pragma omp parallel num_threads(n_threads_) if (n > parallel_ops)
    {
      const auto own = static_cast<std::uint32_t>(omp_get_thread_num()), all = static_cast<std::uint32_t>(omp_get_num_threads());
      for (const AppendOp& op : ops) {
        if (op.block.index % all == own) bounds_[op.block.pool.value].widen(op.block.index, op.k, op.fresh);
      }
    }
  }

  int n_threads_;
  std::vector<PagePool> pools_;
  std::vector<PoolView> views_;
  std::vector<BoundsStore> bounds_;  // [pools]
  std::vector<PoolId> home_;  // of a host pool: the pool that it is for; of others: itself
  HostAttend attend_;
  std::vector<float> part_m_, part_l_, part_o_;  // rows of tasks that are merged
};

}  // namespace

std::unique_ptr<Backend> make_host_backend(int n_threads) { return std::make_unique<HostBackend>(n_threads); }

}  // namespace moekv
