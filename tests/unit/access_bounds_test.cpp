// Offline bounds of accesses: reference caches against exhaustive search, laws of the miss anatomy on replays.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <map>
#include <tuple>

#include "engine/oracle/access_bounds.hpp"
#include "engine/replay.hpp"
#include "support/access_scenario.hpp"
#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

using testing::event;
using testing::random_scenario;
using testing::RandomTrace;
using testing::Scenario;

/// Least misses by exhaustive search over what is kept after each step. `shard` 2: one pooled cache.
std::int64_t least_misses(const Scenario& scenario, std::uint32_t shard, bool forced) {
  const auto own = [&](std::uint32_t p) { return shard == 2 || scenario.shard_of[p] == shard; };
  const auto bits = [&](const std::vector<std::uint32_t>& pages) {
    std::uint32_t set = 0;
    for (const std::uint32_t p : pages) set |= own(p) ? 1U << p : 0;
    return set;
  };
  std::map<std::uint32_t, std::int64_t> best = {{0, 0}};
  for (const Scenario::Step& step : scenario.steps) {
    const std::uint32_t looked_up = bits(step.looked_up), touched = (looked_up | bits(step.written) | bits(step.returned)) & ~bits(step.gone);
    const std::uint64_t capacity = shard == 2 ? step.capacity[0] + step.capacity[1] : step.capacity[shard];
    std::map<std::uint32_t, std::int64_t> after;
    for (const auto& [kept, cost] : best) {
      const std::int64_t now = cost + std::popcount(looked_up & ~(kept | bits(step.written)));
      const std::uint32_t all = (kept | touched) & ~bits(step.gone);
      for (std::uint32_t next = all;; next = (next - 1) & all) {
        const auto size = static_cast<std::uint64_t>(std::popcount(next));
        const bool too_many = static_cast<std::uint64_t>(std::popcount(touched)) > capacity;
        const bool keeps_touched = too_many ? (next & ~touched) == 0 : (touched & ~next) == 0;
        if (size <= capacity && (!forced || keeps_touched)) {
          const auto [it, added] = after.try_emplace(next, now);
          it->second = std::min(it->second, now);
        }
        if (next == 0) break;
      }
    }
    best.swap(after);
  }
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (const auto& [kept, cost] : best) least = std::min(least, cost);
  return least;
}

TEST(AccessBounds, EqualExhaustiveSearch) {
  std::int64_t different = 0, misses = 0;
  for (std::uint64_t seed = 0; seed < 250; ++seed) {
    const Scenario s = random_scenario(seed, seed % 2 == 1);
    const AccessBounds b = bound_accesses(s.trace, 1);
    EXPECT_EQ(check_bounds(b, s.n_req, s.n_miss), std::vector<std::string>{}) << seed;
    for (const BoundRecord& shard : b.shards) {
      EXPECT_EQ(shard.opt_bypass_miss, least_misses(s, static_cast<std::uint32_t>(shard.shard), false)) << seed;
      EXPECT_EQ(shard.opt_forced_miss, least_misses(s, static_cast<std::uint32_t>(shard.shard), true)) << seed;
    }
    EXPECT_EQ(b.pooled.opt_bypass_miss, least_misses(s, 2, false)) << seed;
    EXPECT_EQ(b.pooled.opt_forced_miss, least_misses(s, 2, true)) << seed;
    different += b.total.opt_forced_miss - b.total.opt_bypass_miss;
    misses += b.total.opt_bypass_miss;
  }
  EXPECT_GT(different, 0);
  EXPECT_GT(misses, 100);
}

/// LRU and its pooled form by the plainest means, and from them the anatomy.
TEST(AccessBounds, AnatomyEqualsPlainLists) {
  std::int64_t lost = 0, gained = 0, returned = 0;
  for (std::uint64_t seed = 200; seed < 260; ++seed) {
    const Scenario s = random_scenario(seed, seed % 2 == 1);
    const AccessBounds b = bound_accesses(s.trace, 1);
    returned += std::any_of(s.steps.begin(), s.steps.end(), [](const auto& step) { return !step.returned.empty(); }) ? 1 : 0;
    std::vector<std::uint32_t> own, pool;  // most recent last
    std::int64_t own_miss = 0, pool_miss = 0;
    for (const Scenario::Step& step : s.steps) {
      const auto touch = [](std::vector<std::uint32_t>& list, std::uint32_t p) {
        const bool had = std::erase(list, p) > 0;
        list.push_back(p);
        return had;
      };
      // The order of the log: shard, writes before lookups before what comes back, request, page.
      std::vector<std::tuple<std::uint32_t, int, std::uint32_t, std::uint32_t>> order;
      for (const std::uint32_t p : step.written) order.emplace_back(p % 2, 0, p / 4 % 2, p);
      for (const std::uint32_t p : step.looked_up) order.emplace_back(p % 2, 1, p / 4 % 2, p);
      for (const std::uint32_t p : step.returned) order.emplace_back(p % 2, 2, p / 4 % 2, p);
      std::sort(order.begin(), order.end());
      for (const auto& [shard, part, request, p] : order) {
        const bool looked_up = part == 1, had_own = touch(own, p), had_pool = touch(pool, p);
        own_miss += looked_up && !had_own ? 1 : 0;
        pool_miss += looked_up && !had_pool ? 1 : 0;
      }
      for (const std::uint32_t p : step.gone) std::erase(own, p), std::erase(pool, p);
      for (std::uint32_t shard = 0; shard < 2; ++shard) {
        const auto used = [&] { return static_cast<std::uint64_t>(std::count_if(own.begin(), own.end(), [&](std::uint32_t p) { return p % 2 == shard; })); };
        while (used() > step.capacity[shard]) own.erase(std::find_if(own.begin(), own.end(), [&](std::uint32_t p) { return p % 2 == shard; }));
      }
      while (pool.size() > step.capacity[0] + step.capacity[1]) pool.erase(pool.begin());
    }
    EXPECT_EQ(b.total.lru_miss, own_miss) << seed;
    EXPECT_EQ(b.pooled.lru_miss, pool_miss) << seed;
    EXPECT_EQ(b.anatomy.capacity, pool_miss);
    EXPECT_EQ(b.anatomy.placement_lost - b.anatomy.placement_gained, own_miss - pool_miss);
    EXPECT_EQ(b.anatomy.policy_lost - b.anatomy.policy_gained, s.n_miss - own_miss);
    lost += b.anatomy.placement_lost;
    gained += b.anatomy.placement_gained;
  }
  EXPECT_GT(lost, 0);
  EXPECT_GT(gained, 0);
  EXPECT_GT(returned, 5);
}

TEST(AccessBounds, LawsNoticeWrongCounts) {
  const Scenario s = random_scenario(7);
  AccessBounds b = bound_accesses(s.trace, 1);
  EXPECT_TRUE(check_bounds(b, s.n_req, s.n_miss).empty());
  EXPECT_FALSE(check_bounds(b, s.n_req + 1, s.n_miss).empty());
  EXPECT_FALSE(check_bounds(b, s.n_req, s.n_miss + 1).empty());
  AccessBounds broken = b;
  broken.anatomy.policy_lost += 1;
  EXPECT_EQ(check_bounds(broken, s.n_req, s.n_miss).size(), 1u);
  broken = b;
  broken.wrong_outcomes = 1;
  EXPECT_EQ(check_bounds(broken, s.n_req, s.n_miss).size(), 1u);
  broken = b;
  broken.shards[0].opt_bypass_miss = broken.shards[0].n_miss + 1;
  EXPECT_FALSE(check_bounds(broken, s.n_req, s.n_miss).empty());
}

TEST(AccessTrace, RefusesContradictions) {
  const auto refuses = [](const std::vector<std::pair<std::uint64_t, AccessEvent>>& events) {
    AccessTrace trace("log");
    trace.add(0, event(AccessKind::opened, 0, AccessEvent::whole_shard, 0, 4));
    trace.add(0, event(AccessKind::written, 0, 0, 0));
    EXPECT_THROW(
        {
          for (const auto& [step, e] : events) trace.add(step, e);
        },
        UserError);
  };
  refuses({{1, event(AccessKind::hit, 0, 0, 1)}});                                           // never written
  refuses({{1, event(AccessKind::written, 1, 0, 0)}});                                       // no budget in shard 1
  refuses({{1, event(AccessKind::hit, 0, 0, 0)}, {0, event(AccessKind::hit, 0, 0, 0)}});     // steps go backwards
  refuses({{1, event(AccessKind::finished, 0, 3, 0, 0)}});                                   // never there
  refuses({{1, event(AccessKind::opened, 0, AccessEvent::whole_shard, 0, 4)}});              // twice
  refuses({{1, event(AccessKind::written, 0, 0, 5)}});                                       // a gap
}

/// Several rules, scopes and layouts through the engine: the log's totals are the run's, and every law holds.
class LoggedReplay : public ::testing::Test {
 protected:
  static AccessBounds bounds_of(const RunSpec& spec, RunOutcome& out) {
    RandomTrace trace(spec.model, testing::requests_of({{40, 60}, {0, 90}, {57, 30}, {13, 40}}), 11);
    const auto transport = make_local_transport();
    const auto backend = make_backend(spec.backend, 0);
    AccessTrace log("log");
    ReplayHooks hooks;
    hooks.accesses = [&](std::uint64_t step, std::span<const AccessEvent> events) {
      for (const AccessEvent& e : events) log.add(step, e);
    };
    out = replay(spec, trace, *backend, *transport, hooks);
    log.close();
    return bound_accesses(log, 1);
  }
  static RunSpec spec_of(const EvictRule& rule, EvictScope scope) {
    RunSpec spec = testing::small_spec();
    spec.backend = "count";
    spec.probe.samples = 0;
    spec.eviction.rule = rule;
    spec.eviction.scope = scope;
    spec.eviction.protect = {0, 0};
    spec.eviction.budget = scope == EvictScope::shard ? BudgetSpec{BudgetKind::pages, 40, 1, 1} : BudgetSpec{BudgetKind::fraction, 0, 2, 5};
    testing::use_expert_layout(spec);
    spec.read.scope = ReadScope::routed;
    return spec;
  }
};

TEST_F(LoggedReplay, LawsHoldForEveryScope) {
  std::int64_t missed = 0;
  for (const EvictRule& rule : {EvictRule(evict::Lru{}), EvictRule(evict::Fifo{}), EvictRule(evict::Lfu{}), EvictRule(evict::Random{})}) {
    for (const EvictScope scope : {EvictScope::request, EvictScope::shard}) {
      RunOutcome out;
      const AccessBounds b = bounds_of(spec_of(rule, scope), out);
      const StepRecord sum = testing::totals(out);
      EXPECT_EQ(check_bounds(b, sum.n_req, sum.n_miss), std::vector<std::string>{});
      EXPECT_GT(b.total.written_pages, 0);
      missed += b.total.opt_bypass_miss;
    }
  }
  EXPECT_GT(missed, 0);
}

TEST_F(LoggedReplay, LawsHoldForTokensPagesOfShardsAndCompression) {
  RunSpec spec = spec_of(evict::Streaming{}, EvictScope::request);  // single tokens leave and slots are reused
  spec.eviction.unit = EvictUnit::token;
  spec.eviction.protect = {2, 4};
  RunOutcome out;
  AccessBounds b = bounds_of(spec, out);
  EXPECT_EQ(check_bounds(b, testing::totals(out).n_req, testing::totals(out).n_miss), std::vector<std::string>{});
  EXPECT_GT(b.total.n_miss, 0);

  spec = spec_of(evict::Lru{}, EvictScope::request);
  spec.placement.dedup = Dedup::rank;  // pages of several experts, looked up by the experts they hold
  spec.page.key = PageKey::shard;
  spec.compression.k = spec.compression.v = codec::Int8Token{};
  b = bounds_of(spec, out);
  EXPECT_EQ(check_bounds(b, testing::totals(out).n_req, testing::totals(out).n_miss), std::vector<std::string>{});
  EXPECT_GT(b.total.n_miss, 0);
}

TEST_F(LoggedReplay, LawsHoldWherePagesComeBack) {
  std::int64_t missed = 0, beaten = 0;
  for (const EvictRule& rule : {EvictRule(evict::Lru{}), EvictRule(evict::TwoQueue{}), EvictRule(evict::S3Fifo{}), EvictRule(evict::Arc{}),
                                EvictRule(evict::Lfu{}), EvictRule(evict::FlexgenStatic{})}) {
    for (const EvictScope scope : {EvictScope::request, EvictScope::shard}) {
      for (const ReadScope reads : {ReadScope::routed, ReadScope::all}) {
        RunSpec spec = spec_of(rule, scope);
        spec.eviction.action = EvictAction::demote;
        spec.read.scope = reads;
        if (std::holds_alternative<evict::FlexgenStatic>(rule)) spec.eviction.budget = {};
        RunOutcome out;
        const AccessBounds b = bounds_of(spec, out);
        const StepRecord sum = testing::totals(out);
        EXPECT_EQ(check_bounds(b, sum.n_req, sum.n_miss), std::vector<std::string>{}) << std::visit([](const auto& r) { return r.name; }, rule);
        EXPECT_GT(sum.recalled_pages, 0);
        EXPECT_EQ(b.total.n_miss, sum.hit_host);
        missed += b.total.opt_bypass_miss;
        beaten += sum.n_miss - b.total.opt_bypass_miss;
      }
    }
  }
  EXPECT_GT(missed, 0);
  EXPECT_GT(beaten, 0);
}

/// Without a limit that binds nothing is lost; the optimum of a run that evicts nothing is 0.
TEST_F(LoggedReplay, NothingEvictedNothingMissed) {
  RunSpec spec = spec_of(evict::Lru{}, EvictScope::shard);
  spec.eviction.budget.amount = 100000;
  RunOutcome out;
  const AccessBounds b = bounds_of(spec, out);
  EXPECT_EQ(b.total.n_miss, 0);
  EXPECT_EQ(b.total.opt_bypass_miss + b.total.opt_forced_miss + b.total.lru_miss + b.pooled.lru_miss, 0);
}

}  // namespace
}  // namespace moekv
