// What shards keep from step to step, field by field. Structs are taken apart whole: a new field that is missing here does not compile.
#include "core/state_stream.hpp"
#include "engine/shard.hpp"

namespace moekv {

void EvictList::transfer(StateStream& stream) {
  auto& [queue_, tokens_, live_, pages_, bytes_, budget_, share_, control_, turns_, lookups_, step_, needed_live_, needed_pages_, needed_bytes_,
         dirty_] = *this;
  stream(queue_, tokens_, live_, pages_, bytes_, budget_, share_, control_, turns_, lookups_, step_, needed_live_, needed_pages_, needed_bytes_,
         dirty_);
}

void Chain::transfer(StateStream& stream) {
  auto& [expert_, side_, open_, pages_, run_, newest_, ascending_, one_begun_, holes_, gone_, shadow_open_, used_, hits_, cold_, written_, alive_,
         primary_, live_, shadow_written_, entered_, unit_, units_, experts_, blockers_] = *this;
  stream(expert_, side_, open_, pages_, run_, newest_, ascending_, one_begun_, holes_, gone_, shadow_open_, used_, hits_, cold_, written_, alive_,
         primary_, live_, shadow_written_, entered_, unit_, units_, experts_, blockers_);
}

void RecentQueries::transfer(StateStream& stream) {
  auto& [rows_, positions_, next_] = *this;
  stream(rows_, positions_, next_);
}

void Group::transfer(StateStream& stream) {
  auto& [request_, layer_, head_group_, home_, chains_, order_, list_, protect_, allotted_, entropy_, squares_, queried_, experts_, recent_,
         in_use_] = *this;
  stream(request_, layer_, head_group_, home_, chains_, order_, list_, protect_, allotted_, entropy_, squares_, queried_, experts_, recent_, in_use_);
}

void ReuseClock::transfer(StateStream& stream) {
  stream(now_, next_slot_, weight_, units_, free_, owner_, weights_);
  asked_ = none;
  build_tree();
}

void BlockPool::transfer(StateStream& stream) { stream(next, free); }

void Shard::transfer(StateStream& stream) {
  for (auto* pools : {&raw_pools_, &sealed_pools_, &raw_host_pools_, &sealed_host_pools_}) {
    for (BlockPool& pool : *pools) stream(pool);
  }
  stream(demoted_, recalled_, index_, groups_, free_groups_, dirty_, queried_, pages_, free_pages_, list_, budgets_, capacities_, allocation_error_,
         arrivals_, n_tables_, replan_blamed_, clocks_, page_units_, eviction_ages_);
  stream(positions_, shadow_of_, smaller_, alive_, live_, primary_, experts_, copy_of_, copy_, state_, window_mass_, nodes_, access_,
         block_bytes_, live_entries_);
}

}  // namespace moekv
