// moekv policy route: the choice of a routing rule for given logits.
#include "app/policy.hpp"
#include "config/names.hpp"
#include "rules/route/catalogue.hpp"

namespace moekv {
namespace {

/// Part "gate": what a model's gate would be; the group limit may stand in the case itself.
GateShape read_gate(Case& given, std::uint32_t n_experts) {
  GateShape gate;
  Case part = given.part("gate");
  gate.score = part.value_or("score", gate.score);
  gate.order = part.value_or("order", gate.order);
  gate.renormalise = part.value_or("renormalise", gate.renormalise);
  gate.scale = part.value_or("scale", gate.scale, {0, 1e3});
  gate.n_experts = n_experts;
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
  std::uint32_t n_experts = 0;
};

/// Logits [tokens][experts], or for rules without logits the number of experts; positions count from 0 unless given.
Tokens read_tokens(Case& given, bool needs_logits) {
  Tokens out;
  out.positions = given.list<std::uint32_t>("positions");
  out.logits = given.matrix<float>("logits", {-1e38, 1e38});
  if (needs_logits) {
    given.require("logits");
    out.n_experts = static_cast<std::uint32_t>(out.logits.n_columns);
    if (given.has("logits") && !given.failed() && (out.n_experts == 0 || out.n_experts > 896)) given.complain("logits", "a row has 1 to 896 experts");
  } else {
    out.n_experts = given.value<std::uint32_t>("experts", {1, 896});
    if (given.has("logits")) given.complain("logits", "the rule uses no logits", "give \"experts\" and \"positions\"");
    given.require("positions");
  }
  if (needs_logits && !given.has("positions")) {
    for (std::uint32_t t = 0; t < out.logits.n_rows; ++t) out.positions.push_back(t);
  }
  if (needs_logits && !given.failed() && out.positions.size() != out.logits.n_rows) given.complain("positions", "one for each row of logits");
  return out;
}

}  // namespace

Json decide_route(Case& given) {
  const auto rule = given.rule<RouteRule>("rule");
  const bool needs_logits = std::visit([](const auto& r) { return r.needs_logits; }, rule);
  if (std::holds_alternative<route::Recorded>(rule) && !given.failed()) given.complain("rule", "recorded decides nothing", "choose another rule");
  const Tokens tokens = read_tokens(given, needs_logits);
  const auto k = given.value<std::uint32_t>("k", {1, 64});
  const auto seed = given.value_or("seed", std::uint64_t{1});
  const GateShape gate = read_gate(given, std::max(1U, tokens.n_experts));
  if (!given.failed() && k > tokens.n_experts) given.complain("k", fmt::format("cannot choose {} of {} experts", k, tokens.n_experts));
  given.finish();
  Json ids = Json::array(), weights = Json::array();
  std::vector<std::uint16_t> chosen(k);
  std::vector<float> weight(k);
  for (std::size_t t = 0; t < tokens.positions.size(); ++t) {
    route::TokenView view{0, tokens.positions[t], 0};
    view.logits = needs_logits ? tokens.logits.row(t) : nullptr;
    std::visit([&](const auto& r) { r.choose({tokens.n_experts, k, seed, gate}, view, {chosen.data(), weight.data()}); }, rule);
    Json row = Json::array();
    for (const std::uint16_t e : chosen) row.push_back(e == ExpertId::invalid ? -1 : static_cast<int>(e));
    ids.push_back(row);
    weights.push_back(weight);
  }
  return {{"ids", ids}, {"weights", weights}};
}

}  // namespace moekv
