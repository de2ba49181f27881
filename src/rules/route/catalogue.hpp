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

namespace route {

/// What a router declares of itself, for code that knows it at run time only.
struct Traits {
  std::string_view name;
  bool needs_logits;
  bool reads_cache;  // it listens to what the caches did: it is then part of a feedback loop
  bool updates;      // it keeps loads of earlier steps
  bool by_group;     // it chooses for the tokens of a home rank together
};

}  // namespace route

[[nodiscard]] const route::Traits& traits_of(const RouteRule& router);
/// Why a rule cannot choose in this geometry, or null.
[[nodiscard]] const char* refusal(const RouteRule& router, const route::Geometry& geometry);

}  // namespace moekv
