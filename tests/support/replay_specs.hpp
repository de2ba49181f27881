// Specifications that between them use what a replay can do: layouts, maps, tiers, codecs, selection, routers with state, allocators.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "engine/run_spec.hpp"

namespace moekv::testing {

/// By name; for default_requests and a trace with logits. All of them evict.
[[nodiscard]] std::vector<std::pair<std::string, RunSpec>> varied_specs();

}  // namespace moekv::testing
