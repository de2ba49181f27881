// What an eviction rule sees of a unit (a page or a token entry) and what it must declare.
#pragma once

#include <cstdint>
#include <limits>
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

/// What a rule with a threshold keeps of a budget: its threshold, and the lookups since it last moved.
struct Control {
  float theta = -1;          // negative: the rule's initial one
  std::uint32_t steps = 0;
  std::uint64_t lookups = 0, hits = 0;
};

/// A perceptron with one hidden layer of `n` units, for rules that take loaded weights; `hidden` null: none are loaded.
struct Perceptron {
  const float *hidden = nullptr, *hidden_bias = nullptr, *out = nullptr;  // [n][d_k + d_v], [n], [n]
  float out_bias = 0;
  std::uint32_t n = 0;
};

/// The key and value of one KV head of an entry that is stored.
struct Stored {
  const float *k, *v;
  std::uint32_t d_k, d_v;
  std::uint64_t seed;
  Perceptron weights = {};
};

template <class Rule>
inline constexpr bool needs_mass = requires { requires Rule::needs_mass; };
/// The rule keeps an Access of every page.
template <class Rule>
inline constexpr bool needs_access = requires { requires Rule::needs_access; };
/// The rule scores an entry by its key and value when it is stored.
template <class Rule>
inline constexpr bool needs_payload = requires { requires Rule::needs_payload; };
/// The rule's state is the error that compression made in an entry, 0 while it is raw.
template <class Rule>
inline constexpr bool needs_error = requires { requires Rule::needs_error; };
/// The rule takes a Perceptron from a file.
template <class Rule>
inline constexpr bool loads_weights = requires { requires Rule::loads_weights; };
/// The rule only acts where evicted units can return.
template <class Rule>
inline constexpr bool needs_return = requires { requires Rule::needs_return; };
/// The rule plans which units the host tier holds, whatever a budget says.
template <class Rule>
inline constexpr bool places = requires { requires Rule::places; };
/// The rule weighs what reading a unit takes.
template <class Rule>
inline constexpr bool needs_cost = requires { requires Rule::needs_cost; };
/// The rule chooses once, when the prompt ends.
template <class Rule>
inline constexpr bool chooses_once = requires { requires Rule::chooses_once; };
/// The state of an entry is the sum over the layers whose entry of the token the shard holds.
template <class Rule>
inline constexpr bool sums_layers = requires { requires Rule::sums_layers; };
/// Accesses change what the rule does.
template <class Rule>
inline constexpr bool follows_access = needs_access<Rule> || requires { requires Rule::refreshes; };
/// The rule scores the entries of a group together: GroupView (group_view.hpp) and `score_group`.
template <class Rule>
inline constexpr bool scores_groups = requires { requires Rule::scores_groups; };
/// ... by what the store holds of them: `reads` says which rows.
template <class Rule>
inline constexpr bool reads_store = requires(const Rule& rule) { rule.reads(); };

/// What can be evicted at once. Rules that follow accesses or score pages have no tokens: an access is of a page.
enum class Unit : std::uint8_t { token, page };
template <class Rule>
inline constexpr bool has_tokens = !follows_access<Rule> && !requires { requires Rule::scores_pages; };
/// The unit where nothing else is asked for: the entry for rules that keep state of entries, else the page.
template <class Rule>
inline constexpr Unit default_unit =
    (needs_mass<Rule> || needs_payload<Rule> || scores_groups<Rule>) && has_tokens<Rule> && !requires { requires Rule::prefers_pages; } ? Unit::token
                                                                                                                                    : Unit::page;

/// A rule whose score is its state.
struct ScoresState {
  static constexpr Family family = Family::score;
  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return u.state; }
};

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

/// The score below which every unit goes when an eviction is due, whatever the budget would still hold; -infinity for rules without one.
template <class Rule>
MOEKV_HD float threshold(const Rule& rule, const Control& control) {
  if constexpr (requires { rule.threshold(control); }) return rule.threshold(control);
  return -std::numeric_limits<float>::infinity();
}

/// The rule moves its threshold with what lookups found.
template <class Rule>
inline constexpr bool adapts = requires(const Rule& rule, Control& control) { rule.adapt(control); };

/// A step with lookups of a budget's pages has ended.
template <class Rule>
MOEKV_HD void end_step(const Rule& rule, Control& control) {
  if constexpr (adapts<Rule>) {
    if (++control.steps < rule.delta) return;
    rule.adapt(control);
    control.steps = 0;
    control.lookups = control.hits = 0;
  }
}

}  // namespace moekv::evict
