// step_order pikv: evictions before the step attends, counted by hand on tiny traces.
#include <gtest/gtest.h>

#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

StepRecord run(StepOrder order, std::uint64_t budget, std::pair<std::uint32_t, std::uint32_t> request, const EvictRule& rule = evict::Fifo{}) {
  RunSpec spec = testing::small_spec(testing::gqa_model(1));
  spec.cluster.ranks = 1;
  spec.placement.layout = Layout::local;
  spec.step_order = order;
  spec.eviction.rule = rule;
  spec.eviction.unit = EvictUnit::token;
  spec.eviction.budget = {BudgetKind::tokens, budget, 1, 1};
  spec.eviction.protect = {0, 0};
  spec.probe.samples = 0;
  const RunOutcome out = testing::run_replay(spec, testing::requests_of({request}));
  EXPECT_TRUE(out.violations.empty()) << out.violations.front();
  return testing::totals(out);
}

TEST(StepOrder, DecodeReadsTheBudgetInsteadOfTheBudgetAndTheNewToken) {
  // Six tokens, budget 2. Standard: a step reads what the last one left and itself, 1 2 3 3 3 3; due after steps 2, 3, 4 (step 5 ends the request).
  const StepRecord standard = run(StepOrder::standard, 2, {0, 6});
  EXPECT_EQ(standard.entries_wanted, 1 + 2 + 3 + 3 + 3 + 3);
  EXPECT_EQ(standard.evictions, 3);
  // Before attend: 1 2 2 2 2 2, one eviction in each of steps 2, 3, 4, 5.
  const StepRecord pikv = run(StepOrder::pikv, 2, {0, 6});
  EXPECT_EQ(pikv.entries_wanted, 1 + 2 + 2 + 2 + 2 + 2);
  EXPECT_EQ(pikv.evictions, 4);
  EXPECT_EQ(pikv.overcommit, 0);
}

TEST(StepOrder, APromptAttendsWholeAndItsExcessGoesBeforeTheFirstOutput) {
  // Prompt of 8 in one chunk (reads 1 .. 8), three outputs, budget 4.
  const StepRecord standard = run(StepOrder::standard, 4, {8, 3});
  EXPECT_EQ(standard.entries_wanted, 36 + 5 + 5 + 5);
  EXPECT_EQ(standard.evictions, 4 + 1 + 1);
  const StepRecord pikv = run(StepOrder::pikv, 4, {8, 3});
  EXPECT_EQ(pikv.entries_wanted, 36 + 4 + 4 + 4);
  EXPECT_EQ(pikv.evictions, 5 + 1 + 1);
}

TEST(StepOrder, TheNewTokenIsNeverTheVictimOfItsOwnStep) {
  // Budget 1: before attend the token before goes each time, so a step reads itself alone.
  const StepRecord pikv = run(StepOrder::pikv, 1, {0, 6}, evict::Tova{});
  EXPECT_EQ(pikv.entries_wanted, 6);
  EXPECT_EQ(pikv.evictions, 5);
  EXPECT_EQ(pikv.empty_reads, 0);
}

}  // namespace
}  // namespace moekv
