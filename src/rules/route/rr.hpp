// rr: round robin over the experts by position; the stateless, perfectly balanced control.
#pragma once

#include <cstdint>
#include <string_view>
#include <tuple>

#include "core/hd.hpp"
#include "rules/route/rule.hpp"

namespace moekv::route {

struct Rr {
  static constexpr std::string_view name = "rr";
  static constexpr std::string_view doc = "expert i of position t is (t k + i) mod E, weights 1/k (control)";
  static constexpr std::string_view source = "PiKV R_B (round robin)";
  static constexpr bool needs_logits = false;
  static constexpr auto params = std::tuple{};

  MOEKV_HD void choose(const Geometry& g, const TokenView& token, Choice out) const {
    const std::uint64_t first = static_cast<std::uint64_t>(token.position) * g.top_k;
    for (std::uint32_t i = 0; i < g.top_k; ++i) {
      out.ids[i] = static_cast<std::uint16_t>((first + i) % g.n_experts);
      out.weights[i] = 1.0F / static_cast<float>(g.top_k);
    }
  }
};

}  // namespace moekv::route
