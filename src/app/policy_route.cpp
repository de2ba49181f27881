// moekv policy route: the choice of a routing rule for given logits and state, and the state after the step.
#include "app/policy.hpp"
#include "config/names.hpp"
#include "rules/route/catalogue.hpp"
#include "rules/route/group.hpp"

namespace moekv {
namespace {

/// Part "gate": what a model's gate would be; the group limit may stand in the case itself.
GateShape read_gate(Case& given, std::uint32_t n_experts, std::uint32_t top_k) {
  GateShape gate;
  Case part = given.part("gate");
  gate.score = part.value_or("score", gate.score);
  gate.order = part.value_or("order", gate.order);
  gate.renormalise = part.value_or("renormalise", gate.renormalise);
  gate.scale = part.value_or("scale", gate.scale, {0, 1e3});
  gate.n_experts = n_experts;
  gate.top_k = top_k;
  gate.n_group = given.value_or("n_group", 1U, {1, route::max_groups});
  gate.topk_group = given.value_or("topk_group", gate.n_group, {1, route::max_groups});
  if (given.failed()) return gate;
  if (n_experts % gate.n_group != 0) given.complain("n_group", fmt::format("{} groups do not divide {} experts", gate.n_group, n_experts));
  if (gate.topk_group > gate.n_group) given.complain("topk_group", fmt::format("cannot keep {} of {} groups", gate.topk_group, gate.n_group));
  return gate;
}

struct Tokens {
  Matrix<float> logits;
  std::vector<std::uint32_t> positions;
  std::vector<bool> prefill;
  std::uint32_t n_experts = 0;
};

void read_phases(Case& given, Tokens& out) {
  const auto phases = given.list<std::string>("phase");
  for (std::size_t i = 0; i < phases.size(); ++i) {
    if (phases[i] != "prefill" && phases[i] != "decode")
      given.complain(fmt::format("phase/{}", i), fmt::format("unknown value '{}'", phases[i]), suggest_name(phases[i], {"prefill", "decode"}));
    out.prefill.push_back(phases[i] == "prefill");
  }
  if (!given.has("phase")) out.prefill.assign(out.positions.size(), true);
  if (!given.failed() && out.prefill.size() != out.positions.size()) given.complain("phase", "one for each token");
}

/// Logits [tokens][experts], or for rules without logits the number of experts; positions count from 0 unless given.
Tokens read_tokens(Case& given, bool needs_logits) {
  Tokens out;
  out.positions = given.list<std::uint32_t>("positions");
  out.logits = given.matrix<float>("logits", {-1e38, 1e38});
  if (needs_logits) {
    given.require("logits");
    out.n_experts = static_cast<std::uint32_t>(out.logits.n_columns);
    if (given.has("logits") && !given.failed() && (out.n_experts == 0 || out.n_experts > most_experts))
      given.complain("logits", fmt::format("a row has 1 to {} experts", most_experts));
  } else {
    out.n_experts = given.value<std::uint32_t>("experts", {1, most_experts});
    if (given.has("logits")) given.complain("logits", "the rule uses no logits", "give \"experts\" and \"positions\"");
    given.require("positions");
  }
  if (needs_logits && !given.has("positions")) {
    for (std::uint32_t t = 0; t < out.logits.n_rows; ++t) out.positions.push_back(t);
  }
  if (needs_logits && !given.failed() && out.positions.size() != out.logits.n_rows) given.complain("positions", "one for each row of logits");
  read_phases(given, out);
  return out;
}

/// Part "state": what the rule remembers, and the counts of the step after which it is brought up to date.
struct Memory {
  std::vector<float> load, miss, bias, value, pulls, worst;
  std::vector<std::int64_t> count, missed;
  std::int64_t lookups = 0, model_ns = 0;
  std::uint64_t step = 0;
  bool count_given = false;  // else the choices made are counted
  route::LayerState view{};

  Memory(Case given, std::uint32_t n_experts) {
    const auto read = [&]<class T>(std::vector<T>& to, const char* name, std::size_t n, T otherwise, Limits limits) {
      to = given.list<T>(name, limits);
      if (given.has(name) && !given.failed() && to.size() > n) given.complain(name, fmt::format("has {} values, at most {} count", to.size(), n));
      if (given.has(name) && !given.failed() && n == n_experts && to.size() != n)
        given.complain(name, fmt::format("has {} values for {} experts", to.size(), n));
      to.resize(n, otherwise);
    };
    read(load, "load", n_experts, 1.0F, {0, 1e30});
    read(miss, "miss", n_experts, 0.0F, {0, 1e30});
    read(bias, "bias", n_experts, 0.0F, {-1e30, 1e30});
    read(value, "value", route::max_arms, 0.0F, {-1e30, 1e30});
    read(pulls, "pulls", route::max_arms, 0.0F, {0, 1e9});
    read(worst, "worst", 1, 0.0F, {0, 1e30});
    read(count, "count", n_experts, std::int64_t{0}, {0, 1e15});
    read(missed, "missed", n_experts, std::int64_t{0}, {0, 1e15});
    count_given = given.has("count");
    lookups = given.value_or("lookups", lookups, {0, 1e15});
    model_ns = given.value_or("model_ns", model_ns, {0, 1e18});
    step = given.value_or("step", step);
    view = {load.data(), miss.data(), bias.data(), value.data(), pulls.data(), worst.data(), given.value_or("arm", 0U, {0, route::max_arms - 1})};
  }
};

/// State after the step: counts given in the state, or else those of the choices made.
template <class Rule>
void put_state(const Rule& rule, const route::Geometry& g, Memory& memory, Json& out) {
  const route::StepCounts step{memory.count.data(), memory.missed.data(), memory.lookups, memory.model_ns, memory.step + 1, 0};
  rule.update(g, step, memory.view);
  const auto first = [](const std::vector<float>& x, std::size_t n) {
    return std::vector<float>(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(n));
  };
  Json& state = out["state"] = {{"load", memory.load}, {"miss", memory.miss}, {"bias", memory.bias}};
  if constexpr (requires { rule.arms(); }) {
    state["value"] = first(memory.value, rule.arms());
    state["pulls"] = first(memory.pulls, rule.arms());
    state["arm"] = memory.view.arm;
  }
}

template <class Rule>
Json decide_with(const Rule& rule, const route::Geometry& g, const Tokens& tokens, Memory& memory) {
  const auto n = static_cast<std::uint32_t>(tokens.positions.size());
  std::vector<route::TokenView> views;
  for (std::uint32_t t = 0; t < n; ++t) {
    views.push_back(
        {0, tokens.positions[t], 0, Rule::needs_logits ? tokens.logits.row(t) : nullptr, nullptr, nullptr, &memory.view, tokens.prefill[t]});
  }
  std::vector<std::uint16_t> ids(std::size_t{n} * g.top_k);
  std::vector<float> weights(ids.size()), floats(route::scratch_floats(g.n_experts, n)), scores(g.n_experts);
  std::vector<std::uint32_t> words(route::scratch_words(g.n_experts, n));
  route::choose_all(rule, g, views.data(), n, {ids.data(), weights.data()}, {floats.data(), words.data()});
  Json out{{"ids", Json::array()}, {"weights", Json::array()}};
  for (std::uint32_t t = 0; t < n; ++t) {
    Json id_row = Json::array(), weight_row = Json::array();
    for (std::uint32_t i = t * g.top_k; i < (t + 1) * g.top_k; ++i) {
      id_row.push_back(ids[i] == ExpertId::invalid ? -1 : static_cast<int>(ids[i]));
      weight_row.push_back(weights[i]);
      if (ids[i] != ExpertId::invalid && !memory.count_given) memory.count[ids[i]] += 1;
    }
    out["ids"].push_back(id_row);
    out["weights"].push_back(weight_row);
    if constexpr (requires { rule.adjust(g, views[t], scores.data()); }) {
      rule.adjust(g, views[t], scores.data());
      out["scores"].push_back(scores);
    }
  }
  if constexpr (requires { &Rule::update; }) put_state(rule, g, memory, out);
  return out;
}

}  // namespace

Json decide_route(Case& given) {
  const auto rule = given.rule<RouteRule>("rule");
  const bool needs_logits = traits_of(rule).needs_logits;
  if (std::holds_alternative<route::Recorded>(rule) && !given.failed()) given.complain("rule", "recorded decides nothing", "choose another rule");
  const Tokens tokens = read_tokens(given, needs_logits);
  const std::uint32_t n_experts = std::max(1U, tokens.n_experts);
  const auto k = given.value<std::uint32_t>("k", {1, route::max_top_k});
  const auto seed = given.value_or("seed", std::uint64_t{1});
  const route::Geometry g{n_experts, k, seed, read_gate(given, n_experts, k)};
  Memory memory(given.part("state"), n_experts);
  if (!given.failed() && k > n_experts) given.complain("k", fmt::format("cannot choose {} of {} experts", k, n_experts));
  std::visit(
      [&](const auto& r) {
        if constexpr (requires { r.arms(); }) {
          if (!given.failed() && memory.view.arm >= r.arms()) given.complain("state/arm", fmt::format("the rule has {} arms", r.arms()));
        }
      },
      rule);
  if (const char* why = given.failed() ? nullptr : refusal(rule, g); why != nullptr) given.complain("rule", why);
  given.finish();
  return std::visit([&](const auto& r) { return decide_with(r, g, tokens, memory); }, rule);
}

}  // namespace moekv
