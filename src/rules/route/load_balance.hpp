// load_balance: top-k of logits less a penalty for experts above the mean load; the paper's R_LB.
#pragma once

#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "rules/route/gate.hpp"
#include "rules/route/state.hpp"

namespace moekv::route {

struct LoadBalance {
  static constexpr std::string_view name = "load_balance";
  static constexpr std::string_view doc = "top-k of z - alpha (mu - mean mu); mu = moving average of E times an expert's share of the choices (R_LB)";
  static constexpr std::string_view source = "PiKV R_LB";
  static constexpr bool needs_logits = true;
  float alpha = 0.5F;
  float ema_decay = 0.9F;
  static constexpr auto params = std::tuple{Param{"alpha", &LoadBalance::alpha, "1", "strength of the penalty", 0, 100},
                                            Param{"ema_decay", &LoadBalance::ema_decay, "1", "weight of the past in mu, per step", 0, 1}};

  MOEKV_HD void adjust(const Geometry& g, const TokenView& token, float* z) const {
    const float mean = mean_of(token.state->load, g.n_experts);
    for (std::uint32_t e = 0; e < g.n_experts; ++e) z[e] = finite_logit(token.logits[e]) - alpha * (token.state->load[e] - mean);
  }
  MOEKV_HD void choose(const Geometry& g, const TokenView& token, Choice out) const { choose_adjusted(*this, g, token, out); }
  MOEKV_HD void update(const Geometry& g, const StepCounts& step, LayerState& state) const { average_load(ema_decay, g.n_experts, step, state); }
};

}  // namespace moekv::route
