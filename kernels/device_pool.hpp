// DevicePool: the blocks of one pool, their bounds and the tables they share, on the device or (host pools) in pinned memory.
#pragma once

#include <cstdint>

#include "core/error.hpp"
#include "device/backend.hpp"
#include "device/table_store.hpp"
#include "slabs.hpp"

namespace moekv::kernels {

class DevicePool {
 public:
  /// `home`: of a host pool, the pool that it is for.
  DevicePool(Device& device, const BlockFormat& format, std::uint32_t max_blocks, Place place, PoolId home)
      : format_(format),
        max_blocks_(max_blocks),
        home_(home),
        blocks_(device, format.block_bytes(), max_blocks, place),
        bounds_(device, format.bounds_bytes(), max_blocks, place),
        tables_(format.shared_bytes()),
        table_slabs_(device, format.shared_bytes(), most_tables, Place::device) {}

  /// Makes blocks 0..index usable.
  void use(std::uint32_t index) {
    MOEKV_EXPECT(index < max_blocks_);
    blocks_.use(index);
    bounds_.use(index);
  }
  [[nodiscard]] const BlockFormat& format() const { return format_; }
  [[nodiscard]] PoolId home() const { return home_; }
  [[nodiscard]] std::byte* block(std::uint32_t index) const { return blocks_.at(index); }
  [[nodiscard]] std::byte* bounds(std::uint32_t index) const { return bounds_.at(index); }
  [[nodiscard]] TableStore& tables() { return tables_; }
  /// Device memory of the table of `key`, which exists.
  [[nodiscard]] std::byte* table_memory(std::uint64_t key) {
    table_slabs_.use(tables_.number(key));
    return table_slabs_.at(tables_.number(key));
  }
  /// Table that a block shares, on the device; null where the format has none.
  [[nodiscard]] const std::byte* table(std::uint32_t block) const { return tables_.needed() ? table_slabs_.at(tables_.number_of(block)) : nullptr; }

  void add_to(BackendMemory& memory) const {
    memory.pool_bytes += blocks_.used_bytes();
    memory.reserved_bytes += blocks_.reserved_bytes() + bounds_.reserved_bytes() + table_slabs_.reserved_bytes();
    memory.table_bytes += tables_.bytes();
    memory.bounds_bytes += bounds_.used_bytes();
  }

 private:
  static constexpr std::uint32_t most_tables = 64;  // of a slab

  BlockFormat format_;
  std::uint32_t max_blocks_;
  PoolId home_;
  Slabs blocks_, bounds_;
  TableStore tables_;
  Slabs table_slabs_;
};

}  // namespace moekv::kernels
