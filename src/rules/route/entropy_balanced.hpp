// entropy_balanced and token_entropy: the paper's R_E with an entropy that depends on the expert, and as printed, where it changes nothing.
#pragma once

#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "rules/route/gate.hpp"
#include "rules/route/state.hpp"

namespace moekv::route {

struct EntropyBalanced {
  static constexpr std::string_view name = "entropy_balanced";
  static constexpr std::string_view doc = "top-k of z - beta h2(u); u = an expert's share of the averaged load, h2 the binary entropy (R_E)";
  static constexpr std::string_view source = "PiKV R_E with h2(u)";
  static constexpr bool needs_logits = true;
  float beta = 0.5F;
  float ema_decay = 0.9F;
  static constexpr auto params = std::tuple{Param{"beta", &EntropyBalanced::beta, "1", "strength of the penalty", 0, 100},
                                            Param{"ema_decay", &EntropyBalanced::ema_decay, "1", "weight of the past in u, per step", 0, 1}};

  MOEKV_HD void adjust(const Geometry& g, const TokenView& token, float* z) const {
    for (std::uint32_t e = 0; e < g.n_experts; ++e) z[e] = finite_logit(token.logits[e]);
    penalise_share(beta, *token.state, g.n_experts, z);
  }
  MOEKV_HD void choose(const Geometry& g, const TokenView& token, Choice out) const { choose_adjusted(*this, g, token, out); }
  MOEKV_HD void update(const Geometry& g, const StepCounts& step, LayerState& state) const { average_load(ema_decay, g.n_experts, step, state); }
};

/// The entropy of a token's own gate distribution is one number for all experts, so taking it off every logit changes no choice.
struct TokenEntropy {
  static constexpr std::string_view name = "token_entropy";
  static constexpr std::string_view doc = "top-k of z - beta H(p): a no-op, for H(p) is the same for every expert (R_E as printed, control)";
  static constexpr std::string_view source = "PiKV R_E as printed";
  static constexpr bool needs_logits = true;
  float beta = 0.5F;
  static constexpr auto params = std::tuple{Param{"beta", &TokenEntropy::beta, "1", "strength of the penalty", 0, 100}};

  /// H(softmax(z)) = ln sum exp(z - max) - sum p (z - max).
  [[nodiscard]] MOEKV_HD static float entropy(const Geometry& g, const TokenView& token) {
    float shift = finite_logit(token.logits[0]), sum = 0.0F, dot = 0.0F;
    for (std::uint32_t e = 1; e < g.n_experts; ++e) shift = finite_logit(token.logits[e]) > shift ? finite_logit(token.logits[e]) : shift;
    for (std::uint32_t e = 0; e < g.n_experts; ++e) {
      const float x = finite_logit(token.logits[e]) - shift, p = exp_fixed(x);
      sum += p;
      if (p > 0.0F) dot += p * x;
    }
    return log_fixed(sum) - dot / sum;
  }
  MOEKV_HD void adjust(const Geometry& g, const TokenView& token, float* z) const {
    const float penalty = beta * entropy(g, token);
    for (std::uint32_t e = 0; e < g.n_experts; ++e) z[e] = finite_logit(token.logits[e]) - penalty;
  }
  /// In double: rounding to float could make neighbours equal, and so change what the formula does not.
  MOEKV_HD void choose(const Geometry& g, const TokenView& token, Choice out) const {
    const auto penalty = static_cast<double>(beta * entropy(g, token));
    double keys[max_top_k];
    MOEKV_EXPECT(g.top_k <= max_top_k);
    select_masked(
        allowed_groups(g.gate, token.logits, g.n_experts), g.gate.n_group, g.n_experts,
        [&](std::uint32_t e) { return static_cast<double>(finite_logit(token.logits[e])) - penalty; }, TopListOf<double>{out.ids, keys, g.top_k});
    weigh(g.gate, token.logits, g.n_experts, 1.0F, g.top_k, out.ids, out.weights);
  }
};

}  // namespace moekv::route
