// KeyRows: rows of keys as the generator has them before offsets and RoPE, kept because queries lean towards keys that were made before.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "rules/generate.hpp"
#include "trace/kept_bytes.hpp"

namespace moekv {

/// Rows of blocks of generate::block_tokens positions, as far as there are bytes for them. Where there are none left, the request that was not asked
/// for the longest goes, once that was `idle_calls` calls ago: those in flight stay, and what has no room is made again where it is needed. Calls of
/// non-const members must not overlap others.
class KeyRows {
 public:
  struct Block {
    explicit Block(std::size_t n) : rows(std::make_unique_for_overwrite<float[]>(n)) {}
    std::atomic<std::uint64_t> made = 0;  // bit of a position's offset: its row is complete
    std::unique_ptr<float[]> rows;        // [block_tokens][width]
    [[nodiscard]] bool has(std::uint32_t first, std::uint32_t n) const {
      const std::uint64_t bits = bits_of(first, n);
      return (made.load(std::memory_order_acquire) & bits) == bits;
    }
    void complete(std::uint32_t first, std::uint32_t n) { made.fetch_or(bits_of(first, n), std::memory_order_release); }

   private:
    static std::uint64_t bits_of(std::uint32_t first, std::uint32_t n) { return ((n < generate::block_tokens ? 1ULL << n : 0) - 1) << first; }
  };
  using Blocks = std::vector<std::unique_ptr<Block>>;  // by position / block_tokens; null where none is kept

  /// `n_heads` counts those of all layers; `width` are the floats of a row.
  KeyRows(std::size_t n_heads, std::size_t width, std::shared_ptr<KeptBytes> kept, std::uint64_t idle_calls)
      : n_heads_(n_heads), width_(width), kept_(std::move(kept)), idle_calls_(idle_calls) {}
  ~KeyRows() { kept_->give_back(bytes_); }
  KeyRows(const KeyRows&) = delete;
  KeyRows& operator=(const KeyRows&) = delete;
  /// The generator is asked once more.
  void begin_call() { ++now_; }
  /// Room for positions [begin, end) of heads [first, first + n) of a request, as far as there is any.
  void make_room(std::uint32_t request, std::size_t first, std::size_t n, std::uint32_t begin, std::uint32_t end);
  /// Those of a head of a request.
  [[nodiscard]] std::span<const std::unique_ptr<Block>> blocks(std::uint32_t request, std::size_t head) const;
  /// The one that holds a position; null where none is kept.
  [[nodiscard]] static Block* find(std::span<const std::unique_ptr<Block>> blocks, std::uint32_t position) {
    const std::size_t b = position / generate::block_tokens;
    return b < blocks.size() ? blocks[b].get() : nullptr;
  }
  [[nodiscard]] std::size_t width() const { return width_; }

 private:
  struct Request {
    std::uint64_t asked = 0;
    std::uint64_t bytes = 0;
    std::vector<Blocks> heads;
  };
  [[nodiscard]] std::uint64_t block_bytes() const { return sizeof(float) * generate::block_tokens * width_; }
  [[nodiscard]] bool take_block();
  bool drop_idle();

  std::size_t n_heads_, width_;
  std::shared_ptr<KeptBytes> kept_;
  std::uint64_t idle_calls_;
  std::uint64_t now_ = 0, bytes_ = 0;
  std::unordered_map<std::uint32_t, Request> requests_;
};

}  // namespace moekv
