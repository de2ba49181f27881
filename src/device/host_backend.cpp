// The host backend: pools in this process's memory, OpenMP threads over operations, Highway kernels for attention.
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/error.hpp"
#include "device/backend.hpp"
#include "device/host_attend.hpp"
#include "device/page_pool.hpp"
#include "device/seal.hpp"
#include "rules/codec/map.hpp"
#include "rules/codec/plane.hpp"

namespace moekv {
namespace {

class HostBackend final : public Backend {
 public:
  explicit HostBackend(int n_threads) : n_threads_(n_threads > 0 ? n_threads : omp_get_max_threads()), attend_(n_threads_) {}

  [[nodiscard]] std::string_view name() const override { return "host"; }
  [[nodiscard]] bool has_payload() const override { return true; }

  PoolId create_pool(const BlockFormat& format, std::uint32_t max_blocks) override {
    pools_.emplace_back(format, max_blocks);
    views_.push_back(pools_.back().view());
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
    pools_.clear();
    home_.clear();
  }

  void append(std::span<const AppendOp> ops) override {
    for (const AppendOp& op : ops) use(op.block);
    const auto n = static_cast<std::int64_t>(ops.size());
#pragma omp parallel for schedule(static) num_threads(n_threads_) if (n > parallel_ops)
    for (std::int64_t i = 0; i < n; ++i) append_one(ops[static_cast<std::size_t>(i)]);
  }

  void seal(std::span<const SealOp> ops) override {
    for (const SealOp& op : ops) use(op.to);
    share_tables(ops);
    const auto n = static_cast<std::int64_t>(ops.size());
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_threads_) if (n > 1)
    for (std::int64_t i = 0; i < n; ++i) {
      const SealOp& op = ops[static_cast<std::size_t>(i)];
      seal_block(pool(op.from), op.from.index, pool(op.to), op.to.index, op.n_slots);
    }
  }

  void copy(std::span<const CopyOp> ops) override {
    for (const CopyOp& op : ops) {
      use(op.to);
      TableStore& tables = pools_[home_[op.to.pool.value].value].tables();
      if (tables.needed()) tables.assign(op.to.index, op.table_key, home_[op.to.pool.value] != op.to.pool);
    }
    const auto n = static_cast<std::int64_t>(ops.size());
#pragma omp parallel for schedule(static) num_threads(n_threads_) if (n > parallel_copies)
    for (std::int64_t i = 0; i < n; ++i) {
      const CopyOp& op = ops[static_cast<std::size_t>(i)];
      const PoolView &from = pool(op.from), &to = pool(op.to);
      std::memcpy(to.base + op.to.index * to.block_bytes, from.base + op.from.index * from.block_bytes, to.block_bytes);
    }
  }

  void attend(const AttendBatch& batch) override { attend_.attend(batch, views_); }
  void merge(const MergeBatch& batch) override { attend_.merge(batch); }

  void read_row(BlockRef block, std::uint32_t head, std::uint32_t slot, float* k, float* v) override {
    const PoolView& from = pool(block);
    const BlockFormat& f = from.format;
    const std::byte* base = from.head(block.index, head);
    read_plane(f.k, f.d_k, base + f.k_codes(), base + f.k_meta(), from.k_table(block.index, head), slot, k);
    if (f.latent) {
      std::memcpy(v, k, f.d_v * sizeof(float));
    } else {
      read_plane(f.v, f.d_v, base + f.v_codes(), base + f.v_meta(), from.v_table(block.index, head), slot, v);
    }
  }

  void sync() override {}

  [[nodiscard]] BackendMemory memory() const override {
    BackendMemory memory;
    for (const PagePool& p : pools_) {
      memory.pool_bytes += p.used_bytes();
      memory.reserved_bytes += p.committed_bytes();
      memory.table_bytes += p.tables().bytes();
    }
    memory.scratch_bytes = attend_.scratch_bytes();
    return memory;
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
  }

  static void read_plane(const PlaneFormat& f, std::uint32_t d, const std::byte* codes, const std::byte* meta, const std::byte* table,
                         std::uint32_t slot, float* out) {
    const MapView map = map_view(f, d, table);
    if (map.identity()) return decode_slot(f, codes, meta, slot, d, out);
    std::vector<float> values(map.width);
    decode_slot(f, codes, meta, slot, map.width, values.data());
    std::fill_n(out, d, 0.0F);
    map_back(map, values.data(), 1.0F, out, d);
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

  int n_threads_;
  std::vector<PagePool> pools_;
  std::vector<PoolView> views_;
  std::vector<PoolId> home_;  // of a host pool: the pool that it is for; of others: itself
  HostAttend attend_;
};

}  // namespace

std::unique_ptr<Backend> make_host_backend(int n_threads) { return std::make_unique<HostBackend>(n_threads); }

}  // namespace moekv
