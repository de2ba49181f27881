// recorded: replays the trace's own choice.
#pragma once

#include <string_view>
#include <tuple>

#include "core/hd.hpp"
#include "rules/route/rule.hpp"

namespace moekv::route {

struct Recorded {
  static constexpr std::string_view name = "recorded";
  static constexpr std::string_view doc = "the experts and weights of the trace";
  static constexpr std::string_view source = "the trace";
  static constexpr bool needs_logits = false;
  static constexpr auto params = std::tuple{};

  MOEKV_HD void choose(const Geometry& g, const TokenView& token, Choice out) const {
    for (std::uint32_t i = 0; i < g.top_k; ++i) {
      out.ids[i] = token.recorded_ids[i];
      out.weights[i] = token.recorded_weights != nullptr ? token.recorded_weights[i] : 1.0F / static_cast<float>(g.top_k);
    }
  }
};

}  // namespace moekv::route
