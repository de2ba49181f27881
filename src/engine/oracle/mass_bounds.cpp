// Dense rows from cells, then the oracles of bounds.hpp.
#include "engine/oracle/mass_bounds.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/bounds.hpp"
#include "engine/summary_list.hpp"

namespace moekv {

MassBoundRecord bound_mass(const AttentionHistory& history) {
  const std::vector<AttentionRow>& rows = history.rows;
  MassBoundRecord out;
  out.request = rows.front().request;
  out.layer = rows.front().layer;
  out.budget_tokens = rows.front().budget;
  out.n_steps = static_cast<std::int64_t>(rows.size());
  out.n_tokens = rows.back().length;
  std::size_t first = 0;
  while (first + 1 < rows.size() && rows[first].evicts == 0) ++first;
  evict::AttentionRows dense;
  for (std::size_t t = 0; t < rows.size(); ++t) {
    const AttentionRow& row = rows[t];
    dense.emplace_back(row.length, 0.0);
    for (const AttentionCell& c : history.cells[t]) {
      if (c.position < row.length) dense.back()[c.position] = static_cast<double>(c.mass);
    }
    out.mass += row.mass;
    out.lost_mass += row.mass - row.kept;
    out.residual += row.residual;
    if (t <= first) continue;
    const std::int64_t may_hold = out.budget_tokens + row.length - rows[t - 1].length;
    out.excess_tokens = std::max(out.excess_tokens, std::int64_t{row.held} - std::min<std::int64_t>(may_hold, row.length));
  }
  out.lost_mass = std::max(0.0, out.lost_mass);
  const std::size_t budget = rows.front().budget;
  out.orc_select = evict::select_lost(dense, budget, first);
  out.orc_greedy = evict::lost_mass(dense, evict::greedy_evictions(dense, budget, first));
  const bool small = evict::forced_steps(dense, budget, first).size() <= max_assigned_evictions;
  out.orc_mass = small ? evict::lost_mass(dense, evict::mass_evictions(dense, budget, first)) : std::numeric_limits<double>::quiet_NaN();
  return out;
}

std::vector<std::string> check_mass_bounds(std::span<const MassBoundRecord> bounds) {
  std::vector<std::string> broken;
  for (const MassBoundRecord& b : bounds) {
    const double slack = 1e-6 * (1.0 + b.mass);  // cells are single precision
    const auto ordered = [&](const char* left, double x, const char* right, double y) {
      if (x <= y + slack) return;
      broken.push_back(fmt::format("law {} <= {} does not hold for request {}, layer {}: {} against {}", left, right, b.request, b.layer, x, y));
    };
    ordered("orc_select", b.orc_select, "orc_greedy", b.orc_greedy);
    if (std::isnan(b.orc_mass)) continue;
    ordered("orc_select", b.orc_select, "orc_mass", b.orc_mass);
    ordered("orc_mass", b.orc_mass, "orc_greedy", b.orc_greedy);
    if (b.excess_tokens <= 0) ordered("orc_mass", b.orc_mass, "lost_mass", b.lost_mass);
  }
  return broken;
}

std::vector<Summary> summarise_mass_bounds(std::span<const MassBoundRecord> bounds) {
  SummaryList list;
  MassBoundRecord sum;
  for (const MassBoundRecord& b : bounds) {
    sum.mass += b.mass;
    sum.lost_mass += b.lost_mass;
    sum.orc_select += b.orc_select;
    sum.orc_mass += b.orc_mass;
    sum.orc_greedy += b.orc_greedy;
    sum.residual += b.residual;
  }
  const auto share = [&](const char* name, const char* definition, double top) {
    list.add_ratio(name, {"1", ClaimClass::measured, definition}, top, sum.mass);
  };
  share("attn_lost", "attention of the full history on tokens that the run no longer held, sampled pairs of request and layer", sum.lost_mass);
  share("orc_select_lost", "the same for the best visible set of each step", sum.orc_select);
  share("orc_mass_lost", "the same for the best choice of victims (exact assignment)", sum.orc_mass);
  share("orc_greedy_lost", "the same when the token with the least attention to come goes", sum.orc_greedy);
  share("orc_residual", "attention that the log does not tell by token: what the oracles may be too low by", sum.residual);
  return list.take();
}

}  // namespace moekv
