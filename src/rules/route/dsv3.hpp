// dsv3: the gate of DeepSeek-V2 and V3, with biases that balance load without an auxiliary loss.
#pragma once

#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "rules/route/gate.hpp"
#include "rules/route/state.hpp"
#include "rules/route/topk.hpp"

namespace moekv::route {

struct Dsv3 {
  static constexpr std::string_view name = "dsv3";
  static constexpr std::string_view doc = "DeepSeek-V3's gate: top-k of score + bias inside the best groups; biases follow the load (aux-loss-free)";
  static constexpr std::string_view source = "DeepSeek-V3, arXiv 2412.19437";
  static constexpr bool needs_logits = true;
  GateScore score = GateScore::sigmoid;
  GateSwitch renormalise = GateSwitch::yes;
  std::uint32_t n_group = 0, topk_group = 0;  // 0 = the model's
  float scale = 0.0F;
  float bias_u = 1e-3F;
  static constexpr auto params =
      std::tuple{Param{"score", &Dsv3::score, "", "score function of choice and weights; gate = the model's"},
                 Param{"renormalise", &Dsv3::renormalise, "", "weights of the chosen sum to 1 before scale; gate = the model's"},
                 Param{"n_group", &Dsv3::n_group, "", "groups of experts; 0 = the model's", 0, max_groups},
                 Param{"topk_group", &Dsv3::topk_group, "", "groups that a token may use; 0 = the model's", 0, max_groups},
                 Param{"scale", &Dsv3::scale, "1", "factor on the weights; 0 = the model's", 0, 1e3},
                 Param{"bias_u", &Dsv3::bias_u, "1", "change of a bias per step: -u above the mean load, +u below", 0, 10}};

  [[nodiscard]] MOEKV_HD GateShape effective(const GateShape& model) const {
    Topk parts;
    parts.score = score;
    parts.order = GateOrder::pre;
    parts.renormalise = renormalise;
    parts.scale = scale;
    GateShape gate = parts.effective(model);
    if (n_group > 0) gate.n_group = n_group;
    if (topk_group > 0) gate.topk_group = topk_group;
    return gate;
  }
  /// Why the rule cannot choose here, or null.
  [[nodiscard]] const char* refuse(const Geometry& g) const {
    const GateShape gate = effective(g.gate);
    if (g.n_experts % gate.n_group != 0) return "n_group does not divide the number of experts";
    if (gate.topk_group > gate.n_group) return "topk_group is above n_group";
    if (gate.topk_group * (g.n_experts / gate.n_group) < g.top_k) return "the kept groups hold fewer experts than a token chooses";
    return nullptr;
  }

  /// s + b; s = softmax is over all experts.
  MOEKV_HD void adjust(const Geometry& g, const TokenView& token, float* c) const {
    const GateShape gate = effective(g.gate);
    float shift = 0.0F, sum = 1.0F;
    if (gate.score == ScoreFunction::softmax) {
      shift = -1e38F;
      for (std::uint32_t e = 0; e < g.n_experts; ++e) shift = finite_logit(token.logits[e]) > shift ? finite_logit(token.logits[e]) : shift;
      sum = softmax_sum(token.logits, g.n_experts, 1.0F, shift);
    }
    for (std::uint32_t e = 0; e < g.n_experts; ++e)
      c[e] = route::score(gate.score, finite_logit(token.logits[e]), shift) / sum + token.state->bias[e];
  }
  /// Groups by the sum of their two largest c, or by the largest where the score is softmax (V2).
  MOEKV_HD void choose(const Geometry& g, const TokenView& token, Choice out) const {
    const GateShape gate = effective(g.gate);
    float c[max_experts];
    MOEKV_EXPECT(g.n_experts <= max_experts);
    adjust(g, token, c);
    const std::uint64_t groups = best_groups(gate.n_group, gate.topk_group, g.n_experts, [&](std::uint32_t begin, std::uint32_t end) {
      const TopTwo top = top_two(c, begin, end);
      return gate.score == ScoreFunction::softmax || end - begin < 2 ? top.first : top.first + top.second;
    });
    select_masked(
        groups, gate.n_group, g.n_experts, [&](std::uint32_t e) { return c[e]; }, TopList{out.ids, out.weights, g.top_k});
    weigh(gate, token.logits, g.n_experts, 1.0F, g.top_k, out.ids, out.weights);
  }
  MOEKV_HD void update(const Geometry& g, const StepCounts& step, LayerState& state) const { step_bias(bias_u, g.n_experts, step, state); }
};

}  // namespace moekv::route
