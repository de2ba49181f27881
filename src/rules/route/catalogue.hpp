// The routing rules. One line here makes a rule known to YAML, help, host loops, HDF5 attributes and the every-rule tests.
#pragma once

#include <variant>

#include "rules/route/bandit.hpp"
#include "rules/route/cache_aware.hpp"
#include "rules/route/capacity.hpp"
#include "rules/route/dsv3.hpp"
#include "rules/route/entropy_balanced.hpp"
#include "rules/route/expert_choice.hpp"
#include "rules/route/gshard.hpp"
#include "rules/route/hash.hpp"
#include "rules/route/hierarchical.hpp"
#include "rules/route/load_balance.hpp"
#include "rules/route/recorded.hpp"
#include "rules/route/rr.hpp"
#include "rules/route/sinkhorn.hpp"
#include "rules/route/topk.hpp"

namespace moekv {

using RouteRule = std::variant<route::Recorded, route::Topk, route::Hash, route::Rr, route::LoadBalance, route::CacheAware, route::EntropyBalanced,
                               route::TokenEntropy, route::Bandit, route::Hierarchical, route::Dsv3, route::Capacity, route::Gshard, route::Sinkhorn,
                               route::ExpertChoice>;

/// Whether a rule listens to what the caches did: it is then part of a feedback loop.
[[nodiscard]] inline bool reads_cache(const RouteRule& router) {
  return std::visit([](const auto& rule) { return requires { rule.reads_cache; }; }, router);
}
/// Why a rule cannot choose in this geometry, or null.
[[nodiscard]] inline const char* refusal(const RouteRule& router, const route::Geometry& geometry) {
  return std::visit(
      [&](const auto& rule) -> const char* {
        if constexpr (requires { rule.refuse(geometry); }) return rule.refuse(geometry);
        return nullptr;
      },
      router);
}

}  // namespace moekv
