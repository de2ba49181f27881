// sinkhorn: balances the prompt's gate matrix over tokens and experts before choosing, as Megatron does in training.
#pragma once

#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "rules/route/group.hpp"

namespace moekv::route {

struct Sinkhorn {
  static constexpr std::string_view name = "sinkhorn";
  static constexpr std::string_view doc =
      "top-k of exp(z) scaled to even rows and columns over a home rank's prompt tokens of a step; decode tokens: plain top-k (not causal)";
  static constexpr std::string_view source = "Megatron-LM Sinkhorn; BASE, arXiv 2103.16716";
  static constexpr bool needs_logits = true;
  std::uint32_t iterations = 100;
  float tolerance = 1e-4F;
  static constexpr auto params =
      std::tuple{Param{"iterations", &Sinkhorn::iterations, "", "most rounds", 1, 100000},
                 Param{"tolerance", &Sinkhorn::tolerance, "1", "ends when the mean change of an expert's factor is below", 0, 1}};

  /// d0 = (1/T) / (K d1), d1 = (1/E) / (K' d0) in turn from d1 = 1; K = exp(z - row maximum), which d0 takes up. Gives d1.
  MOEKV_HD void balance(const Geometry& g, const TokenView* tokens, std::uint32_t n, std::uint32_t n_prefill, const float* kernel, float* d1,
                        float* sums) const {
    for (std::uint32_t e = 0; e < g.n_experts; ++e) d1[e] = 1.0F;
    for (std::uint32_t round = 0; round < iterations; ++round) {
      for (std::uint32_t e = 0; e < g.n_experts; ++e) sums[e] = 0.0F;
      for (std::uint32_t t = 0; t < n; ++t) {
        if (!tokens[t].prefill) continue;
        const float* row = kernel + static_cast<std::uint64_t>(t) * g.n_experts;
        float sum = 0.0F;
        for (std::uint32_t e = 0; e < g.n_experts; ++e) sum += row[e] * d1[e];
        const float d0 = sum > 0.0F ? 1.0F / (static_cast<float>(n_prefill) * sum) : 0.0F;
        for (std::uint32_t e = 0; e < g.n_experts; ++e) sums[e] += row[e] * d0;
      }
      float change = 0.0F;
      for (std::uint32_t e = 0; e < g.n_experts; ++e) {
        const float next = sums[e] > 0.0F ? 1.0F / (static_cast<float>(g.n_experts) * sums[e]) : 0.0F;
        change += next > d1[e] ? next - d1[e] : d1[e] - next;
        d1[e] = next;
      }
      if (change < tolerance * static_cast<float>(g.n_experts)) return;
    }
  }

  MOEKV_HD void choose_group(const Geometry& g, const TokenView* tokens, std::uint32_t n, Choice out, Scratch scratch) const {
    float* kernel = scratch.floats;
    float* d1 = kernel + static_cast<std::uint64_t>(n) * g.n_experts;
    for (std::uint32_t t = 0; t < n; ++t) {
      const float shift = largest_logit(tokens[t].logits, g.n_experts);
      for (std::uint32_t e = 0; e < g.n_experts; ++e)
        kernel[static_cast<std::uint64_t>(t) * g.n_experts + e] = exp_fixed(finite_logit(tokens[t].logits[e]) - shift);
    }
    balance(g, tokens, n, count_prefill(tokens, n), kernel, d1, d1 + g.n_experts);
    for (std::uint32_t e = 0; e < g.n_experts; ++e) d1[e] = d1[e] > 0.0F ? log_fixed(d1[e]) : -1e38F;
    for (std::uint32_t t = 0; t < n; ++t) {
      const Choice c = choice_of(out, t, g.top_k);
      if (!tokens[t].prefill) {
        choose_plain(g, tokens[t], c);
        continue;
      }
      float* z = kernel + static_cast<std::uint64_t>(t) * g.n_experts;  // ln(K d1) up to the token's own factor
      for (std::uint32_t e = 0; e < g.n_experts; ++e) z[e] = finite_logit(tokens[t].logits[e]) + d1[e];
      select_top(g.gate, z, g.n_experts, g.top_k, c);
      weigh(g.gate, tokens[t].logits, g.n_experts, 1.0F, g.top_k, c.ids, c.weights);
    }
  }
};

}  // namespace moekv::route
