// moekv policy evict: what an eviction rule or a bound drops, for accesses, for attention rows, or from given state.
#include "app/policy_evict.hpp"

#include <map>

#include "app/policy.hpp"
#include "engine/bounds.hpp"
#include "engine/oracle/access_loop.hpp"

namespace moekv {
namespace {

/// Names of units in order of first appearance.
struct Names {
  std::vector<Json> text;
  std::vector<std::uint32_t> sequence;
};

Names read_accesses(Case& given) {
  Names out;
  const Json* list = given.find("accesses");
  if (!list->is_array()) {
    given.complain("accesses", "expected a list, got " + describe(*list));
    return out;
  }
  std::map<std::string, std::uint32_t> ids;
  for (std::size_t i = 0; i < list->size(); ++i) {
    const Json& name = (*list)[i];
    if (!name.is_string() && !name.is_number_integer()) {
      given.complain(fmt::format("accesses/{}", i), "expected a text or a whole number, got " + describe(name));
      return out;
    }
    const auto [it, added] = ids.try_emplace(name.dump(), static_cast<std::uint32_t>(out.text.size()));
    if (added) out.text.push_back(name);
    out.sequence.push_back(it->second);
  }
  return out;
}

Json named(const Names& names, const std::vector<std::uint32_t>& units) {
  Json out = Json::array();
  for (const std::uint32_t u : units) out.push_back(names.text[u]);
  return out;
}

Json outcome_of(const Names& names, const evict::AccessOutcome& out) {
  std::string text;
  for (const bool h : out.hit) text += h ? 'H' : 'm';
  return {{"outcome", text},
          {"hits", std::count(out.hit.begin(), out.hit.end(), true)},
          {"evictions", named(names, out.evictions)},
          {"resident", named(names, out.resident)}};
}

Json decide_belady(Case& given, bool bypass) {
  given.require("accesses");
  const auto capacity = given.value<std::uint32_t>("capacity", {1, 1e9});
  const Names names = given.has("accesses") ? read_accesses(given) : Names{};
  (void)given.part("params");
  given.finish();
  return outcome_of(names, evict::belady(names.sequence, static_cast<std::uint32_t>(names.text.size()), capacity, bypass));
}

/// One head's rows of full attention; several heads of a row are reduced to their mean.
evict::AttentionRows full_rows(const std::vector<std::vector<std::vector<double>>>& heads) {
  evict::AttentionRows out;
  for (const auto& row : heads) {
    out.emplace_back(row.empty() ? 0 : row.front().size(), 0.0);
    for (const auto& head : row) {
      for (std::size_t i = 0; i < head.size() && i < out.back().size(); ++i) out.back()[i] += head[i] / static_cast<double>(row.size());
    }
  }
  return out;
}

Json decide_mass_bound(Case& given, const std::string& name) {
  given.require("attention");
  const auto budget = given.value<std::uint32_t>("capacity", {1, 1e9});
  const std::string over = given.value_or("over", std::string("all"));
  if (over != "all") given.complain("over", "a bound needs rows over all entries", "set \"over\": \"all\"");
  (void)given.part("params");
  const evict::AttentionRows rows = full_rows(policy_evict::read_attention(given));
  for (std::size_t t = 0; t < rows.size(); ++t) {
    if (rows[t].size() != t + 1) given.complain(fmt::format("attention/{}", t), fmt::format("has {} weights, entries 0..{} need {}", rows[t].size(), t, t + 1));
  }
  given.finish();
  if (name == "orc.select") return {{"lost_mass", evict::select_lost(rows, budget)}, {"evictions", Json::array()}};
  const auto evictions = name == "orc.greedy" ? evict::greedy_evictions(rows, budget) : evict::mass_evictions(rows, budget);
  Json gone = Json::array();
  for (const auto& e : evictions) gone.push_back(e.entry);
  return {{"lost_mass", evict::lost_mass(rows, evictions)}, {"evictions", gone}};
}

struct Followed {
  evict::AccessOutcome outcome;
  std::vector<std::vector<std::uint32_t>> lists;  // of a queue rule
};

template <class Rule>
constexpr bool scores_accesses = !(evict::needs_mass<Rule> && !evict::needs_access<Rule>) && !evict::needs_payload<Rule> && !evict::scores_groups<Rule>;

template <class Rule>
Followed follow(const Rule& rule, std::uint32_t capacity, std::uint64_t seed, const Names& names) {
  Followed out;
  AccessLoop<Rule> loop(rule, capacity, static_cast<std::uint32_t>(names.text.size()), seed);
  loop.run(names.sequence, [&](bool hit) { out.outcome.hit.push_back(hit); }, [&](std::uint32_t u) { out.outcome.evictions.push_back(u); });
  out.outcome.resident = loop.residents();
  if constexpr (Rule::family == evict::Family::queue) {
    for (std::uint8_t l = 0; l < 4; ++l) out.lists.push_back(loop.list(l));
  }
  return out;
}

Json decide_accesses(Case& given, const EvictRule& rule) {
  const auto capacity = given.value<std::uint32_t>("capacity", {1, 1e9});
  const auto seed = given.value_or("seed", std::uint64_t{1});
  const Names names = read_accesses(given);
  const evict::Traits& traits = traits_of(rule);
  const auto refuse = [&](std::string_view instead) {
    given.complain("accesses", fmt::format("rule {} scores no accesses", rule_name(rule)), fmt::format("give {}", instead));
  };
  if ((traits.needs_mass && !traits.needs_access) || traits.needs_payload || traits.scores_groups)
    refuse("\"attention\", or \"keys\" and \"values\"");
  if (traits.places || traits.needs_cost) refuse("\"state\"");
  given.finish();
  Followed out;
  std::visit([&](const auto& r) {
    if constexpr (scores_accesses<std::decay_t<decltype(r)>>) out = follow(r, capacity, seed, names);
  }, rule);
  Json result = outcome_of(names, out.outcome);
  if (!out.lists.empty()) {
    result["lists"] = Json::array();
    for (const auto& list : out.lists) result["lists"].push_back(named(names, list));
  }
  return result;
}

}  // namespace

Json decide_evict(Case& given) {
  if (given.has("allocator")) return policy_evict::decide_allocator(given);
  if (const Json* name = given.find("rule"); name != nullptr && name->is_string()) {
    const auto text = name->get<std::string>();
    if (text == "opt.forced" || text == "opt.bypass") return decide_belady(given, text == "opt.bypass");
    if (text == "orc.select" || text == "orc.mass" || text == "orc.greedy") return decide_mass_bound(given, text);
  }
  const auto rule = given.rule<EvictRule>("rule");
  if (given.has("accesses")) return decide_accesses(given, rule);
  if (given.has("attention")) return policy_evict::decide_attention(given, rule);
  return policy_evict::decide_state(given, rule);
}

}  // namespace moekv
