// Records of the second pass over an access log: what a run is measured against. Kept with the records of the run.
#pragma once

#include <array>
#include <cstdint>
#include <tuple>

#include "core/field.hpp"

namespace moekv {

/// Misses of reference caches on the accesses that the run logged, for one shard or for all shards pooled (second pass, moekv oracle).
struct BoundRecord {
  std::int64_t shard = 0;
  std::int64_t n_req = 0, n_miss = 0, written_pages = 0, capacity_pages = 0;
  std::int64_t opt_bypass_miss = 0, opt_forced_miss = 0, lru_miss = 0, random_miss = 0, overcommit_pages = 0;

  static constexpr auto metrics = std::array{
      Metric{"shard", &BoundRecord::shard, "1", "shard with its own budgets; -1: one cache of the capacity of all shards together", Scope::shard, ClaimClass::counted, Combine::key},
      Metric{"n_req", &BoundRecord::n_req, "1", "lookups in the log", Scope::shard, ClaimClass::counted, Combine::sum},
      Metric{"n_miss", &BoundRecord::n_miss, "1", "those that missed in the run", Scope::shard, ClaimClass::counted, Combine::sum},
      Metric{"written_pages", &BoundRecord::written_pages, "1", "pages that became resident by a write, or came back without a lookup; compulsory, no misses", Scope::shard, ClaimClass::counted, Combine::sum},
      Metric{"capacity_pages", &BoundRecord::capacity_pages, "1", "largest capacity: of each open budget its pages, or what the run held there where that was more", Scope::shard, ClaimClass::counted, Combine::max},
      Metric{"opt_bypass_miss", &BoundRecord::opt_bypass_miss, "1", "misses of the offline optimum that may decline to keep a page", Scope::shard, ClaimClass::counted, Combine::sum},
      Metric{"opt_forced_miss", &BoundRecord::opt_forced_miss, "1", "misses of the offline optimum that keeps what a step touched until the step ends", Scope::shard, ClaimClass::counted, Combine::sum},
      Metric{"lru_miss", &BoundRecord::lru_miss, "1", "misses of LRU to which missed pages come back", Scope::shard, ClaimClass::counted, Combine::sum},
      Metric{"random_miss", &BoundRecord::random_miss, "1", "misses of random victims, to which missed pages come back", Scope::shard, ClaimClass::counted, Combine::sum},
      Metric{"overcommit_pages", &BoundRecord::overcommit_pages, "1", "pages that a step touched beyond the capacity, summed over steps (opt_forced)", Scope::shard, ClaimClass::counted, Combine::sum}};
};

/// Attention that one sampled (request, layer) loses to its budget, and what it had to lose (second pass, moekv oracle).
struct MassBoundRecord {
  std::int64_t request = 0, layer = 0, budget_tokens = 0, n_steps = 0, n_tokens = 0, excess_tokens = 0;
  double mass = 0, lost_mass = 0, orc_select = 0, orc_mass = 0, orc_greedy = 0, residual = 0;

  static constexpr auto metrics = std::tuple{
      Metric{"request", &MassBoundRecord::request, "1", "request sampled", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"layer", &MassBoundRecord::layer, "1", "model layer sampled", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"budget_tokens", &MassBoundRecord::budget_tokens, "1", "tokens that it may keep", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"n_steps", &MassBoundRecord::n_steps, "1", "steps it took part in", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"n_tokens", &MassBoundRecord::n_tokens, "1", "tokens stored", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"excess_tokens", &MassBoundRecord::excess_tokens, "1", "largest number of tokens that the run held above budget + stored in the step; where it is not 0 the run may lose less than orc_mass", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"mass", &MassBoundRecord::mass, "1", "attention of full history on its keys, all queries, mean over heads", Scope::request, ClaimClass::measured, Combine::key},
      Metric{"lost_mass", &MassBoundRecord::lost_mass, "1", "the part on tokens that the run no longer held", Scope::request, ClaimClass::measured, Combine::key},
      Metric{"orc_select", &MassBoundRecord::orc_select, "1", "lost by the best visible set of each step (bound of rules that bring tokens back)", Scope::request, ClaimClass::measured, Combine::key},
      Metric{"orc_mass", &MassBoundRecord::orc_mass, "1", "lost by the best choice of victims (exact assignment; bound of rules that drop); NaN above 2048 evictions", Scope::request, ClaimClass::measured, Combine::key},
      Metric{"orc_greedy", &MassBoundRecord::orc_greedy, "1", "lost when the token with the least attention to come goes", Scope::request, ClaimClass::measured, Combine::key},
      Metric{"residual", &MassBoundRecord::residual, "1", "attention that the log does not tell by token: what orc_* may be too low by", Scope::request, ClaimClass::measured, Combine::key}};
};

}  // namespace moekv
