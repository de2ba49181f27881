// Shard, reuse: when pages entered, were looked up and left, on the clock of their budget's lookups; and how scattered free blocks lie.
#include <algorithm>
#include <utility>

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

void Shard::count_free(Usage& usage) const {
  for (const auto* pools : {&raw_pools_, &sealed_pools_}) {
    for (const BlockPool& pool : *pools) {
      std::vector<std::uint32_t> blocks = pool.free;
      std::sort(blocks.begin(), blocks.end());
      std::int64_t run = 0;
      for (std::size_t i = 0; i < blocks.size(); ++i) {
        run = i > 0 && blocks[i] == blocks[i - 1] + 1 ? run + 1 : 1;
        usage.free_run_bytes = std::max(usage.free_run_bytes, run * static_cast<std::int64_t>(pool.block_bytes));
      }
      usage.free_bytes += static_cast<std::int64_t>(blocks.size() * pool.block_bytes);
    }
  }
}

}  // namespace moekv
