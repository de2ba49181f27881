// The routing rules. One line here makes a rule known to YAML, help, host loops, HDF5 attributes and the every-rule tests.
#pragma once

#include <variant>

#include "rules/route/recorded.hpp"

namespace moekv {

using RouteRule = std::variant<route::Recorded>;

}  // namespace moekv
