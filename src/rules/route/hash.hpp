// hash: k experts at equal distances from a hash of the token; the paper's base router without any skew or state.
#pragma once

#include <cstdint>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "core/rng.hpp"
#include "rules/route/rule.hpp"

namespace moekv::route {

struct Hash {
  static constexpr std::string_view name = "hash";
  static constexpr std::string_view doc = "expert i is (h(seed, request, position, layer) + i stride) mod E, weights 1/k (control)";
  static constexpr std::string_view source = "PiKV R_B; Hash Layers, arXiv 2106.04426";
  static constexpr bool needs_logits = false;
  std::uint32_t stride = 0;
  static constexpr auto params =
      std::tuple{Param{"stride", &Hash::stride, "experts",
                       "distance of a token's experts; 0 = E/k; one that would repeat an expert is raised until none does", 0, 65535}};

  /// The smallest stride >= the wanted one that visits k <= E distinct experts: E / gcd(E, stride) >= k. A stride = 1 mod E always does.
  [[nodiscard]] MOEKV_HD std::uint32_t distinct_stride(std::uint32_t n_experts, std::uint32_t top_k) const {
    if (stride == 0) return n_experts / top_k;
    for (std::uint32_t s = stride;; ++s) {
      std::uint32_t a = n_experts, b = s % n_experts;
      while (b != 0) {
        const std::uint32_t rest = a % b;
        a = b;
        b = rest;
      }
      if (n_experts / a >= top_k) return s;
    }
  }

  MOEKV_HD void choose(const Geometry& g, const TokenView& token, Choice out) const {
    const std::uint64_t first = hash_words(g.seed, Stream::hash_router, token.request, token.position, token.layer) % g.n_experts;
    const std::uint64_t step = distinct_stride(g.n_experts, g.top_k);
    for (std::uint32_t i = 0; i < g.top_k; ++i) {
      out.ids[i] = static_cast<std::uint16_t>((first + i * step) % g.n_experts);
      out.weights[i] = 1.0F / static_cast<float>(g.top_k);
    }
  }
};

}  // namespace moekv::route
