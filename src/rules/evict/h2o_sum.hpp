// h2o.sum (Zhang et al. 2023, real-drop form): attention mass summed over all queries seen; the lightest unit goes.
#pragma once

#include <tuple>

#include "core/hd.hpp"
#include "rules/evict/rule.hpp"

namespace moekv::evict {

struct H2oSum {
  static constexpr std::string_view name = "h2o.sum";
  static constexpr std::string_view doc = "least accumulated attention goes; the recent window comes from `eviction.protect`";
  static constexpr Family family = Family::score;
  static constexpr bool needs_mass = true;
  static constexpr auto params = std::tuple{};

  [[nodiscard]] MOEKV_HD float admit() const { return 0.0F; }
  [[nodiscard]] MOEKV_HD float mass(float state, float a) const {
    const float next = state + a;
    return next < 0x1p-100F ? 0.0F : next;  // state below 2^-100 is 0 (MODEL section 11)
  }
  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return u.state; }
};

}  // namespace moekv::evict
