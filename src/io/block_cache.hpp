// BlockCache: decoded pieces of a file within a fixed number of bytes, so that a trace larger than memory is read in constant memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>

namespace moekv {

/// Decoded bytes of one piece of one dataset. Shared: a reader may hold on to a block that the cache has dropped.
struct Block {
  std::unique_ptr<std::byte[]> bytes;
  std::uint64_t n_bytes = 0;
};
using BlockPtr = std::shared_ptr<const Block>;

/// Least recently used blocks leave first; the newest always stays, whatever its size. Not thread-safe.
class BlockCache {
 public:
  explicit BlockCache(std::uint64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}
  /// A number that tells one user's blocks from another's.
  [[nodiscard]] std::uint32_t new_owner() { return n_owners_++; }
  /// Null when absent; a found block becomes the most recently used.
  [[nodiscard]] BlockPtr find(std::uint32_t owner, std::uint64_t index);
  void insert(std::uint32_t owner, std::uint64_t index, BlockPtr block);
  [[nodiscard]] std::uint64_t resident_bytes() const { return resident_bytes_; }

 private:
  struct Key {
    std::uint32_t owner;
    std::uint64_t index;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& k) const noexcept { return (k.index * 0x9E3779B97F4A7C15U) ^ (std::size_t{k.owner} << 56); }
  };
  using Entry = std::pair<Key, BlockPtr>;

  std::uint64_t capacity_bytes_;
  std::uint64_t resident_bytes_ = 0;
  std::uint32_t n_owners_ = 0;
  std::list<Entry> recent_first_;
  std::unordered_map<Key, std::list<Entry>::iterator, KeyHash> where_;
};

}  // namespace moekv
