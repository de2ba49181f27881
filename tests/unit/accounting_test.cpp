// What counters of a replay mean at their edges, counted by hand on tiny traces.
#include <gtest/gtest.h>

#include "engine/batcher.hpp"
#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

RunSpec counting_spec(std::uint32_t n_layers) {
  RunSpec spec = testing::small_spec(testing::gqa_model(n_layers));
  spec.backend = "count";
  spec.probe.samples = 0;
  spec.placement = {};
  spec.eviction = {};
  return spec;
}

StepRecord run(const RunSpec& spec, std::pair<std::uint32_t, std::uint32_t> request) {
  const RunOutcome out = testing::run_replay(spec, testing::requests_of({request}), spec.backend);
  EXPECT_TRUE(out.violations.empty()) << out.violations.front();
  return testing::totals(out);
}

TEST(Accounting, APageIsAccessedUnderExpertsThatItsCopiesStandFor) {
  RunSpec spec = counting_spec(2);
  testing::use_expert_layout(spec);
  spec.cluster.ranks = spec.model.gate.n_experts;  // a shard for each expert, so pages of a shard are pages of an expert
  spec.page.key = PageKey::expert;
  const StepRecord by_expert = run(spec, {9, 40});
  spec.page.key = PageKey::shard;
  const StepRecord by_shard = run(spec, {9, 40});
  EXPECT_EQ(by_shard.n_req, by_expert.n_req);
  EXPECT_EQ(by_shard.requested_entries, by_expert.requested_entries);
  spec.placement.dedup = Dedup::shard;
  EXPECT_EQ(run(spec, {9, 40}).n_req, by_expert.n_req);
}

TEST(Accounting, DenseAccessLooksUpAllPagesWhateverQueriesReach) {
  RunSpec spec = counting_spec(2);
  testing::use_expert_layout(spec);
  spec.cluster.ranks = spec.model.gate.n_experts;
  spec.eviction.access = AccessSource::dense;
  const StepRecord all = run(spec, {9, 40});
  spec.read.scope = ReadScope::routed;
  const StepRecord routed = run(spec, {9, 40});
  EXPECT_LT(routed.query_ranks, all.query_ranks);
  EXPECT_EQ(routed.n_req, all.n_req);
  EXPECT_EQ(routed.requested_entries, all.requested_entries);
}

TEST(Accounting, LayersWithoutExpertsAreAccessedWholeInEveryLayout) {
  RunSpec spec = counting_spec(1);
  spec.model.layers[0].moe = false;
  spec.page.slots = 8;
  const std::int64_t lookups = 8 * 1 + 8 * 2 + 4 * 3;  // 20 steps, in each the pages so far
  EXPECT_EQ(run(spec, {0, 20}).n_req, lookups);
  testing::use_expert_layout(spec);
  spec.page.key = PageKey::expert;
  EXPECT_EQ(run(spec, {0, 20}).n_req, lookups);
  spec.page.key = PageKey::shard;
  EXPECT_EQ(run(spec, {0, 20}).n_req, lookups);
}

TEST(Accounting, OvercommitIsAboveTheBudgetAndPressureBeforeWhateverTheTrigger) {
  RunSpec spec = counting_spec(1);
  spec.cluster.ranks = 1;
  spec.eviction.rule = evict::Fifo{};
  spec.eviction.unit = EvictUnit::token;
  spec.eviction.budget = {BudgetKind::tokens, 8, 1, 1};
  spec.eviction.protect = {0, 6};
  spec.eviction.trigger = Trigger::watermark;
  spec.eviction.low_watermark = 0.5;
  const StepRecord low = run(spec, {0, 12});  // after nine tokens it should hold four, and keeps the six that are protected
  EXPECT_EQ(low.evictions, 3);
  EXPECT_EQ(low.overcommit, 0);
  spec.eviction.protect = {0, 0};
  spec.eviction.budget.amount = 4;
  spec.eviction.trigger = Trigger::every;
  spec.eviction.every_steps = 4;
  const StepRecord every = run(spec, {0, 12});  // holds 5 6 7 8 after steps 4 to 7, and 5 6 7 after steps 8 to 10; step 11 ends the request
  EXPECT_EQ(every.evictions, 4);
  EXPECT_EQ(every.steps_under_pressure, 4 + 3);
}

TEST(Accounting, DistinctEntriesOfHeadLayoutAreThePartsOfAllRanks) {
  RunSpec spec = counting_spec(1);
  spec.metrics.window_steps = 1;
  spec.placement.layout = Layout::head;
  spec.model.n_heads = 4;
  spec.model.n_kv_heads = 2;
  for (const std::uint32_t ranks : {1U, 2U, 4U}) {
    spec.cluster.ranks = ranks;
    const StepRecord at = testing::run_replay(spec, testing::requests_of({{0, 5}}), "count").steps[2];
    EXPECT_EQ(at.resident_entries, 3 * ranks);
    EXPECT_EQ(at.resident_distinct, 3 * std::min(ranks, 2U)) << "two ranks hold different heads, four the same ones twice";
    EXPECT_EQ(at.written_distinct, at.resident_distinct);
  }
}

TEST(Accounting, ATokenIsResidentWhileAnyOfItsCopiesIs) {
  RunSpec spec = counting_spec(1);
  testing::use_expert_layout(spec);
  spec.metrics.window_steps = 1;
  spec.page.slots = 8;
  spec.eviction.rule = evict::Fifo{};
  spec.eviction.unit = EvictUnit::page;
  spec.eviction.budget = {BudgetKind::pages, 8, 1, 1};
  spec.eviction.protect = {0, 0};
  const RunOutcome surviving = testing::run_replay(spec, testing::requests_of({{0, 90}}), "count");
  spec.read.copies = CopyRule::hash;
  const RunOutcome hash = testing::run_replay(spec, testing::requests_of({{0, 90}}), "count");
  EXPECT_GT(testing::totals(hash).masked_copies, 0);
  for (std::size_t i = 0; i < hash.steps.size(); ++i) EXPECT_EQ(hash.steps[i].resident_distinct, surviving.steps[i].resident_distinct) << i;
  spec.read.copies = CopyRule::paper;
  EXPECT_EQ(testing::totals(testing::run_replay(spec, testing::requests_of({{0, 90}}), "count")).resident_distinct, 0) << "not known";
}

TEST(Accounting, AQueueOfTokensForgetsARequestThatFinished) {
  // One budget of 24 for the shard: the third request stores in pages that the first one left, at the same positions.
  RunSpec spec = counting_spec(1);
  spec.cluster.ranks = 1;
  spec.batch.concurrency = 2;
  spec.prefill.chunk_tokens = 1;
  spec.prefill.evict = PrefillEvict::chunk;
  spec.eviction.rule = evict::Fifo{};
  spec.eviction.scope = EvictScope::shard;
  spec.eviction.unit = EvictUnit::token;
  spec.eviction.budget = {BudgetKind::tokens, 24, 1, 1};
  spec.eviction.protect = {0, 0};
  const RunOutcome out = testing::run_replay(spec, testing::requests_of({{0, 9}, {0, 60}, {0, 60}}), "count");
  EXPECT_TRUE(out.violations.empty()) << out.violations.front();
  const StepRecord total = testing::totals(out);
  EXPECT_EQ(total.evictions + total.finished_entries, 9 + 60 + 60);
  EXPECT_EQ(total.overcommit, 0);
}

TEST(Accounting, AStepOfATraceIsItsPhasesAndNothingElse) {
  for (const StepRecord& s : testing::run_replay(counting_spec(2), testing::requests_of({{9, 40}}), "count").steps) {
    EXPECT_EQ(s.t_step, s.t_read + s.t_route + s.t_place + s.t_dispatch + s.t_admit + s.t_attend + s.t_combine + s.t_touch);
    EXPECT_GT(s.t_step, 0);
    EXPECT_EQ(s.t_model, 0) << "no model runs";
    EXPECT_EQ(s.t_generate, 0) << "nothing is made without payload";
  }
}

TEST(Accounting, ARequestStartsWithItsFirstTokens) {
  RunSpec spec = counting_spec(1);
  spec.batch.max_num_batched_tokens = 4;
  spec.prefill.chunk_tokens = 4;
  const testing::RandomTrace trace(spec.model, testing::requests_of({{8, 1}, {2, 0}}), 11);
  const Geometry geometry(spec, trace.info(), spec.cluster.ranks);
  Batcher batcher(geometry, trace);
  for (int step = 0; step < 2; ++step) batcher.finish_step(batcher.next(), 100, 1);
  EXPECT_EQ(batcher.records().size(), 1U) << "the prompt of the first left the second no room";
  EXPECT_EQ(batcher.records()[0].last_step, 1) << "so far";
  batcher.finish_step(batcher.next(), 100, 1);
  const std::vector<RequestRecord> records = batcher.records();
  ASSERT_EQ(records.size(), 2U);
  EXPECT_EQ(records[0].first_step, 0);
  EXPECT_EQ(records[0].last_step, 2);
  EXPECT_EQ(records[1].first_step, 2);
  EXPECT_EQ(records[1].queue_delay_model_ns, 200);
  EXPECT_EQ(records[1].kv_ttft_ns, 1) << "from the start of its first step";
  EXPECT_EQ(records[1].kv_ttft_model_ns, 300) << "from its arrival";
}

}  // namespace
}  // namespace moekv
