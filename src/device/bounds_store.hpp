// BoundsStore: the smallest and largest key of the blocks of one pool, by channel and KV head, in memory of their own so that scoring pages reads
// nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "device/backend.hpp"

namespace moekv {

class BoundsStore {
 public:
  /// Empty for good where the format has no bounds.
  explicit BoundsStore(const BlockFormat& format) : format_(format) {}

  [[nodiscard]] bool needed() const { return format_.bounds; }
  /// Makes blocks 0..index usable.
  void use(std::uint32_t index) {
    const std::size_t end = (std::size_t{index} + 1) * format_.bounds_bytes();
    if (end > bytes_.size()) bytes_.resize(end);
  }
  /// Takes a key [n_kv_heads][d_k] into the bounds of a block; a fresh one starts them. Slots that die later stay inside the bounds.
  void widen(std::uint32_t block, const std::byte* k, bool fresh);
  /// Makes the bounds of `block` those of a block of another pool with the same heads. Nothing where neither has bounds.
  void copy(std::uint32_t block, const BoundsStore& from, std::uint32_t from_block);
  /// Bounds of one head as fp32: out [low d_k | high d_k].
  void read(std::uint32_t block, std::uint32_t kv_head, float* out) const;
  void transfer(StateStream& stream);
  [[nodiscard]] std::int64_t bytes() const { return static_cast<std::int64_t>(bytes_.size()); }

 private:
  [[nodiscard]] std::size_t at(std::uint32_t block, std::uint32_t kv_head) const {
    return block * format_.bounds_bytes() + kv_head * format_.bounds_head_bytes();
  }

  BlockFormat format_;
  std::vector<std::byte> bytes_;  // [blocks][n_kv_heads][low | high][d_k]
};

/// Backend::score_pages over host pools. Results do not depend on the number of threads.
void score_pages(const ScoreBatch& batch, std::span<const BoundsStore> bounds, int n_threads);

}  // namespace moekv
