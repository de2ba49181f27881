// Shard, reuse: when pages entered, were looked up and left, on the clock of their budget's lookups; and how scattered free blocks lie.
#include <algorithm>
#include <bit>
#include <span>
#include <utility>
#include <vector>

#include "engine/shard.hpp"

namespace moekv {

void Shard::note_entry(const Group& group, Chain& chain) {
  chain.shadow_entered.resize(chain.shadow_live.size());
  chain.shadow_entered[chain.shadow_open] = clock_of(group).now();
  note(AccessKind::written, group, chain, chain.shadow_open);
}

void Shard::note_eviction(const Group& group, const Chain& chain, std::uint32_t shadow) {
  eviction_ages_.push_back(clock_of(group).now() - chain.shadow_entered[shadow]);
  note(AccessKind::evicted, group, chain, shadow);
}

ReuseClock::Before Shard::look_up_chain(const Group& group, Chain& chain, std::uint32_t pages) {
  ReuseClock& clock = clock_of(group);
  if (chain.reuse_unit == no_index) chain.reuse_unit = clock.add();
  return clock.look_up(chain.reuse_unit, pages);
}

ReuseClock::Before Shard::look_up_shadow(const Group& group, Chain& chain, std::uint32_t shadow) {
  ReuseClock& clock = clock_of(group);
  if (chain.reuse_units.size() <= shadow) chain.reuse_units.resize(chain.shadow_live.size(), no_index);
  std::uint32_t& unit = chain.reuse_units[shadow];
  if (unit == no_index) unit = clock.add();
  return clock.look_up(unit, 1);
}

ReuseClock::Before Shard::look_up_page(const Group& group, std::uint32_t page) {
  ReuseClock& clock = clock_of(group);
  if (page_units_[page] == no_index) page_units_[page] = clock.add();
  return clock.look_up(page_units_[page], 1);
}

void Shard::forget_reuse(const Group& group, Chain& chain) {
  ReuseClock& clock = clock_of(group);
  if (chain.reuse_unit != no_index) clock.remove(std::exchange(chain.reuse_unit, no_index));
  for (const std::uint32_t unit : std::exchange(chain.reuse_units, {})) {
    if (unit != no_index) clock.remove(unit);
  }
}

namespace {

/// Longest run of set bits.
std::int64_t longest_run(std::span<const std::uint64_t> words) {
  std::int64_t run = 0, longest = 0;
  for (std::uint64_t word : words) {
    for (int left = 64; left > 0;) {
      const int ones = std::min(left, std::countr_one(word));
      run += ones;
      left -= ones;
      longest = std::max(longest, run);
      if (left == 0) break;  // it may go on in the next word
      word = ones < 64 ? word >> ones : 0;
      const int zeros = std::min(left, std::countr_zero(word));
      left -= zeros;
      word = zeros < 64 ? word >> zeros : 0;
      run = 0;
    }
  }
  return longest;
}

}  // namespace

void Shard::count_free(Usage& usage) const {
  std::vector<std::uint64_t> is_free;  // a bit for each block that was ever taken
  for (const auto* pools : {&raw_pools_, &sealed_pools_}) {
    for (const BlockPool& pool : *pools) {
      if (pool.free.empty()) continue;
      is_free.assign((pool.next + 63) / 64, 0);
      for (const std::uint32_t block : pool.free) is_free[block / 64] |= 1ULL << (block % 64);
      usage.free_run_bytes = std::max(usage.free_run_bytes, longest_run(is_free) * static_cast<std::int64_t>(pool.block_bytes));
      usage.free_bytes += static_cast<std::int64_t>(pool.free.size() * pool.block_bytes);
    }
  }
}

}  // namespace moekv
