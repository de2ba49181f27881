// Plans of experts that change under a run: entries follow their replicas, attention does not notice, and what it cost is counted.
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "support/replan_fixture.hpp"

namespace moekv {
namespace {

using testing::Entry;
using testing::expect_dense;
using testing::for_each_entry;
using testing::replan_spec;

TEST(Replan, AttentionStaysDense) {
  ModelShape mixed = testing::gqa_model(4);
  mixed.layers[0].moe = false;
  mixed.layers[1].attention = AttentionKind::window;
  mixed.layers[1].window_tokens = 10;
  mixed.layers[2].sinks = true;
  for (const ModelShape& shape : {testing::gqa_model(), mixed, testing::mla_model()}) {
    for (const std::uint32_t every : {1U, 3U, 7U}) {
      for (const std::uint32_t replicas : {12U, 24U}) {
        for (const ShadowRule shadow : {ShadowRule::none, ShadowRule::fastermoe}) {
          RunSpec spec = replan_spec(every, shape);
          spec.placement.replicas = replicas;
          spec.placement.shadow = shadow;
          spec.placement.shadow_tflops = 1e-6;  // a busy expert costs more than copies of it
          spec.cluster.shards_per_rank = every == 3 ? 3 : 1;
          spec.page.head_groups = shape.mla() ? 1 : every == 7 ? 2 : 1;
          spec.read.copies = every == 3 ? CopyRule::hash : CopyRule::surviving;
          SCOPED_TRACE(fmt::format("{} every {} replicas {} shadow {}", shape.name, every, replicas, static_cast<int>(shadow)));
          const RunOutcome out = testing::run_replanned(spec);
          expect_dense(out);
          if (HasFatalFailure()) return;
          const StepRecord sum = testing::totals(out);
          EXPECT_GT(sum.replans, 2);
          // One expert a shard is placed by its number.
          const bool moves = replicas > 4 * spec.cluster.shards_per_rank || shadow != ShadowRule::none;
          EXPECT_EQ(sum.pages_moved > 0, moves);
          EXPECT_EQ(sum.wire_pages > 0, moves);
          EXPECT_EQ(sum.t_replan_model > 0, moves);
          EXPECT_LE(sum.t_replan_model, sum.t_network_model + sum.t_replan_model);
          EXPECT_EQ(sum.shadow_stores > 0, shadow != ShadowRule::none);
        }
      }
    }
  }
}

TEST(Replan, EveryEntryIsThereOnceAndWhereThePlanSays) {
  RunSpec fixed = replan_spec(0);
  fixed.placement.load = LoadSource::trace;
  std::vector<std::set<Entry>> expected;
  testing::run_replanned(fixed, [&](const StepBatch&, ShardedCache& cache, StepDriver&) {
    expected.emplace_back();
    for_each_entry(cache, [&](const Shard&, std::uint32_t, std::size_t, const Entry& e) { expected.back().insert(e); });
  });
  std::size_t step = 0, moved = 0;
  std::map<Entry, std::uint32_t> before;
  testing::run_replanned(replan_spec(2), [&](const StepBatch& batch, ShardedCache& cache, StepDriver& driver) {
    std::map<Entry, std::uint32_t> now;
    const Geometry& geometry = driver.geometry();
    for_each_entry(cache, [&](const Shard& shard, std::uint32_t page, std::size_t i, const Entry& e) {
      EXPECT_TRUE(now.emplace(e, shard.id().value).second) << "an entry lies twice";
      const Group& group = shard.groups()[shard.pages()[page].group];
      const ExpertId expert = group.chains[shard.pages()[page].chain].expert;
      ASSERT_TRUE(expert.valid());
      bool holds = false;
      geometry.for_each_home_of(geometry.layers()[group.layer], expert, [&](ShardId s) { holds = holds || s == shard.id(); });
      EXPECT_TRUE(holds) << "shard " << shard.id().value << " holds no replica of expert " << expert.value;
      EXPECT_NE(std::find(shard.experts(i).begin(), shard.experts(i).end(), expert.value), shard.experts(i).end());
    });
    std::set<Entry> entries;
    for (const auto& [entry, shard] : now) {
      entries.insert(entry);
      if (const auto it = before.find(entry); it != before.end() && it->second != shard) {
        moved += 1;
        EXPECT_EQ(batch.step % 2, 0U) << "an entry moved without a new plan";
      }
    }
    EXPECT_EQ(entries, expected[step]) << "step " << step;
    before = now;
    step += 1;
  });
  EXPECT_GT(moved, 100U);
}

TEST(Replan, CountAndHostDecideAlike) {
  for (const ShadowRule shadow : {ShadowRule::none, ShadowRule::fastermoe}) {
    RunSpec spec = replan_spec(3);
    spec.placement.shadow = shadow;
    spec.placement.shadow_tflops = 1e-6;
    spec.read.scope = ReadScope::routed;
    spec.eviction.rule = evict::Lru{};
    spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
    const RunOutcome host = testing::run_replanned(spec), counted = testing::run_replanned(spec, {}, "count");
    EXPECT_EQ(to_hex(host.digest), to_hex(counted.digest));
    const StepRecord a = testing::totals(host), b = testing::totals(counted);
    for_each_field(StepRecord::metrics, [&](const auto& m) {
      if (m.claim != ClaimClass::counted || m.name == "metadata_bytes") return;
      EXPECT_EQ(a.*m.member, b.*m.member) << m.name;
    });
    EXPECT_TRUE(counted.violations.empty()) << counted.violations.front();
  }
}

TEST(Replan, WindowHoldsTheChoicesOfTheStepsBefore) {
  for (const std::uint32_t window : {2U, 4U, 0U, 9U}) {
    RunSpec spec = replan_spec(4);
    spec.placement.window_steps = window;
    spec.metrics.window_steps = 1;
    const std::size_t length = window > 0 ? window : 4;
    std::vector<std::int64_t> tokens;
    const RunOutcome out = testing::run_replanned(spec, [&](const StepBatch& batch, ShardedCache&, StepDriver&) {
      std::int64_t n = 0;
      for (const BatchItem& item : batch.items) n += item.end - item.begin;
      tokens.push_back(n);
    });
    std::int64_t seen = 0;
    for (const StepRecord& s : out.steps) {
      if (s.replans == 0) continue;
      std::int64_t choices = 0;
      for (std::size_t i = 0; i < std::min<std::size_t>(length, static_cast<std::size_t>(s.first_step)); ++i)
        choices += tokens[static_cast<std::size_t>(s.first_step) - 1 - i] * 3;
      EXPECT_EQ(s.plan_load_mean, 3 * std::llround(static_cast<double>(choices) / 4)) << "window " << window << " step " << s.first_step;
      EXPECT_LE(s.plan_load_max_after, s.plan_load_max_before + 3);
      seen += 1;
    }
    EXPECT_GE(seen, 5);
    const StepRecord sum = testing::totals(out);
    EXPECT_LT(sum.plan_load_max_after, sum.plan_load_max_before);
  }
}

TEST(Replan, ShadowsSaveTraffic) {
  RunSpec spec = replan_spec(4);
  spec.read.scope = ReadScope::routed;
  const StepRecord plain = testing::totals(testing::run_replanned(spec));
  spec.placement.shadow = ShadowRule::fastermoe;
  spec.placement.shadow_tflops = 1e-6;
  const StepRecord shadowed = testing::totals(testing::run_replanned(spec));
  EXPECT_EQ(plain.shadow_plans, 0);
  EXPECT_GT(shadowed.shadow_plans, 0);
  EXPECT_EQ(shadowed.shadow_weight_bytes % (3 * 2 * 2 * 64 * 64 * 4), 0) << "three other ranks, two matrices of 64 x 128 fp32";
  EXPECT_GT(shadowed.shadow_weight_bytes, 0);
  EXPECT_LT(shadowed.wire_kv, plain.wire_kv);
  EXPECT_LT(shadowed.query_ranks, plain.query_ranks);
  EXPECT_EQ(plain.stored_copies, shadowed.stored_copies);
}

TEST(Replan, NodesOfATokenFollowTheGroupsOfTheGate) {
  ModelShape model = testing::gqa_model();
  model.gate.n_experts = 16;
  model.gate.top_k = 4;
  model.gate.n_group = 4;
  model.gate.topk_group = 2;
  RunSpec spec = testing::small_spec(model);
  testing::use_expert_layout(spec, ShardMap::eplb);
  spec.cluster.ranks = 8;
  spec.cluster.network.ranks_per_node = 2;
  spec.placement.replicas = 24;
  spec.placement.load = LoadSource::window;
  spec.placement.replan_every_steps = 3;
  spec.routing.rule = route::Dsv3{};
  spec.routing.key = RoutingKey::same_layer;
  spec.read.scope = ReadScope::routed;
  const auto replay = [&] {
    testing::RandomTrace trace(spec.model, testing::default_requests(), 11);
    trace.add_logits();
    const auto transport = make_local_transport();
    const auto device = make_backend("count", 0);
    const RunOutcome out = testing::run_replay(spec, *transport, *device, trace);
    EXPECT_TRUE(out.violations.empty()) << out.violations.front();
    return testing::totals(out);
  };
  const StepRecord limited = replay();
  EXPECT_LE(limited.store_nodes, 2 * limited.distinct_insertions) << "two groups, each on one node";
  EXPECT_GT(limited.store_nodes, limited.distinct_insertions);
  EXPECT_LE(limited.query_nodes, 2 * limited.queries);
  EXPECT_GT(limited.query_ranks, limited.query_nodes);
  EXPECT_GT(limited.pages_moved, 0);
  spec.placement = {};
  testing::use_expert_layout(spec, ShardMap::hash);
  EXPECT_GT(replay().store_nodes, limited.store_nodes);
  spec.cluster.network.ranks_per_node = 1;
  const StepRecord alone = replay();
  EXPECT_EQ(alone.store_nodes, alone.store_ranks);
  EXPECT_EQ(alone.query_nodes, alone.query_ranks);
}

}  // namespace
}  // namespace moekv
