// cache_aware: top-k of logits less a penalty for experts whose pages were missed lately; the paper's R_P with misses that really happened.
#pragma once

#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "rules/route/gate.hpp"
#include "rules/route/state.hpp"

namespace moekv::route {

struct CacheAware {
  static constexpr std::string_view name = "cache_aware";
  static constexpr std::string_view doc =
      "top-k of z - lambda ln(1 + miss); miss = decayed count of missed page lookups under the expert's key (R_P)";
  static constexpr std::string_view source = "PiKV R_P";
  static constexpr bool needs_logits = true;
  static constexpr bool reads_cache = true;
  float lambda = 0.5F;
  float decay = 0.9F;
  static constexpr auto params = std::tuple{Param{"lambda", &CacheAware::lambda, "1", "strength of the penalty", 0, 100},
                                            Param{"decay", &CacheAware::decay, "1", "weight of the past in miss, per step", 0, 1}};

  MOEKV_HD void adjust(const Geometry& g, const TokenView& token, float* z) const {
    for (std::uint32_t e = 0; e < g.n_experts; ++e) z[e] = finite_logit(token.logits[e]);
    penalise_misses(lambda, *token.state, g.n_experts, z);
  }
  MOEKV_HD void choose(const Geometry& g, const TokenView& token, Choice out) const { choose_adjusted(*this, g, token, out); }
  MOEKV_HD void update(const Geometry& g, const StepCounts& step, LayerState& state) const { decay_misses(decay, g.n_experts, step, state); }
};

}  // namespace moekv::route
