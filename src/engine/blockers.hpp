// Blockers: of the pages of one chain, the slots that a routed query does not read (copies surviving, scope routed): where it wants an expert under
// which a live copy supplies the token first. Slots without a live entry are blocked by the chain's own expert, which every query of the chain wants.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "core/error.hpp"
#include "core/id.hpp"
#include "core/state_stream.hpp"
#include "engine/copies.hpp"

namespace moekv {

/// Pages have cells here. Those of one expert lie side by side, so a query that walks the chain reads one stretch of memory for each expert it wants.
class Blockers {
 public:
  /// What a query reads of a chain: entries, and pages with at least one of them.
  struct Reads {
    std::int64_t entries = 0, pages = 0;
  };

  /// A cell for a page of up to 16 * `units` slots: `own` blocks them all, no other expert any. Every call of an object has the same arguments.
  [[nodiscard]] std::uint32_t take(std::uint32_t n_experts, std::uint32_t units, ExpertId own) {
    own_ = own;
    if (free_.empty()) grow(n_experts, units);
    const std::uint32_t cell = free_.back();
    free_.pop_back();
    for (std::uint32_t e = 0; e < n_experts; ++e) fill(e, cell, e == own_.value);
    return cell;
  }
  void give_back(std::uint32_t cell) {
    free_.push_back(cell);
    if (own_.valid()) fill(own_.value, cell, true);
  }

  void set(std::uint32_t cell, std::uint32_t slot, std::uint16_t expert, bool blocks) {
    std::uint16_t& unit = bits_[static_cast<std::size_t>(at(expert, cell)) + slot / 16];
    const std::uint32_t bit = 1U << (slot % 16);
    unit = static_cast<std::uint16_t>(blocks ? unit | bit : unit & ~bit);
  }
  /// Slots [64 w, 64 w + 64) that one of `experts` blocks; invalid ones are skipped.
  [[nodiscard]] std::uint64_t any(std::uint32_t cell, std::span<const std::uint16_t> experts, std::uint32_t w) const {
    const std::size_t first = std::size_t{cell} * units_ + std::size_t{4} * w;
    const std::uint32_t width = std::min(4U, units_ - 4 * w);
    std::uint64_t bits = 0;
    for (const std::uint16_t e : experts) {
      if (e != ExpertId::invalid) bits |= word(row(e) + first, width);
    }
    return bits;
  }
  /// What a query that wants `experts`, at most max_top_k with the chain's own among them, reads of all pages.
  [[nodiscard]] Reads reads(std::span<const std::uint16_t> experts) const {
    MOEKV_EXPECT(cells_ == 0 || std::find(experts.begin(), experts.end(), own_.value) != experts.end());
    std::array<const std::uint16_t*, max_top_k> rows{};
    std::size_t n_rows = 0;
    for (const std::uint16_t e : experts) {
      if (e != ExpertId::invalid) rows[n_rows++] = row(e);
    }
    const auto readable = [&](std::size_t first, std::uint32_t width) {
      std::uint64_t blocked = width < 4 ? ~0ULL << (16 * width) : 0;
      for (std::size_t r = 0; r < n_rows; ++r) blocked |= word(rows[r] + first, width);
      return ~blocked;
    };
    Reads found;
    const std::size_t n_units = std::size_t{cells_} * units_;
    if (units_ == 1 || units_ == 2 || units_ == 4) {  // a word holds whole pages, each with its last bit in `ends`
      const std::uint64_t ends = units_ == 1 ? 0x8000800080008000ULL : units_ == 2 ? 0x8000000080000000ULL : 0x8000000000000000ULL;
      for (std::size_t u = 0; u < n_units; u += 4) {
        const std::uint64_t slots = n_units - u >= 4 ? readable(u, 4) : readable(u, static_cast<std::uint32_t>(n_units - u));
        found.entries += std::popcount(slots);
        found.pages += std::popcount((((slots & ~ends) + ~ends) | slots) & ends);
      }
      return found;
    }
    for (std::size_t u = 0; u < n_units; u += units_) {
      std::int64_t entries = 0;
      for (std::uint32_t w = 0; w < units_; w += 4) entries += std::popcount(readable(u + w, std::min(4U, units_ - w)));
      found.entries += entries;
      found.pages += entries > 0 ? 1 : 0;
    }
    return found;
  }
  /// Starts to load what `any` and `reads` read of all pages.
  void prefetch(std::span<const std::uint16_t> experts) const {
    constexpr std::size_t line = 64 / sizeof(std::uint16_t);
    for (const std::uint16_t e : experts) {
      if (e == ExpertId::invalid) continue;
      for (std::size_t u = 0; u < std::size_t{cells_} * units_; u += line) __builtin_prefetch(row(e) + u);
    }
  }
  [[nodiscard]] std::int64_t bytes() const {
    return static_cast<std::int64_t>(bits_.capacity() * sizeof(bits_[0]) + free_.capacity() * sizeof(free_[0]));
  }
  void transfer(StateStream& stream) { stream(bits_, free_, cells_, units_, own_); }

 private:
  static_assert(std::endian::native == std::endian::little, "words are read as they lie");
  [[nodiscard]] static std::uint64_t word(const std::uint16_t* first, std::uint32_t width) {
    std::uint64_t bits = 0;
    if (width == 4) {
      std::memcpy(&bits, first, sizeof bits);
    } else {
      for (std::uint32_t u = 0; u < width; ++u) bits |= std::uint64_t{first[u]} << (u * 16);
    }
    return bits;
  }
  [[nodiscard]] const std::uint16_t* row(std::size_t expert) const { return bits_.data() + expert * cells_ * units_; }
  [[nodiscard]] std::ptrdiff_t at(std::size_t expert, std::uint32_t cell) const {
    return static_cast<std::ptrdiff_t>((expert * cells_ + cell) * units_);
  }
  void fill(std::size_t expert, std::uint32_t cell, bool blocks) {
    std::fill_n(bits_.begin() + at(expert, cell), units_, static_cast<std::uint16_t>(blocks ? 0xFFFF : 0));
  }
  void grow(std::uint32_t n_experts, std::uint32_t units) {
    units_ = units;
    const std::uint32_t cells = std::max(1U, cells_ + (cells_ + 1) / 2), before = cells_;
    std::vector<std::uint16_t> bits(std::size_t{n_experts} * cells * units_);
    for (std::size_t e = 0; e < n_experts; ++e) {
      std::copy_n(bits_.begin() + at(e, 0), std::size_t{cells_} * units_, bits.begin() + static_cast<std::ptrdiff_t>(e * cells * units_));
    }
    bits_.swap(bits);
    cells_ = cells;
    for (std::uint32_t cell = cells; cell > before; --cell) give_back(cell - 1);
  }

  std::vector<std::uint16_t> bits_;  // [experts][cells][units of 16 slots]
  std::vector<std::uint32_t> free_;
  std::uint32_t cells_ = 0, units_ = 0;
  ExpertId own_;
};

}  // namespace moekv
