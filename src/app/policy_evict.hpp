// The kinds of eviction cases that have a file of their own.
#pragma once

#include "app/policy_case.hpp"
#include "rules/evict/catalogue.hpp"

namespace moekv::policy_evict {

/// Field "attention": [steps][heads][entries]; a row of numbers is one head.
[[nodiscard]] std::vector<std::vector<std::vector<double>>> read_attention(Case& given);
/// Evict-after-step over attention rows: one entry is stored a step.
[[nodiscard]] Json decide_attention(Case& given, const EvictRule& rule);
/// Capacities of groups that share a budget.
[[nodiscard]] Json decide_allocator(Case& given);
/// Scores and victims of units whose state ("state", or "keys" and "values") is given.
[[nodiscard]] Json decide_state(Case& given, const EvictRule& rule);

}  // namespace moekv::policy_evict
