// moekv policy evict, from given state: scores and victims of one decision; and what such cases share with those of attention rows.
#include <algorithm>
#include <limits>
#include <optional>

#include "app/policy_evict.hpp"

namespace moekv::policy_evict {
namespace {

/// Calls f(begin, end) for the entries of each unit; entries ascend by position.
template <class F>
void for_each_unit(const std::vector<Entry>& entries, const Units& units, F&& f) {
  for (std::size_t begin = 0, end = 0; begin < entries.size(); begin = end) {
    while (end < entries.size() && entries[end].position / units.slots == entries[begin].position / units.slots) ++end;
    f(begin, end);
  }
}

/// A unit: entries [begin, end).
struct Competitor {
  evict::UnitView view;
  float score;
  std::size_t begin, end;
};

}  // namespace

Protection read_protection(Case& given, std::uint32_t capacity) {
  constexpr auto any = std::numeric_limits<std::uint32_t>::max();
  Case params = given.part("params");
  Protection out;
  out.recent = params.value_or("recent", 0U);
  out.sinks = std::max(params.value_or("sinks", 0U), params.value_or("start", 0U));
  const auto heavy = params.value_or("hh", any);
  if (heavy != any && !given.failed() && heavy + out.recent != capacity)
    params.complain("hh", fmt::format("hh {} and recent {} do not make the capacity {}", heavy, out.recent, capacity));
  return out;
}

Units read_units(Case& given) {
  Units units;
  units.slots = given.value_or("page_slots", 1U, {1, 1e6});
  units.reducer = given.value_or("page_reducer", PageReducer::mean);
  units.ties = given.value_or("ties", Ties::newest);
  return units;
}

std::vector<std::size_t> victims(const std::vector<Entry>& entries, const Units& units, std::size_t n, float below, std::uint32_t length,
                                 const Protection& protect) {
  const auto may_go = [&](const Entry& e) { return unprotected(protect.sinks, protect.recent, length).holds(e.position, e.position); };
  std::vector<Turn> turns;
  for_each_unit(entries, units, [&](std::size_t begin, std::size_t end) {
    const auto found = static_cast<std::uint32_t>(begin);
    const Entry& first = entries[begin];
    if (may_go(first) && may_go(entries[end - 1]))
      turns.push_back({turn_key(false, first.score, units.ties, first.position), found, found, static_cast<std::uint32_t>(end), first.score});
  });
  std::vector<std::size_t> gone;
  const auto size = [](const Turn& t) { return std::uint64_t{t.slot - t.page}; };  // entries [page, slot) of the case
  (void)take_in_turn(turns, 0, n, n, below, size, [&](const Turn& t) {
    for (std::size_t i = t.page; i < t.slot; ++i) gone.push_back(i);
  });
  return gone;
}

void score(const EvictRule& rule, std::vector<Entry>& entries, const Units& units, std::uint64_t step, std::uint32_t newest, std::uint64_t seed,
           evict::GroupView group) {
  std::vector<float> states(entries.size());
  std::vector<std::uint32_t> positions;
  for (const Entry& e : entries) positions.push_back(e.position);
  std::visit([&](const auto& r) {
    for (std::size_t i = 0; i < entries.size(); ++i) states[i] = evict::read(r, entries[i].mass);
    if constexpr (evict::scores_groups<std::decay_t<decltype(r)>>) {
      const std::vector<float> own = states;
      group.n = static_cast<std::uint32_t>(entries.size());
      group.states = own.data();
      group.positions = positions.data();
      r.score_group(group, states.data());
    }
  }, rule);
  std::vector<Competitor> competitors;
  for_each_unit(entries, units, [&](std::size_t begin, std::size_t end) {
    PageState page;
    for (std::size_t i = begin; i < end; ++i) page.add(states[i]);
    const Entry& first = entries[begin];
    evict::UnitView view{0, first.layer, first.position, step, page.reduced(units.reducer), seed};
    view.age = newest > first.position ? newest - first.position : 0;
    view.access = first.access;
    view.cost = first.cost;
    view.total = newest + 1;
    competitors.push_back({view, static_cast<float>(first.position), begin, end});  // queues of tokens have no scores: the oldest goes
  });
  std::visit([&](const auto& r) { score_units(r, competitors); }, rule);
  for (const Competitor& c : competitors) {
    for (std::size_t i = c.begin; i < c.end; ++i) entries[i].score = c.score;
  }
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

namespace {

/// Keys, values and queries of a case (one KV head), and a perceptron where weights are given.
struct Rows {
  Matrix<float> keys, values, queries;       // queries: [queries x query_heads][d]
  std::vector<std::uint32_t> query_positions, pages;
  std::vector<double> turns;
  std::uint32_t query_heads = 1;
  Matrix<float> hidden;
  std::vector<float> out;

  [[nodiscard]] const Matrix<float>& own_values() const { return values.n_rows != 0 ? values : keys; }
  [[nodiscard]] evict::Stored stored(std::uint32_t i, std::uint64_t seed) const {
    const auto width = [](const Matrix<float>& m) { return static_cast<std::uint32_t>(m.n_columns); };
    evict::Stored row{keys.row(i), own_values().row(i), width(keys), width(own_values()), seed, {}};
    if (hidden.n_rows > 0) row.weights = {hidden.values.data(), nullptr, out.data(), 0, static_cast<std::uint32_t>(hidden.n_rows)};
    return row;
  }
  [[nodiscard]] evict::GroupView view() const {
    evict::GroupView g;
    g.length = static_cast<std::uint32_t>(keys.n_rows);
    g.d_k = static_cast<std::uint32_t>(keys.n_columns);
    g.d_v = static_cast<std::uint32_t>(own_values().n_columns);
    g.n_queries = static_cast<std::uint32_t>(query_positions.size());
    g.q_group = query_heads;
    g.scale = g.d_k > 0 ? 1.0F / sqrt_fixed(static_cast<float>(g.d_k)) : 1.0F;
    g.pages = pages.data();
    g.keys = keys.values.data();
    g.values = own_values().values.data();
    g.queries = queries.values.data();
    g.query_positions = query_positions.data();
    g.rope_turns = turns.data();
    g.rope_pairs = static_cast<std::uint32_t>(turns.size());
    return g;
  }
};

Rows read_rows(Case& given, const EvictRule& rule, const Units& units) {
  Rows rows;
  rows.keys = given.matrix<float>("keys");
  rows.values = given.matrix<float>("values");
  rows.queries = given.matrix<float>("queries");
  rows.query_heads = given.value_or("query_heads", 1U, {1, 1e4});
  rows.turns = given.list<double>("rope_turns");  // turns per position of channel i with channel i + n
  std::visit([&](const auto& r) {
    using Rule = std::decay_t<decltype(r)>;
    if constexpr (evict::needs_payload<Rule> || evict::reads_store<Rule>) given.require("keys");
    if constexpr (evict::reads_store<Rule>) {
      if (r.reads().queries > 0) given.require("queries");
    }
    if constexpr (evict::loads_weights<Rule>) {
      Case weights = given.part("weights");
      rows.hidden = weights.template matrix<float>("hidden");
      rows.out = weights.template list<float>("out");
      const std::size_t width = rows.keys.n_columns + rows.own_values().n_columns;
      if (rows.hidden.n_rows != rows.out.size() || (rows.hidden.n_rows > 0 && rows.hidden.n_columns != width))
        weights.complain("hidden", fmt::format("expected {} rows of {} weights", rows.out.size(), width));
    }
  }, rule);
  if (rows.values.n_rows != 0 && rows.values.n_rows != rows.keys.n_rows) given.complain("values", "as many rows as keys");
  if (rows.queries.n_rows != 0 && (rows.queries.n_columns != rows.keys.n_columns || rows.queries.n_rows % rows.query_heads != 0))
    given.complain("queries", fmt::format("expected rows of {} values, {} for each query", rows.keys.n_columns, rows.query_heads));
  if (!rows.turns.empty() && 2 * rows.turns.size() > rows.keys.n_columns) given.complain("rope_turns", "two channels for each value");
  const auto n_queries = static_cast<std::uint32_t>(rows.queries.n_rows / rows.query_heads);
  const auto n = static_cast<std::uint32_t>(rows.keys.n_rows);
  for (std::uint32_t j = 0; j < n_queries; ++j) rows.query_positions.push_back(n > n_queries ? n - n_queries + j : j);  // those of the last entries
  for (std::uint32_t i = 0; i < n; ++i) rows.pages.push_back(i / units.slots);
  return rows;
}

/// State of entries: part "state" with the lists last, count, mass, heat, gap (what least_stale.ewma_interval keeps as heat), layer, cost and error,
/// and of a controller theta, and eta to move it by.
struct State {
  std::vector<Entry> entries;
  evict::Control control;
  std::optional<float> eta;
};

State read_state(Case& given, std::size_t n_rows) {
  Case state = given.part("state");
  const auto last = state.list<std::uint32_t>("last"), count = state.list<std::uint32_t>("count");
  const auto mass = state.list<float>("mass"), error = state.list<float>("error"), cost = state.list<float>("cost");
  const auto layer = state.list<std::uint32_t>("layer", {0, 65535});
  const bool gaps = state.has("gap");
  if (gaps && state.has("heat")) state.complain("gap", "is heat by another name", "give one of them");
  const auto heat = state.list<float>(gaps ? "gap" : "heat");
  State out;
  if (state.has("theta")) out.control.theta = state.value<float>("theta", {0, 1});
  if (state.has("eta")) out.eta = state.value<float>("eta", {0, 1});
  const std::size_t n = std::max({n_rows, last.size(), count.size(), mass.size(), heat.size(), error.size(), cost.size(), layer.size()});
  for (const auto& [name, size] : std::initializer_list<std::pair<const char*, std::size_t>>{
           {"last", last.size()}, {"count", count.size()}, {"mass", mass.size()}, {gaps ? "gap" : "heat", heat.size()}, {"error", error.size()},
           {"cost", cost.size()}, {"layer", layer.size()}}) {
    if (size != 0 && size != n) state.complain(name, fmt::format("has {} values for {} entries", size, n));
  }
  for (std::uint32_t i = 0; i < n && !given.failed(); ++i) {
    Entry e{i, {!mass.empty() ? mass[i] : !error.empty() ? error[i] : 0.0F, 1}, {}};
    if (!last.empty()) e.access.last = last[i];
    if (!count.empty()) e.access.count = count[i];
    if (!heat.empty()) e.access.heat = heat[i];
    if (!cost.empty()) e.cost = cost[i];
    if (!layer.empty()) e.layer = layer[i];
    out.entries.push_back(e);
  }
  return out;
}

}  // namespace

Json decide_state(Case& given, const EvictRule& rule) {
  const auto capacity = given.value<std::uint32_t>("capacity", {0, 1e9});
  const Protection protect = read_protection(given, capacity);
  const auto seed = given.value_or("seed", std::uint64_t{1});
  const Units units = read_units(given);
  const Rows rows = read_rows(given, rule, units);
  State state = read_state(given, rows.keys.n_rows);
  std::vector<Entry>& entries = state.entries;
  const std::size_t n = entries.size();
  const auto now = given.value_or("now", static_cast<std::uint64_t>(n > 0 ? n - 1 : 0));
  if (n == 0) given.complain("", "nothing to decide on", "give accesses, attention, keys, or state with last, count, mass, heat, gap, layer, cost or error");
  given.finish();
  float below = 0;
  std::visit([&](const auto& r) {
    if constexpr (evict::needs_payload<std::decay_t<decltype(r)>>) {
      for (std::uint32_t i = 0; i < n; ++i) entries[i].mass.value = r.stored(rows.stored(i, seed));
    }
  }, rule);
  score(rule, entries, units, now, static_cast<std::uint32_t>(now), seed, rows.view());
  std::visit([&](const auto& r) {
    if constexpr (requires { r.adapt(state.control); }) {
      if (state.eta) {  // in parts of a million
        state.control.lookups = 1000000;
        state.control.hits = static_cast<std::uint64_t>(static_cast<double>(*state.eta) * 1e6 + 0.5);
        r.adapt(state.control);
      }
    }
    below = evict::threshold(r, state.control);
  }, rule);
  const Json scores = scores_of(entries);
  const auto gone = victims(entries, units, n > capacity ? n - capacity : 0, below, static_cast<std::uint32_t>(n), protect);
  Json evictions = Json::array();
  for (const std::size_t i : gone) evictions.push_back(entries[i].position);
  remove(entries, gone);
  Json out = {{"evictions", evictions}, {"resident", positions_of(entries)}, {"scores", scores}};
  if (below > -std::numeric_limits<float>::infinity()) out["threshold"] = below;
  return out;
}

}  // namespace moekv::policy_evict
