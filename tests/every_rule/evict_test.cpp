// What every eviction rule must keep (protection, pins, budget, determinism), and published vectors.
#include <gtest/gtest.h>

#include <algorithm>

#include "support/evict_world.hpp"

namespace moekv {
namespace {

using testing::EveryEvictRule;
using testing::random_row;
using testing::Set;
using testing::some_positions;
using testing::World;

TEST(Vectors, H2oSumKeepsHeavyHittersAndRecent) {
  World world(evict::H2oSum{}, 4, {0, 2}, 8, EvictUnit::token);
  world.step(1, {{0, 1.0F}});
  world.step(2, {{0, .6F}, {1, .4F}});
  world.step(3, {{0, .2F}, {1, .5F}, {2, .3F}});
  EXPECT_EQ(world.step(4, {{0, .1F}, {1, .2F}, {2, .3F}, {3, .4F}}), (Set{0, 1, 2, 3}));
  EXPECT_EQ(world.step(5, {{0, .05F}, {1, .45F}, {2, .1F}, {3, .1F}, {4, .3F}}), (Set{0, 1, 3, 4}));
  EXPECT_EQ(world.step(6, {{0, .05F}, {1, .05F}, {3, .6F}, {4, .1F}, {5, .2F}}), (Set{0, 1, 4, 5}));
}

TEST(Vectors, StreamingKeepsSinksAndTheLastTokens) {
  evict::Streaming rule;
  rule.start = 2;
  World world(rule, 5, {0, 0}, 8, EvictUnit::token);
  Set live;
  for (std::uint32_t t = 1; t <= 9; ++t) live = world.step(t);
  EXPECT_EQ(live, (Set{0, 1, 6, 7, 8}));
}

TEST(Vectors, PageReducersDecideWhichPageGoes) {
  const std::map<std::uint32_t, float> row = {{0, .5F}, {1, 0}, {2, .2F}, {3, .22F}, {4, .3F}, {5, .05F}, {6, 0}};
  for (const auto& [reducer, gone] :
       {std::pair(PageReducer::sum, 4U), std::pair(PageReducer::mean, 4U), std::pair(PageReducer::max, 2U), std::pair(PageReducer::min, 0U)}) {
    World world(evict::Tova{}, 6, {0, 1}, 2, EvictUnit::page);
    world.reduce_pages(reducer);
    world.step(6);       // three pages, which fit
    world.step(7, row);  // and one too many
    EXPECT_EQ(world.evicted(), (std::vector<std::uint32_t>{gone, gone + 1}));
  }
}

TEST(Vectors, TiesDecideWhichOfEqualsStays) {
  const std::map<std::uint32_t, float> row = {{0, .25F}, {1, .25F}, {2, .25F}, {3, .25F}};
  for (const auto& [ties, gone] : {std::pair(Ties::newest, 0U), std::pair(Ties::oldest, 2U)}) {
    World world(evict::Tova{}, 3, {0, 0}, 8, EvictUnit::token);
    world.break_ties(ties);
    world.step(3);
    world.step(4, row);  // 3 is pinned
    EXPECT_EQ(world.evicted(), std::vector<std::uint32_t>{gone});
  }
}

TEST(Vectors, LruFollowsAccessesAndFifoDoesNot) {
  for (const bool lru : {true, false}) {
    World world(lru ? EvictRule{evict::Lru{}} : EvictRule{evict::Fifo{}}, 3, {0, 0}, 1, EvictUnit::page);
    world.step(3);
    if (lru) world.access({0});  // a fifo queue is never refreshed by the evictor
    EXPECT_EQ(world.step(4), lru ? (Set{0, 2, 3}) : (Set{1, 2, 3}));
    if (lru) world.access({2});
    EXPECT_EQ(world.step(5), (Set{2, 3, 4}));
  }
}

TEST(Vectors, PromptIsEvictedOnlyAfterItsLastChunk) {
  World world(evict::Fifo{}, 8, {0, 2}, 4, EvictUnit::token, 60, 40);
  EXPECT_EQ(world.step(16).size(), 16U);
  EXPECT_EQ(world.step(32).size(), 32U);
  EXPECT_EQ(world.step(40), (Set{32, 33, 34, 35, 36, 37, 38, 39}));
}

INSTANTIATE_TEST_SUITE_P(Catalogue, EveryEvictRule, ::testing::ValuesIn(testing::evict_rules()),
                         [](const auto& entry) { return testing::test_name(entry.param.name); });

TEST_P(EveryEvictRule, ProtectionBudgetAndDeterminism) {
  constexpr std::uint64_t budget = 24;
  const ProtectSpec protect{3, 5};
  for (const EvictUnit unit : {EvictUnit::token, EvictUnit::page}) {
    if (unit == EvictUnit::token && !GetParam().has_tokens) continue;
    const EvictRule& rule = GetParam().small;
    World world(rule, budget, protect, 4, unit), twin(rule, budget, protect, 4, unit);
    for (std::uint32_t t = 1; t <= 120; ++t) {
      const auto row = random_row(5, t, t);
      for (World* w : {&world, &twin}) w->access(some_positions(t));
      const Set live = world.step(t, row);
      ASSERT_EQ(twin.step(t, row), live) << "two equal histories must give equal choices";
      for (const std::uint32_t gone : world.evicted()) {
        ASSERT_GE(gone, protect.sinks);
        ASSERT_LT(gone + protect.recent, t);
      }
      if (!GetParam().chooses) {
        ASSERT_EQ(live.size(), t);
      } else {
        ASSERT_LE(live.size(), budget + static_cast<std::uint64_t>(world.counts().overcommit));
        ASSERT_EQ(world.counts().overcommit, 0) << "there was always something to evict";
      }
      ASSERT_EQ(world.counts().budget_excess, 0);
      ASSERT_TRUE(live.count(t - 1) == 1) << "what the step appended is pinned";
    }
    EXPECT_EQ(world.counts().evictions > 0, GetParam().chooses);
  }
}

TEST_P(EveryEvictRule, BudgetBelowProtectionIsOvercommitNotLoss) {
  World world(GetParam().rule, 4, {4, 8}, 4, EvictUnit::page);
  for (std::uint32_t t = 1; t <= 40; ++t) {
    const Set live = world.step(t);
    for (std::uint32_t p = 0; p < std::min(4U, t); ++p) ASSERT_EQ(live.count(p), 1U);
    for (std::uint32_t p = t > 8 ? t - 8 : 0; p < t; ++p) ASSERT_EQ(live.count(p), 1U);
  }
  EXPECT_EQ(world.counts().overcommit > 0, GetParam().chooses);
}

}  // namespace
}  // namespace moekv
