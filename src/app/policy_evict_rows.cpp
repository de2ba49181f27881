// moekv policy evict, with attention rows or given state: what scores lead to.
#include <limits>
#include <numeric>

#include "app/policy_evict.hpp"
#include "config/names.hpp"

namespace moekv::policy_evict {
namespace {

constexpr auto any = std::numeric_limits<std::uint32_t>::max();

/// Protection of a case: parameters "recent", "sinks" (also "start" and "sink") and "hh", which only has to fit the capacity.
struct Protection {
  std::uint32_t recent = 0, sinks = 0;
};

Protection read_protection(Case& given, std::uint32_t capacity) {
  Case params = given.part("params");
  Protection out;
  out.recent = params.value_or("recent", 0U);
  out.sinks = std::max(params.value_or("sinks", 0U), params.value_or("start", 0U));
  const auto heavy = params.value_or("hh", any);
  if (heavy != any && !given.failed() && heavy + out.recent != capacity)
    params.complain("hh", fmt::format("hh {} and recent {} do not make the capacity {}", heavy, out.recent, capacity));
  return out;
}

struct Entry {
  std::uint32_t position;
  evict::Mass mass;
  evict::Access access;
  float cost = 0;
  float score = 0;
};

/// Scores of entries that compete, as a replay gives them to token units.
template <class Rule>
void score(const Rule& rule, std::vector<Entry>& entries, std::uint64_t step, std::uint32_t newest, std::uint64_t seed) {
  std::vector<float> states;
  evict::Peers peers;
  for (const Entry& e : entries) {
    states.push_back(evict::read(rule, e.mass));
    peers.last = std::max(peers.last, e.access.last);
    peers.count = std::max(peers.count, e.access.count);
    peers.state = std::max(peers.state, states.back());
  }
  for (std::uint32_t i = 0; i < entries.size(); ++i) {
    evict::UnitView view{0, 0, entries[i].position, step, states[i], seed};
    if constexpr (evict::pools<Rule>) view.state = rule.pooled(states.data(), static_cast<std::uint32_t>(states.size()), i);
    view.age = newest > entries[i].position ? newest - entries[i].position : 0;
    view.access = entries[i].access;
    view.peers = peers;
    view.cost = entries[i].cost;
    view.total = newest + 1;
    if constexpr (requires { rule.score(view); }) {
      entries[i].score = rule.score(view);
    } else {
      entries[i].score = static_cast<float>(entries[i].position);  // queues of tokens without accesses: the oldest goes
    }
  }
}

/// Indices of victims, lowest score first, ties by lowest position.
std::vector<std::size_t> victims(const std::vector<Entry>& entries, std::size_t n, std::uint32_t length, const Protection& protect) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].position >= protect.sinks && entries[i].position + protect.recent < length) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return entries[a].score < entries[b].score; });
  order.resize(std::min(n, order.size()));
  return order;
}

Json scores_of(const std::vector<Entry>& entries) {
  Json out = Json::object();
  for (const Entry& e : entries) out[std::to_string(e.position)] = e.score;
  return out;
}

Json positions_of(const std::vector<Entry>& entries) {
  Json out = Json::array();
  for (const Entry& e : entries) out.push_back(e.position);
  return out;
}

void remove(std::vector<Entry>& entries, std::vector<std::size_t> gone) {
  std::sort(gone.rbegin(), gone.rend());
  for (const std::size_t i : gone) entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(i));
}

}  // namespace

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
      if (heads.back().size() != heads.front().size()) given.complain(fmt::format("attention/{}", t), "heads have rows of unequal length");
    }
    out.push_back(std::move(heads));
  }
  return out;
}

Json decide_attention(Case& given, const EvictRule& rule) {
  const auto capacity = given.value<std::uint32_t>("capacity", {1, 1e9});
  const Protection protect = read_protection(given, capacity);
  const auto reducer = given.value_or("head_reducer", Reducer::mean);
  const auto seed = given.value_or("seed", std::uint64_t{1});
  const auto over = given.value_or("over", std::string("resident"));
  if (over != "resident" && over != "all") given.complain("over", "unknown value '" + over + "'", "allowed: resident, all");
  const auto rows = read_attention(given);
  std::visit([&](const auto& r) {
    using Rule = std::decay_t<decltype(r)>;
    if constexpr (evict::follows_access<Rule> && !evict::needs_mass<Rule>)
      given.complain("attention", fmt::format("rule {} scores no attention", r.name), "give \"accesses\"");
    if constexpr (evict::needs_payload<Rule>) given.complain("attention", fmt::format("rule {} scores no attention", r.name), "give \"keys\" and \"values\"");
    if constexpr (evict::places<Rule> || evict::needs_cost<Rule>)
      given.complain("attention", fmt::format("rule {} scores no attention", r.name), "give \"state\"");
  }, rule);
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
      score(r, entries, t, t, seed);
    }, rule);
    scores = scores_of(entries);
    const bool never = std::visit([](const auto& r) { return r.family == evict::Family::none; }, rule);
    if (never || entries.size() <= capacity) continue;
    const auto gone = victims(entries, entries.size() - capacity, t + 1, protect);
    for (const std::size_t i : gone) evictions.push_back(entries[i].position);
    remove(entries, gone);
  }
  Json out = {{"evictions", evictions}, {"resident", positions_of(entries)}, {"scores", scores}};
  if (over == "all") out["lost_mass"] = lost;
  return out;
}

Json decide_state(Case& given, const EvictRule& rule) {
  const auto capacity = given.value<std::uint32_t>("capacity", {0, 1e9});
  const Protection protect = read_protection(given, capacity);
  const auto seed = given.value_or("seed", std::uint64_t{1});
  const auto keys = given.matrix<float>("keys"), values = given.matrix<float>("values");
  Case state = given.part("state");
  const auto last = state.list<std::uint32_t>("last"), count = state.list<std::uint32_t>("count");
  const auto mass = state.list<float>("mass"), heat = state.list<float>("heat"), cost = state.list<float>("cost");
  const std::size_t n = std::max({keys.n_rows, last.size(), count.size(), mass.size(), heat.size(), cost.size()});
  const auto now = given.value_or("now", static_cast<std::uint64_t>(n > 0 ? n - 1 : 0));
  const auto payload = std::visit([](const auto& r) { return evict::needs_payload<std::decay_t<decltype(r)>>; }, rule);
  if (payload) given.require("keys");
  if (!payload && n == 0) given.complain("", "nothing to decide on", "give accesses, attention, or state with last, count, mass, heat or cost");
  for (const auto& [name, size] : std::initializer_list<std::pair<const char*, std::size_t>>{
           {"last", last.size()}, {"count", count.size()}, {"mass", mass.size()}, {"heat", heat.size()}, {"cost", cost.size()}}) {
    if (size != 0 && size != n) state.complain(name, fmt::format("has {} values for {} entries", size, n));
  }
  if (values.n_rows != 0 && values.n_rows != keys.n_rows) given.complain("values", "as many rows as keys");
  given.finish();
  std::vector<Entry> entries;
  for (std::uint32_t i = 0; i < n; ++i) {
    Entry e{i, {mass.empty() ? 0.0F : mass[i], 1}, {}};
    if (!last.empty()) e.access.last = last[i];
    if (!count.empty()) e.access.count = count[i];
    if (!heat.empty()) e.access.heat = heat[i];
    if (!cost.empty()) e.cost = cost[i];
    entries.push_back(e);
  }
  std::visit([&](const auto& r) {
    if constexpr (evict::needs_payload<std::decay_t<decltype(r)>>) {
      for (std::uint32_t i = 0; i < n; ++i) {
        const bool own = values.n_rows != 0;
        entries[i].mass.value = r.stored(keys.row(i), static_cast<std::uint32_t>(keys.n_columns), own ? values.row(i) : keys.row(i),
                                         static_cast<std::uint32_t>(own ? values.n_columns : keys.n_columns), seed);
      }
    }
    score(r, entries, now, static_cast<std::uint32_t>(now), seed);
  }, rule);
  const Json scores = scores_of(entries);
  const auto gone = victims(entries, n > capacity ? n - capacity : 0, static_cast<std::uint32_t>(n), protect);
  Json evictions = Json::array();
  for (const std::size_t i : gone) evictions.push_back(entries[i].position);
  remove(entries, gone);
  return {{"evictions", evictions}, {"resident", positions_of(entries)}, {"scores", scores}};
}

}  // namespace moekv::policy_evict
