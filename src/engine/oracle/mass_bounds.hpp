// Offline bounds of attention mass: what a sampled (request, layer) had to lose to its budget (eviction.md section 6.2).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/access_log.hpp"
#include "engine/records.hpp"

namespace moekv {

/// One sampled pair: its rows by step with their cells.
struct AttentionHistory {
  std::vector<AttentionRow> rows;
  std::vector<std::vector<AttentionCell>> cells;
};

/// More evictions than this are left to the greedy choice: the exact one takes their square times the tokens.
inline constexpr std::size_t max_assigned_evictions = 2048;

/// `rows` is not empty, of one pair, and lengths do not descend.
[[nodiscard]] MassBoundRecord bound_mass(const AttentionHistory& history);

[[nodiscard]] std::vector<std::string> check_mass_bounds(std::span<const MassBoundRecord> bounds);
[[nodiscard]] std::vector<Summary> summarise_mass_bounds(std::span<const MassBoundRecord> bounds);

}  // namespace moekv
