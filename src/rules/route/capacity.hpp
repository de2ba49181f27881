// capacity: top-k with a limit on the tokens of an expert; what exceeds it is dropped, as Switch and Megatron do.
#pragma once

#include <array>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "rules/route/group.hpp"

namespace moekv::route {

enum class Drop : std::uint8_t { probs, position };
constexpr auto enum_names(Drop) { return std::array<std::string_view, 2>{"probs", "position"}; }

struct Capacity {
  static constexpr std::string_view name = "capacity";
  static constexpr std::string_view doc = "top-k where an expert takes at most ceil(T k / E factor) of a home rank's T tokens in a step";
  static constexpr std::string_view source = "Megatron-LM MoE, capacity factor";
  static constexpr bool needs_logits = true;
  double factor = 1.25;
  Drop drop = Drop::probs;
  static constexpr auto params = std::tuple{Param{"factor", &Capacity::factor, "1", "capacity over the mean load", 1e-3, 1e3},
                                            Param{"drop", &Capacity::drop, "", "an expert keeps its largest weights, or the first tokens"}};

  MOEKV_HD void choose_group(const Geometry& g, const TokenView* tokens, std::uint32_t n, Choice out, Scratch scratch) const {
    for (std::uint32_t t = 0; t < n; ++t) choose_plain(g, tokens[t], choice_of(out, t, g.top_k));
    const std::uint64_t slots = static_cast<std::uint64_t>(n) * g.top_k;
    const KeepLargest keep{scratch.words, scratch.words + g.n_experts};
    const bool by_weight = drop == Drop::probs;
    keep.prepare(g.n_experts, capacity_of(n, g.top_k, g.n_experts, factor), [&](auto f) {
      for (std::uint64_t i = 0; i < slots; ++i) {
        if (out.ids[i] != ExpertId::invalid) f(out.ids[i], by_weight ? out.weights[i] : 0.0F);
      }
    });
    for (std::uint64_t i = 0; i < slots; ++i) {
      if (out.ids[i] != ExpertId::invalid && !keep.keeps(out.ids[i], by_weight ? out.weights[i] : 0.0F)) out.ids[i] = ExpertId::invalid;
    }
    for (std::uint32_t t = 0; t < n; ++t) close_gaps(g.top_k, choice_of(out, t, g.top_k));
  }
};

}  // namespace moekv::route
