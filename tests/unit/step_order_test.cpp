// step_order pikv: evictions before the step attends, counted by hand on tiny traces; and which steps the hooks of a profiler enclose.
#include <gtest/gtest.h>

#include "engine/replay.hpp"
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

/// What the hooks of a profiler and of progress say, in order, over six steps.
std::string profiled(std::uint64_t begin, std::uint64_t end) {
  RunSpec spec = testing::small_spec(testing::gqa_model(1));
  spec.probe.samples = 0;
  testing::RandomTrace trace(spec.model, testing::requests_of({{0, 6}}), 11);
  const auto transport = make_local_transport();
  const auto backend = make_count_backend();
  std::string calls;
  ReplayHooks hooks;
  hooks.progress = [&](const Progress& p) { calls += std::to_string(p.step - 1); };
  hooks.profile_begin = begin;
  hooks.profile_end = end;
  hooks.profile_start = [&] { calls += "<"; };
  hooks.profile_stop = [&] { calls += ">"; };
  (void)replay(spec, trace, *backend, *transport, hooks);
  return calls;
}

TEST(ProfileHooks, EncloseTheStepsThatTheyName) {
  EXPECT_EQ(profiled(0, 0), "012345");
  EXPECT_EQ(profiled(0, 1), "<0>12345");
  EXPECT_EQ(profiled(2, 4), "01<23>45");
  EXPECT_EQ(profiled(4, 9), "0123<45>");
  EXPECT_EQ(profiled(7, 9), "012345");
}

}  // namespace
}  // namespace moekv
