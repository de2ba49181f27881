// PagePool: one host pool of equal blocks in reserved virtual memory, so that addresses stay valid while it grows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "device/backend.hpp"
#include "device/table_store.hpp"

namespace moekv {

/// What a kernel needs to find a page: trivially copyable, valid until the pool is destroyed.
struct PoolView {
  std::byte* base;
  std::uint64_t block_bytes;
  std::uint64_t head_bytes;
  BlockFormat format;
  const TableStore* tables;  // what blocks share; never null

  [[nodiscard]] std::byte* head(std::uint32_t block, std::uint32_t kv_head) const { return base + block * block_bytes + kv_head * head_bytes; }
  /// Table of the K plane of one head of a block, in the page or shared; null where the format has none.
  [[nodiscard]] const std::byte* k_table(std::uint32_t block, std::uint32_t kv_head) const {
    if (!format.k.has_table()) return nullptr;
    return format.k.scope == TableScope::page ? head(block, kv_head) + format.k_table() : tables->of(block) + kv_head * format.shared_head_bytes();
  }
  [[nodiscard]] const std::byte* v_table(std::uint32_t block, std::uint32_t kv_head) const {
    if (format.latent || !format.v.has_table()) return nullptr;
    if (format.v.scope == TableScope::page) return head(block, kv_head) + format.v_table();
    return tables->of(block) + kv_head * format.shared_head_bytes() + format.shared_k_table();
  }
};

/// Reserves address space for `max_blocks` blocks at once and takes memory as blocks are used. New memory reads as zero.
class PagePool {
 public:
  /// Throws PointFailure when the address space cannot be reserved.
  PagePool(const BlockFormat& format, std::uint32_t max_blocks);
  ~PagePool();
  PagePool(PagePool&& other) noexcept;
  PagePool& operator=(PagePool&&) = delete;
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  /// Makes blocks 0..index usable. Throws PointFailure when the machine has no memory left for them.
  void use(std::uint32_t index) {
    if (index >= used_blocks_) grow(index);
  }
  [[nodiscard]] const PoolView& view() const { return view_; }
  [[nodiscard]] TableStore& tables() { return *tables_; }
  [[nodiscard]] const TableStore& tables() const { return *tables_; }
  /// Blocks in use and the tables that they share. Throws as `use`.
  void transfer(StateStream& stream);
  /// Bytes of the blocks used so far (high-water mark).
  [[nodiscard]] std::int64_t used_bytes() const { return static_cast<std::int64_t>(used_blocks_ * view_.block_bytes); }
  /// Bytes that may be resident: the used bytes rounded up to huge pages.
  [[nodiscard]] std::int64_t committed_bytes() const { return static_cast<std::int64_t>(committed_); }

 private:
  void grow(std::uint32_t index);

  std::unique_ptr<TableStore> tables_;
  PoolView view_;
  std::uint32_t max_blocks_;
  std::uint32_t used_blocks_ = 0;
  std::uint64_t reserved_ = 0;
  std::uint64_t committed_ = 0;
};

}  // namespace moekv
