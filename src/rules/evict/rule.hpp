// What an eviction rule sees of a unit (a page or a token entry) and what it must declare.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/hd.hpp"

namespace moekv::evict {

/// `score`: state beside the entries, lowest score goes first. `queue`: lists of pages or tokens, the rule says which is next. `none`: never evicts.
enum class Family : std::uint8_t { none, score, queue };

/// What a rule of attention mass keeps of an entry.
struct Mass {
  float value = 0;         // the rule's accumulator
  std::uint32_t seen = 0;  // queries that read the entry
};

/// What a rule of accesses keeps of a page. Times are steps; storing counts as the first access.
struct Access {
  std::uint32_t birth = 0, last = 0, count = 1;
  float heat = 1;  // the rule's own
};

/// What a plan of tiers divides.
enum class PlanAxis : std::uint8_t { sequence, token_prefix, token_suffix, page_hash };

/// Largest values among the units that compete, for rules that normalise.
struct Peers {
  std::uint32_t last = 0, count = 0;
  float state = 0;
};

/// One evictable unit, as a score rule sees it.
struct UnitView {
  std::uint32_t request;
  std::uint32_t layer;
  std::uint32_t position;    // of the entry, or the smallest live position of the page
  std::uint64_t step;        // the step that decides
  float state;               // what the rule reads from its accumulator (reduced over the page for page units)
  std::uint64_t seed;
  std::uint32_t age = 0;     // tokens of the request behind its newest
  Access access = {};        // page units of rules with needs_access
  Peers peers = {};
  std::uint32_t total = 0;   // tokens of the request, prompt and output
  float cost = 0;            // rules with needs_cost: what it takes to read the unit
};

template <class Rule>
inline constexpr bool needs_mass = requires { requires Rule::needs_mass; };
/// The rule keeps an Access of every page.
template <class Rule>
inline constexpr bool needs_access = requires { requires Rule::needs_access; };
/// The rule scores an entry by its key and value when it is stored.
template <class Rule>
inline constexpr bool needs_payload = requires { requires Rule::needs_payload; };
/// The rule only acts where evicted units can return.
template <class Rule>
inline constexpr bool needs_return = requires { requires Rule::needs_return; };
/// The rule plans which units the host tier holds, whatever a budget says.
template <class Rule>
inline constexpr bool places = requires { requires Rule::places; };
/// The rule weighs what reading a unit takes.
template <class Rule>
inline constexpr bool needs_cost = requires { requires Rule::needs_cost; };
/// The rule smooths the states of neighbouring tokens, so it has no pages.
template <class Rule>
inline constexpr bool pools = requires(const Rule& rule) { rule.pool_kernel; };
/// Accesses change what the rule does, so its unit is the page.
template <class Rule>
inline constexpr bool follows_access = needs_access<Rule> || requires { requires Rule::refreshes; };

/// What the rule reads from an accumulator.
template <class Rule>
MOEKV_HD float read(const Rule& rule, const Mass& mass) {
  if constexpr (requires { rule.read(mass); }) return rule.read(mass);
  return mass.value;
}

/// One access at step `now`.
template <class Rule>
MOEKV_HD void touch(const Rule& rule, Access& access, std::uint32_t now) {
  if constexpr (requires { rule.heat(access, now); }) access.heat = rule.heat(access, now);
  access.last = now;
  access.count += 1;
}

}  // namespace moekv::evict
