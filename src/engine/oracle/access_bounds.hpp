// Offline bounds of a run's lookups, and what its misses are made of (eviction.md section 6.1, METRICS 7.1).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/oracle/access_trace.hpp"
#include "engine/records.hpp"

namespace moekv {

/// Misses by the chain pooled LRU -> sharded LRU -> policy. Both directions of each link: a lookup that the later cache misses and the earlier one
/// had is lost, the reverse is gained. `compulsory` is 0 while every page is written before it is looked up.
struct MissAnatomy {
  std::int64_t compulsory = 0, capacity = 0;
  std::int64_t placement_lost = 0, placement_gained = 0, policy_lost = 0, policy_gained = 0;
};

struct AccessBounds {
  std::vector<BoundRecord> shards;  // ascending, those that have budgets
  BoundRecord pooled;               // shard -1
  BoundRecord total;                // sum over shards
  MissAnatomy anatomy;
  std::int64_t wrong_outcomes = 0;  // lookups whose logged outcome contradicts the logged writes and evictions; 0 by law
};

/// Runs every reference cache beside the run over the closed trace, whose budgets all have a limit. Seed: of random victims.
[[nodiscard]] AccessBounds bound_accesses(const AccessTrace& trace, std::uint64_t seed);

/// Conservation and order laws; `n_req` and `n_miss` are the run's own totals, -1 where not known.
[[nodiscard]] std::vector<std::string> check_bounds(const AccessBounds& bounds, std::int64_t n_req, std::int64_t n_miss);

/// What a result file says about them.
[[nodiscard]] std::vector<Summary> summarise_bounds(const AccessBounds& bounds);

}  // namespace moekv
