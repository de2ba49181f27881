// random: a uniformly random unprotected unit goes, decided by a hash of (seed, request, layer, position, step).
#pragma once

#include <tuple>

#include "core/hd.hpp"
#include "core/rng.hpp"
#include "rules/evict/rule.hpp"

namespace moekv::evict {

struct Random {
  static constexpr std::string_view name = "random";
  static constexpr std::string_view doc = "a random unit goes (control)";
  static constexpr std::string_view source = "control";
  static constexpr Family family = Family::score;
  static constexpr bool needs_mass = false;
  static constexpr auto params = std::tuple{};

  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const {
    return uniform_float(static_cast<std::uint32_t>(hash_words(u.seed, u.request, u.layer, u.position, u.step)));
  }
};

}  // namespace moekv::evict
