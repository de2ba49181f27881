// topk: the k largest logits, weighted as the model's gate does it unless the configuration overrides a part of it.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "rules/route/gate.hpp"
#include "rules/route/rule.hpp"

namespace moekv::route {

/// Overrides of one part of the model's gate; `gate` keeps the model's own.
enum class GateScore : std::uint8_t { gate, softmax, sigmoid, sqrtsoftplus };
enum class GateOrder : std::uint8_t { gate, pre, post };
enum class GateSwitch : std::uint8_t { gate, no, yes };
constexpr auto enum_names(GateScore) { return std::array<std::string_view, 4>{"gate", "softmax", "sigmoid", "sqrtsoftplus"}; }
constexpr auto enum_names(GateOrder) { return std::array<std::string_view, 3>{"gate", "pre", "post"}; }
constexpr auto enum_names(GateSwitch) { return std::array<std::string_view, 3>{"gate", "no", "yes"}; }

struct Topk {
  static constexpr std::string_view name = "topk";
  static constexpr std::string_view doc = "the k largest gate logits, scored and normalised as the model's gate does";
  static constexpr std::string_view source = "PiKV R_T; the gate of Shazeer et al., arXiv 1701.06538";
  static constexpr bool needs_logits = true;
  GateScore score = GateScore::gate;
  GateOrder order = GateOrder::gate;
  GateSwitch renormalise = GateSwitch::gate;
  float scale = 0.0F;        // 0 = the gate's
  float temperature = 1.0F;  // divides the logits of the weights; the choice does not change
  static constexpr auto params =
      std::tuple{Param{"score", &Topk::score, "", "score function of the weights; gate = the model's"},
                 Param{"order", &Topk::order, "", "softmax before (pre) or after (post) the choice; gate = the model's"},
                 Param{"renormalise", &Topk::renormalise, "", "weights of the chosen sum to 1 before scale; gate = the model's"},
                 Param{"scale", &Topk::scale, "1", "factor on the weights; 0 = the model's", 0, 1e3},
                 Param{"temperature", &Topk::temperature, "1", "divides the logits", 1e-3, 1e3}};

  /// The model's gate with this rule's overrides.
  [[nodiscard]] MOEKV_HD GateShape effective(const GateShape& model) const {
    GateShape gate = model;
    if (score != GateScore::gate) gate.score = static_cast<ScoreFunction>(static_cast<int>(score) - 1);
    if (order != GateOrder::gate) gate.order = order == GateOrder::pre ? ScoreOrder::pre : ScoreOrder::post;
    if (renormalise != GateSwitch::gate) gate.renormalise = renormalise == GateSwitch::yes;
    if (scale > 0.0F) gate.scale = scale;
    return gate;
  }

  MOEKV_HD void choose(const Geometry& g, const TokenView& token, Choice out) const {
    const GateShape gate = effective(g.gate);
    select_top(gate, token.logits, g.n_experts, g.top_k, out);
    weigh(gate, token.logits, g.n_experts, temperature, g.top_k, out.ids, out.weights);
  }
};

}  // namespace moekv::route
