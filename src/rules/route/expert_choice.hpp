// expert_choice: experts choose their tokens instead of tokens their experts; perfectly balanced over a prompt, not causal.
#pragma once

#include <string_view>
#include <tuple>

#include "core/hd.hpp"
#include "rules/route/group.hpp"

namespace moekv::route {

struct ExpertChoice {
  static constexpr std::string_view name = "expert_choice";
  static constexpr std::string_view doc =
      "each expert takes the ceil(T k / E) of a home rank's T prompt tokens with its largest softmax(z); a token keeps at most its k best of "
      "those; decode tokens: plain top-k (not causal)";
  static constexpr std::string_view source = "Expert Choice, arXiv 2202.09368";
  static constexpr bool needs_logits = true;
  static constexpr auto params = std::tuple{};

  MOEKV_HD void choose_group(const Geometry& g, const TokenView* tokens, std::uint32_t n, Choice out, Scratch scratch) const {
    float* s = scratch.floats;
    for (std::uint32_t t = 0; t < n; ++t) {
      const float shift = largest_logit(tokens[t].logits, g.n_experts), sum = softmax_sum(tokens[t].logits, g.n_experts, 1.0F, shift);
      for (std::uint32_t e = 0; e < g.n_experts; ++e)
        s[static_cast<std::uint64_t>(t) * g.n_experts + e] = exp_fixed(finite_logit(tokens[t].logits[e]) - shift) / sum;
    }
    const KeepLargest keep{scratch.words, scratch.words + g.n_experts};
    keep.prepare(g.n_experts, capacity_of(count_prefill(tokens, n), g.top_k, g.n_experts, 1.0), [&](auto f) {
      for (std::uint32_t t = 0; t < n; ++t) {
        for (std::uint32_t e = 0; tokens[t].prefill && e < g.n_experts; ++e) {
          if (const float key = s[static_cast<std::uint64_t>(t) * g.n_experts + e]; key > 0.0F) f(e, key);
        }
      }
    });
    for (std::uint32_t t = 0; t < n; ++t) {
      const Choice c = choice_of(out, t, g.top_k);
      if (!tokens[t].prefill) {
        choose_plain(g, tokens[t], c);
        continue;
      }
      TopList list{c.ids, c.weights, g.top_k};
      for (std::uint32_t e = 0; e < g.n_experts; ++e) {
        const float key = s[static_cast<std::uint64_t>(t) * g.n_experts + e];
        if (key > 0.0F && keep.keeps(e, key)) list.offer(key, e);  // probability 0: an expert that the trace does not list
      }
      list.close();
      for (std::uint32_t i = 0; i < g.top_k; ++i) c.weights[i] = i < list.n ? c.weights[i] * g.gate.scale : 0.0F;
    }
  }
};

}  // namespace moekv::route
