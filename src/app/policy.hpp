// The decisions that `moekv policy` makes: one function per kind, each running the code that a replay runs.
#pragma once

#include "app/policy_case.hpp"

namespace moekv {

// Each reads one case, calls `finish` on it and gives the decision. Throws UserError where the case is bad.
[[nodiscard]] Json decide_codec(Case& given);
// Selectors that cases name in place of a codec.
[[nodiscard]] Json decide_pyramid_budget(Case& given);
[[nodiscard]] Json decide_chunk_retain(Case& given);
[[nodiscard]] Json decide_evict(Case& given);
[[nodiscard]] Json decide_place(Case& given);
[[nodiscard]] Json decide_route(Case& given);
[[nodiscard]] Json decide_select(Case& given);

}  // namespace moekv
