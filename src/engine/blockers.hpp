// Blockers: of the pages of one chain, the slots whose token a live copy under another expert supplies first. A routed query that wants that expert
// reads the token there (copies surviving, scope routed).
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "core/id.hpp"
#include "core/state_stream.hpp"

namespace moekv {

/// Pages have cells here. Those of one expert lie side by side, so a query that walks the chain reads one stretch of memory for each expert it wants.
class Blockers {
 public:
  /// A cell for a page of up to 16 * `units` slots, none of them blocked. Every call of an object has the same arguments.
  [[nodiscard]] std::uint32_t take(std::uint32_t n_experts, std::uint32_t units) {
    if (free_.empty()) grow(n_experts, units);
    const std::uint32_t cell = free_.back();
    free_.pop_back();
    for (std::size_t e = 0; e < n_experts; ++e) std::fill_n(bits_.begin() + at(e, cell), units_, std::uint16_t{0});
    return cell;
  }
  void give_back(std::uint32_t cell) { free_.push_back(cell); }

  void set(std::uint32_t cell, std::uint32_t slot, std::uint16_t expert, bool blocks) {
    std::uint16_t& unit = bits_[static_cast<std::size_t>(at(expert, cell)) + slot / 16];
    const std::uint32_t bit = 1U << (slot % 16);
    unit = static_cast<std::uint16_t>(blocks ? unit | bit : unit & ~bit);
  }
  /// Slots [64 w, 64 w + 64) that one of `experts` blocks; invalid ones are skipped.
  [[nodiscard]] std::uint64_t any(std::uint32_t cell, std::span<const std::uint16_t> experts, std::uint32_t w) const {
    const std::uint16_t* first = bits_.data() + std::size_t{cell} * units_ + std::size_t{4} * w;
    const std::uint32_t n = std::min(4U, units_ - 4 * w);
    std::uint64_t bits = 0;
    for (const std::uint16_t e : experts) {
      if (e == ExpertId::invalid) continue;
      const std::uint16_t* units = first + std::size_t{e} * cells_ * units_;
      bits |= units[0];
      for (std::uint32_t u = 1; u < n; ++u) bits |= std::uint64_t{units[u]} << (u * 16);
    }
    return bits;
  }
  /// Starts to load what `any` reads of all pages.
  void prefetch(std::span<const std::uint16_t> experts) const {
    constexpr std::size_t line = 64 / sizeof(std::uint16_t);
    for (const std::uint16_t e : experts) {
      if (e == ExpertId::invalid) continue;
      for (std::size_t u = 0; u < std::size_t{cells_} * units_; u += line) __builtin_prefetch(bits_.data() + at(e, 0) + u);
    }
  }
  [[nodiscard]] std::int64_t bytes() const {
    return static_cast<std::int64_t>(bits_.capacity() * sizeof(bits_[0]) + free_.capacity() * sizeof(free_[0]));
  }
  void transfer(StateStream& stream) { stream(bits_, free_, cells_, units_); }

 private:
  [[nodiscard]] std::ptrdiff_t at(std::size_t expert, std::uint32_t cell) const {
    return static_cast<std::ptrdiff_t>((expert * cells_ + cell) * units_);
  }
  void grow(std::uint32_t n_experts, std::uint32_t units) {
    units_ = units;
    const std::uint32_t cells = std::max(1U, cells_ + (cells_ + 1) / 2);
    std::vector<std::uint16_t> bits(std::size_t{n_experts} * cells * units_);
    for (std::size_t e = 0; e < n_experts; ++e) {
      std::copy_n(bits_.begin() + at(e, 0), std::size_t{cells_} * units_, bits.begin() + static_cast<std::ptrdiff_t>(e * cells * units_));
    }
    bits_.swap(bits);
    for (std::uint32_t cell = cells; cell > cells_; --cell) free_.push_back(cell - 1);
    cells_ = cells;
  }

  std::vector<std::uint16_t> bits_;  // [experts][cells][units of 16 slots]
  std::vector<std::uint32_t> free_;
  std::uint32_t cells_ = 0, units_ = 0;
};

}  // namespace moekv
