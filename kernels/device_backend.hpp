// DeviceBackend: Backend on a Device. Payload, bounds and tables live in device memory; callers' buffers are host memory and pass through Staging.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "attend_plan.hpp"
#include "device/backend.hpp"
#include "device_pool.hpp"
#include "host_block.hpp"
#include "staging.hpp"

namespace moekv::kernels {

/// A caller whose q, k, v and results lay in device memory would need none of the copies: AppendOp and AttendBatch would then have to say so, merge_partials
/// to work there, and Transport to send from there.
class DeviceBackend final : public Backend {
 public:
  explicit DeviceBackend(std::unique_ptr<Device> device);
  ~DeviceBackend() override;
  DeviceBackend(const DeviceBackend&) = delete;
  DeviceBackend& operator=(const DeviceBackend&) = delete;

  [[nodiscard]] std::string_view name() const override { return "cuda"; }
  [[nodiscard]] std::string device() const override { return device_->description(); }
  [[nodiscard]] bool time_sliced() const override { return device_->time_sliced(); }
  [[nodiscard]] bool has_payload() const override { return true; }
  PoolId create_pool(const BlockFormat& format, std::uint32_t max_blocks) override;
  PoolId create_host_pool(PoolId of, std::uint32_t max_blocks) override;
  void set_tables(PoolId pool, std::uint64_t table_key, std::span<const std::byte> tables) override;
  void release_pools() override;
  void append(std::span<const AppendOp> ops) override;
  void seal(std::span<const SealOp> ops) override;
  void score_pages(const ScoreBatch& batch) override;
  void audit(std::span<const SealOp> ops, AuditOf what, float scale, SealAudit* out) override;
  void read_blocks(std::span<const BlockOut> ops) override;
  void write_blocks(std::span<const BlockIn> ops) override;
  void copy(std::span<const CopyOp> ops) override;
  void attend(const AttendBatch& batch) override;
  [[nodiscard]] bool keeps_logits() const override { return true; }
  void weigh(const WeighBatch& batch) override;
  bool gate(const GateBatch& batch) override;
  bool find_lowest(const LowestBatch& batch) override;
  bool generate(const GenerateBatch& batch) override;
  void read_row(BlockRef block, std::uint32_t head, std::uint32_t slot, float* k, float* v) override;
  void sync() override { staging_.finish(); }
  [[nodiscard]] BackendMemory memory() const override;
  void use_graphs(bool yes) override { staging_.graphs().enable(yes); }
  [[nodiscard]] BackendWork take_work() override { return staging_.graphs().take_work(); }

 private:
  class Addresses;

  [[nodiscard]] DevicePool& pool(const BlockRef& block);
  PoolId add_pool(const BlockFormat& format, std::uint32_t max_blocks, Place place, PoolId home);
  /// Device copy of layouts_, renewed when pools were added.
  const PoolLayout* layouts();
  void use(const BlockRef& block) { pool(block).use(block.index); }

  /// Keys by block, as WidenLaunch takes them: `order` are indices of operations.
  struct WidenLists {
    std::vector<WidenItem> items;
    std::vector<std::uint32_t> order;
  };
  [[nodiscard]] WidenLists widen_lists(std::span<const AppendOp> ops);
  void copy_bounds(const BlockRef& to, const BlockRef& from);
  void upload_table(DevicePool& to, std::uint64_t key, std::span<const std::byte> bytes);
  void share_tables(std::span<const SealOp> ops);
  [[nodiscard]] bool seals_on_host(const SealOp& op) const;
  void seal_on_host(std::span<const SealOp* const> ops);
  void launch_seal(std::span<const SealOp* const> ops);

  /// Waits; then copies of whole blocks lie in host memory, one after another.
  [[nodiscard]] std::vector<std::byte> fetch(std::span<const BlockRef> blocks);
  [[nodiscard]] HostBlock fetch_one(const BlockRef& block);
  /// Starts copying whole blocks from host memory, one after another in `bytes`.
  void store(std::span<const BlockRef> blocks, std::span<const std::byte> bytes);

  void launch_attention(const AttendPlan& plan, AttendLaunch work);
  void deliver_attention(const AttendBatch& batch, const AttendPlan& plan, const AttendLaunch& work);

  /// Choices by scores or keys, of items of at most so many.
  void launch_choice(SelectLaunch work, std::uint32_t largest);
  /// What tells a plane from every other: seed and sizes, then the bits of deviations, gains and offsets, of which weights follow.
  using PlaneKey = std::vector<std::uint32_t>;
  [[nodiscard]] static PlaneKey key_of(const generate::PlaneView& plane);
  /// The plane with its arrays on the device, which are brought there once.
  [[nodiscard]] generate::PlaneView plane_on_device(const generate::PlaneView& plane);
  void forget_planes();

  static constexpr std::uint64_t worth_a_trip = 8192;  // logits or keys that the device chooses from, or values that it makes, sooner than the host

  std::unique_ptr<Device> device_;
  std::vector<DevicePool> pools_;
  std::vector<PoolLayout> layouts_;
  GrowingMemory layout_memory_;
  std::size_t n_uploaded_ = 0;
  Staging staging_;
  GrowingMemory results_;                  // what the newest batch brings
  GrowingMemory kept_;                     // logits that `weigh` takes
  std::map<PlaneKey, std::byte*> planes_;  // on the device
  std::int64_t plane_bytes_ = 0;
  std::unique_ptr<HostBlock> row_block_;  // what read_row read last
  BlockRef row_ref_;
};

}  // namespace moekv::kernels
