// gshard: top-2 with capacity, second experts placed after all first ones and kept by chance.
#pragma once

#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "core/rng.hpp"
#include "rules/route/group.hpp"

namespace moekv::route {

struct Gshard {
  static constexpr std::string_view name = "gshard";
  static constexpr std::string_view doc =
      "top-2, capacity ceil(2 T / E factor); all first experts are placed before the second, which stay with chance 2 g2 / (g1 + g2)";
  static constexpr std::string_view source = "GShard, arXiv 2006.16668";
  static constexpr bool needs_logits = true;
  double factor = 1.25;
  static constexpr auto params = std::tuple{Param{"factor", &Gshard::factor, "1", "capacity over the mean load of two experts a token", 1e-3, 1e3}};

  /// Why the rule cannot choose here, or null.
  [[nodiscard]] static const char* refuse(const Geometry& g) {
    return g.top_k < 2 ? "gshard chooses two experts and the model has one a token" : nullptr;
  }

  MOEKV_HD void choose_group(const Geometry& g, const TokenView* tokens, std::uint32_t n, Choice out, Scratch scratch) const {
    std::uint32_t* load = scratch.words;
    const std::uint32_t capacity = capacity_of(n, 2, g.n_experts, factor);
    GateShape gate = g.gate;
    gate.renormalise = true;
    gate.order = ScoreOrder::post;
    for (std::uint32_t e = 0; e < g.n_experts; ++e) load[e] = 0;
    const auto place = [&](std::uint16_t& id) {
      if (id == ExpertId::invalid || load[id] >= capacity)
        id = ExpertId::invalid;
      else
        load[id] += 1;
    };
    for (std::uint32_t t = 0; t < n; ++t) {
      const Choice c = choice_of(out, t, g.top_k);
      for (std::uint32_t i = 2; i < g.top_k; ++i) {
        c.ids[i] = ExpertId::invalid;
        c.weights[i] = 0.0F;
      }
      select_top(gate, tokens[t].logits, g.n_experts, 2, c);
      weigh(gate, tokens[t].logits, g.n_experts, 1.0F, 2, c.ids, c.weights);
      place(c.ids[0]);
    }
    for (std::uint32_t t = 0; t < n; ++t) {
      const Choice c = choice_of(out, t, g.top_k);
      const std::uint64_t draw = hash_words(g.seed, 0x67736832U, tokens[t].request, tokens[t].position, tokens[t].layer);
      const float sum = c.weights[0] + c.weights[1];
      if (2.0F * c.weights[1] <= uniform_float(static_cast<std::uint32_t>(draw)) * sum) c.ids[1] = ExpertId::invalid;
      place(c.ids[1]);
      close_gaps(g.top_k, c);
    }
  }
};

}  // namespace moekv::route
