// The routing rules. One line here makes a rule known to YAML, help, host loops, HDF5 attributes and the every-rule tests.
#pragma once

#include <variant>

#include "rules/route/hash.hpp"
#include "rules/route/recorded.hpp"
#include "rules/route/rr.hpp"
#include "rules/route/topk.hpp"

namespace moekv {

using RouteRule = std::variant<route::Recorded, route::Topk, route::Hash, route::Rr>;

}  // namespace moekv
