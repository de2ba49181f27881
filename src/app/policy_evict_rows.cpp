// moekv policy evict, with attention rows: what scores lead to, step by step.
#include <algorithm>
#include <numeric>

#include "app/policy_evict.hpp"

namespace moekv::policy_evict {

std::vector<std::vector<std::vector<double>>> read_attention(Case& given) {
  std::vector<std::vector<std::vector<double>>> out;
  const Json* rows = given.find("attention");
  if (rows == nullptr || !rows->is_array()) {
    given.complain("attention", "expected a list of rows");
    return out;
  }
  for (std::size_t t = 0; t < rows->size() && !given.failed(); ++t) {
    const Json& row = (*rows)[t];
    const bool several = row.is_array() && !row.empty() && row.front().is_array();
    std::vector<std::vector<double>> heads;
    for (const Json& head : several ? row : Json::array({row})) {
      if (!head.is_array() || !std::all_of(head.begin(), head.end(), [](const Json& x) { return x.is_number(); })) {
        given.complain(fmt::format("attention/{}", t), "expected a list of numbers or a list of such lists, got " + describe(head));
        return out;
      }
      heads.push_back(head.get<std::vector<double>>());
      if (std::any_of(heads.back().begin(), heads.back().end(), [](double a) { return !(a >= 0 && a <= 1e30); }))
        given.complain(fmt::format("attention/{}", t), "has a weight that is no attention", "weights lie in 0..1e30");
      if (heads.back().size() != heads.front().size()) given.complain(fmt::format("attention/{}", t), "heads have rows of unequal length");
    }
    out.push_back(std::move(heads));
  }
  return out;
}

// NOLINTNEXTLINE(readability-function-size): reads a case from its first field to its last
Json decide_attention(Case& given, const EvictRule& rule) {
  const auto capacity = given.value<std::uint32_t>("capacity", {1, 1e9});
  const Protection protect = read_protection(given, capacity);
  const Units units = read_units(given);
  const evict::Traits& traits = traits_of(rule);
  const auto reducer = traits.sums_layers ?  // then the lists of a row are layers
                           Reducer::sum
                                          : given.value_or("head_reducer", Reducer::mean);
  const auto seed = given.value_or("seed", std::uint64_t{1});
  const auto over = given.value_or("over", std::string("resident"));
  if (over != "resident" && over != "all") given.complain("over", "unknown value '" + over + "'", "allowed: resident, all");
  const auto rows = read_attention(given);
  const auto refuse = [&](std::string_view instead) {
    given.complain("attention", fmt::format("rule {} scores no attention", rule_name(rule)), fmt::format("give {}", instead));
  };
  if (traits.follows_access && !traits.needs_mass) refuse("\"accesses\"");
  if (traits.needs_payload || traits.reads_store) refuse("\"keys\" and \"values\"");
  if (traits.places || traits.needs_cost) refuse("\"state\"");
  given.finish();

  std::vector<Entry> entries;
  Json evictions = Json::array(), scores = Json::object();
  double lost = 0;
  for (std::uint32_t t = 0; t < rows.size(); ++t) {
    entries.push_back({t, {}, {t, t}});
    const std::size_t expected = over == "all" ? t + std::size_t{1} : entries.size();
    if (rows[t].front().size() != expected)
      throw UserError(given.where() + fmt::format("/attention/{}", t), fmt::format("has {} weights, {} are expected", rows[t].front().size(), expected));
    std::vector<double> mass(expected);
    for (std::size_t i = 0; i < expected; ++i) {
      double sum = 0, most = 0;
      for (const auto& head : rows[t]) {
        sum += head[i];
        most = std::max(most, head[i]);
      }
      mass[i] = reducer == Reducer::max ? most : reducer == Reducer::sum ? sum : sum / static_cast<double>(rows[t].size());
    }
    if (over == "all") lost += std::accumulate(mass.begin(), mass.end(), 0.0);
    std::visit([&](const auto& r) {
      for (std::size_t i = 0; i < entries.size(); ++i) {
        const double a = mass[over == "all" ? entries[i].position : i];
        if (over == "all") lost -= a;
        if constexpr (requires { r.mass(0.0F, 0.0F); }) entries[i].mass = {r.mass(entries[i].mass.value, static_cast<float>(a)), entries[i].mass.seen + 1};
      }
    }, rule);
    score(rule, entries, units, t, t, seed);
    scores = scores_of(entries);
    if (traits.family == evict::Family::none || entries.size() <= capacity) continue;
    const float below = std::visit([](const auto& r) { return evict::threshold(r, {}); }, rule);
    const auto gone = victims(entries, units, entries.size() - capacity, below, t + 1, protect);
    for (const std::size_t i : gone) evictions.push_back(entries[i].position);
    remove(entries, gone);
  }
  Json out = {{"evictions", evictions}, {"resident", positions_of(entries)}, {"scores", scores}};
  if (over == "all") out["lost_mass"] = lost;
  return out;
}

}  // namespace moekv::policy_evict
