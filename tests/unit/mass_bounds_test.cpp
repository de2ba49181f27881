// Oracles of attention mass: against exhaustive search, and on what a replay lost.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <map>

#include "engine/bounds.hpp"
#include "engine/oracle/mass_bounds.hpp"
#include "engine/replay.hpp"
#include "core/rng.hpp"
#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

using testing::RandomTrace;

evict::AttentionRows random_rows(std::uint64_t seed, const std::vector<std::size_t>& sizes) {
  evict::AttentionRows rows;
  for (std::size_t t = 0; t < sizes.size(); ++t) {
    rows.emplace_back();
    for (std::size_t i = 0; i < sizes[t]; ++i) rows.back().push_back(static_cast<double>(hash_words(seed, t, i) % 100) / 100.0);
  }
  return rows;
}

/// Least lost mass over all choices of what stays.
double least_lost(const evict::AttentionRows& rows, std::size_t budget, std::size_t first) {
  std::map<std::uint32_t, double> best = {{0U, 0.0}};
  std::size_t stored = 0;
  for (std::size_t t = 0; t < rows.size(); ++t) {
    std::map<std::uint32_t, double> after;
    for (const auto& [kept, cost] : best) {
      std::uint32_t all = kept;
      for (std::size_t i = stored; i < rows[t].size(); ++i) all |= 1U << i;
      double now = cost;
      for (std::size_t i = 0; i < rows[t].size(); ++i) now += (all >> i & 1U) == 0 ? rows[t][i] : 0.0;
      for (std::uint32_t next = all;; next = (next - 1) & all) {
        if (next == all || (t >= first && static_cast<std::size_t>(std::popcount(next)) == budget)) {
          if (t < first || static_cast<std::size_t>(std::popcount(next)) <= budget || t + 1 == rows.size()) {
            const auto [it, added] = after.try_emplace(next, now);
            it->second = std::min(it->second, now);
          }
        }
        if (next == 0) break;
      }
    }
    stored = rows[t].size();
    best.swap(after);
  }
  double least = 1e9;
  for (const auto& [kept, cost] : best) least = std::min(least, cost);
  return least;
}

TEST(MassBounds, AssignmentEqualsExhaustiveSearchWithPrompts) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const std::size_t prompt = 1 + seed % 4, budget = 1 + seed / 4 % 4, first = seed % 2;
    std::vector<std::size_t> sizes;
    for (std::size_t t = 0; t < 6; ++t) sizes.push_back(prompt + t + (t > 2 && seed % 3 == 0 ? 1 : 0));
    const evict::AttentionRows rows = random_rows(seed, sizes);
    const double exact = evict::lost_mass(rows, evict::mass_evictions(rows, budget, first));
    EXPECT_NEAR(exact, least_lost(rows, budget, first), 1e-9) << seed;
    EXPECT_LE(evict::select_lost(rows, budget, first), exact + 1e-9) << seed;
    EXPECT_LE(exact, evict::lost_mass(rows, evict::greedy_evictions(rows, budget, first)) + 1e-9) << seed;
  }
}

TEST(MassBounds, ReplayLosesNoLessThanTheAssignment) {
  double lost = 0, least = 0;
  for (const EvictRule& rule : {EvictRule(evict::H2oSum{}), EvictRule(evict::Tova{}), EvictRule(evict::Streaming{})}) {
    RunSpec spec = testing::small_spec();
    spec.backend = "host";
    spec.probe.samples = 0;
    spec.eviction.rule = rule;
    spec.eviction.unit = EvictUnit::token;
    spec.eviction.budget = {BudgetKind::tokens, 24, 1, 1};
    RandomTrace trace(spec.model, testing::requests_of({{40, 30}, {9, 40}, {0, 50}}), 11);
    const auto transport = make_local_transport();
    const auto backend = make_backend(spec.backend, 0);
    std::map<std::pair<std::uint32_t, std::uint16_t>, AttentionHistory> histories;
    ReplayHooks hooks;
    hooks.attention_groups = 5;
    hooks.attention = [&](std::span<const AttentionRow> rows, std::span<const AttentionCell> cells) {
      std::size_t first = 0;
      for (const AttentionRow& row : rows) {
        AttentionHistory& h = histories[{row.request, row.layer}];
        h.rows.push_back(row);
        h.cells.emplace_back(cells.begin() + static_cast<std::ptrdiff_t>(first), cells.begin() + static_cast<std::ptrdiff_t>(first + row.n_cells));
        first += row.n_cells;
      }
      EXPECT_EQ(first, cells.size());
    };
    const RunOutcome out = replay(spec, trace, *backend, *transport, hooks);
    EXPECT_EQ(out.violations, std::vector<std::string>{});
    ASSERT_EQ(histories.size(), 5u);
    std::vector<MassBoundRecord> bounds;
    for (const auto& [pair, history] : histories) {
      bounds.push_back(bound_mass(history));
      const MassBoundRecord& b = bounds.back();
      EXPECT_EQ(b.excess_tokens, 0);
      EXPECT_EQ(b.budget_tokens, 24);
      EXPECT_NEAR(b.mass, static_cast<double>(b.n_tokens), 1e-6) << "every query's attention sums to one";
      lost += b.lost_mass;
      least += b.orc_mass;
    }
    EXPECT_EQ(check_mass_bounds(bounds), std::vector<std::string>{});
    MassBoundRecord wrong = bounds.front();
    wrong.lost_mass = wrong.orc_mass - 0.1;
    EXPECT_EQ(check_mass_bounds(std::vector{wrong}).size(), 1u);
  }
  EXPECT_GT(least, 0.1);
  EXPECT_GT(lost, least);
}

}  // namespace
}  // namespace moekv
