// flexgen.static (FlexGen, Sheng et al. 2023): a plan says beforehand which part of the cache lies in which tier; nothing is ever lost.
// pikv.flexgen_inv is what the paper's code makes of it.
#pragma once

#include <cstdint>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "core/rng.hpp"
#include "rules/evict/rule.hpp"

namespace moekv::evict {

/// Of the first `n` units along an axis those in tiers that take the first `percent` of it: whole units, rounded down.
[[nodiscard]] MOEKV_HD constexpr std::uint64_t planned(std::uint64_t n, std::uint32_t percent) { return n * percent / 100; }

struct FlexgenStatic {
  static constexpr std::string_view name = "flexgen.static";
  static constexpr std::string_view source = "FlexGen, arXiv 2303.06865";
  static constexpr std::string_view doc = "FlexGen: a fixed percentage of an axis stays, the rest lies in the host tier between its uses";
  static constexpr Family family = Family::score;
  static constexpr bool places = true;
  std::uint32_t percent = 50;
  PlanAxis axis = PlanAxis::sequence;
  static constexpr auto params =
      std::tuple{Param{"percent", &FlexgenStatic::percent, "1", "share of the axis that stays, in percent", 0, 100},
                 Param{"axis", &FlexgenStatic::axis, "", "what is divided: requests (the original), the first or last tokens of each, pages by hash"}};

  /// Whether the plan gives a unit to the host tier.
  [[nodiscard]] MOEKV_HD bool leaves(const UnitView& u) const {
    switch (axis) {
      case PlanAxis::sequence: return planned(std::uint64_t{u.request} + 1, percent) == planned(u.request, percent);
      case PlanAxis::token_prefix: return u.position >= planned(u.total, percent);
      case PlanAxis::token_suffix: return u.position < u.total - planned(u.total, percent);
      case PlanAxis::page_hash: break;
    }
    return hash_words(u.seed, u.request, u.layer, u.position) % 100 >= percent;
  }
  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return leaves(u) ? 0.0F : 1.0F; }
};

/// u = 1 / cost of an access: keeps what is cheap to reach and evicts what is dear, the reverse of cost-aware caching.
struct PikvFlexgenInv {
  static constexpr std::string_view name = "pikv.flexgen_inv";
  static constexpr std::string_view source = "PiKV's code (FlexGen)";
  static constexpr std::string_view doc = "the paper's code read literally: benefit 1/cost, so what is dearest to reach (modelled time) goes first";
  static constexpr Family family = Family::score;
  static constexpr bool needs_cost = true;
  static constexpr auto params = std::tuple{};

  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return 1.0F / (u.cost + 1e-8F); }
};

}  // namespace moekv::evict
