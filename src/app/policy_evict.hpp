// The kinds of eviction cases that have a file of their own, and the entries that those with scores decide on.
#pragma once

#include <vector>

#include "app/policy_case.hpp"
#include "config/names.hpp"
#include "engine/turns.hpp"
#include "rules/evict/catalogue.hpp"

namespace moekv::policy_evict {

/// Field "attention": [steps][heads][entries]; a row of numbers is one head.
[[nodiscard]] std::vector<std::vector<std::vector<double>>> read_attention(Case& given);
/// Evict-after-step over attention rows: one entry is stored a step.
[[nodiscard]] Json decide_attention(Case& given, const EvictRule& rule);
/// Capacities of groups that share a budget.
[[nodiscard]] Json decide_allocator(Case& given);
/// Scores and victims of units whose state ("state", or "keys", "values" and "queries") is given.
[[nodiscard]] Json decide_state(Case& given, const EvictRule& rule);

/// Protection of a case: parameters "recent", "sinks" (also "start") and "hh", which only has to fit the capacity.
struct Protection {
  std::uint32_t recent = 0, sinks = 0;
};
[[nodiscard]] Protection read_protection(Case& given, std::uint32_t capacity);

/// What goes at once: pages of `slots` positions (1: single entries), and which of equal scores stays. Fields "page_slots", "page_reducer", "ties".
struct Units {
  std::uint32_t slots = 1;
  PageReducer reducer = PageReducer::mean;
  Ties ties = Ties::newest;
};
[[nodiscard]] Units read_units(Case& given);

struct Entry {
  std::uint32_t position;
  evict::Mass mass;
  evict::Access access;
  float cost = 0;
  std::uint32_t layer = 0;
  float score = 0;  // of its unit
};

/// Indices of victims in the order in which their units go: at least n entries, and all that score below `below`. A unit with a protected entry stays.
[[nodiscard]] std::vector<std::size_t> victims(const std::vector<Entry>& entries, const Units& units, std::size_t n, float below, std::uint32_t length,
                                               const Protection& protect);
[[nodiscard]] Json positions_of(const std::vector<Entry>& entries);
[[nodiscard]] Json scores_of(const std::vector<Entry>& entries);
void remove(std::vector<Entry>& entries, std::vector<std::size_t> gone);

/// Gives entries the scores of their units, as a replay does. `group` has what a rule of groups reads besides states and positions.
void score(const EvictRule& rule, std::vector<Entry>& entries, const Units& units, std::uint64_t step, std::uint32_t newest, std::uint64_t seed,
           evict::GroupView group = {});

}  // namespace moekv::policy_evict
