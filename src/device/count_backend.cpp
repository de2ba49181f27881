// The count backend: pools that are only counted, for runs whose decisions, bytes and modelled time need no payload.
#include <stdexcept>
#include <vector>

#include "core/error.hpp"
#include "device/backend.hpp"

namespace moekv {
namespace {

class CountBackend final : public Backend {
 public:
  [[nodiscard]] std::string_view name() const override { return "count"; }
  [[nodiscard]] bool has_payload() const override { return false; }

  PoolId create_pool(const BlockFormat& format, std::uint32_t max_blocks) override {
    std::uint64_t bytes = 0;
    if (__builtin_mul_overflow(format.block_bytes(), std::uint64_t{max_blocks}, &bytes)) throw PointFailure("a pool of more than 2^64 bytes");
    return add_pool(bytes);
  }
  PoolId create_host_pool(PoolId of, std::uint32_t) override { return add_pool(pools_[of.value]); }
  void set_tables(PoolId, std::uint64_t, std::span<const std::byte>) override { refuse("set_tables"); }
  void release_pools() override {
    pool_bytes_ = 0;
    pools_.clear();
  }
  void append(std::span<const AppendOp>) override { refuse("append"); }
  void seal(std::span<const SealOp>) override { refuse("seal"); }
  void score_pages(const ScoreBatch&) override { refuse("score_pages"); }
  void audit(std::span<const SealOp>, AuditOf, float, SealAudit*) override { refuse("audit"); }
  void read_blocks(std::span<const BlockOut>) override { refuse("read_blocks"); }
  void write_blocks(std::span<const BlockIn>) override { refuse("write_blocks"); }
  void copy(std::span<const CopyOp>) override { refuse("copy"); }
  void attend(const AttendBatch&) override { refuse("attend"); }
  void read_row(BlockRef, std::uint32_t, std::uint32_t, float*, float*) override { refuse("read_row"); }
  void sync() override {}

  /// It sees no blocks, so pool_bytes is the full size of its pools; nothing is reserved.
  void weigh(const WeighBatch&) override { refuse("weigh"); }
  [[nodiscard]] BackendMemory memory() const override { return {pool_bytes_, 0, 0, 0, 0}; }

  /// It holds nothing.
  [[nodiscard]] bool can_transfer() const override { return true; }

 private:
  PoolId add_pool(std::uint64_t bytes) {
    pool_bytes_ += static_cast<std::int64_t>(bytes);
    pools_.push_back(bytes);
    return PoolId(static_cast<std::uint32_t>(pools_.size() - 1));
  }
  [[noreturn]] static void refuse(const char* operation) {
    throw std::logic_error(std::string("the count backend holds no payload: ") + operation + " must not be called");
  }

  std::int64_t pool_bytes_ = 0;
  std::vector<std::uint64_t> pools_;  // bytes of each at its largest
};

}  // namespace

std::unique_ptr<Backend> make_count_backend() { return std::make_unique<CountBackend>(); }

}  // namespace moekv
