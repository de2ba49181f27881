// What a query reads, against a brute-force walk over every live slot of every shard, with evictions and tokens under several experts.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "engine/exact.hpp"
#include "support/array_trace.hpp"
#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

/// Positions of (request, layer, head group) with a live copy whose experts meet `wanted` (empty = any).
std::set<std::uint32_t> live_positions(const ShardedCache& cache, RequestId request, std::uint32_t layer, std::uint32_t head_group,
                                       const std::set<std::uint16_t>& wanted) {
  std::set<std::uint32_t> found;
  for (const Shard& shard : cache.shards()) {
    for (std::uint32_t p = 0; p < shard.pages().size(); ++p) {
      const Page& page = shard.pages()[p];
      if (page.group == no_index) continue;
      const Group& group = shard.groups()[page.group];
      if (group.request != request || group.layer != layer || group.head_group != head_group) continue;
      for (std::uint32_t slot = 0; slot < page.used; ++slot) {
        if (!shard.live(p, slot)) continue;
        const std::size_t i = shard.at(p, slot);
        bool meets = wanted.empty();
        for (std::size_t j = 0; !wanted.empty() && j < shard.experts(i).size(); ++j) {
          meets = meets || (shard.copy_of(i)[j] == shard.copy(i) && wanted.contains(shard.experts(i)[j]));
        }
        if (meets) found.insert(shard.position(i));
      }
    }
  }
  return found;
}

class ReadSet : public ::testing::TestWithParam<std::tuple<ReadScope, Dedup, ShardMap, std::uint32_t, std::uint32_t>> {};

TEST_P(ReadSet, SurvivingReadsEveryTokenWithALiveCopy) {
  const ReadScope scope = std::get<0>(GetParam());
  const Dedup dedup = std::get<1>(GetParam());
  const ShardMap map = std::get<2>(GetParam());
  const std::uint32_t replan = std::get<3>(GetParam());
  const std::uint32_t n_head_groups = std::get<4>(GetParam());  // each evicts on its own
  RunSpec spec = testing::small_spec(testing::gqa_model(2));
  testing::use_expert_layout(spec, map);
  spec.page.head_groups = n_head_groups;
  spec.placement.dedup = dedup;
  spec.placement.fold = true;
  spec.placement.replicas = 20;
  spec.placement.replan_every_steps = replan;
  spec.routing.key = RoutingKey::same_layer;
  spec.read.scope = scope;
  if (n_head_groups == 1) {
    spec.eviction.rule = evict::Random{};
  } else {
    spec.eviction.rule = evict::Knorm{};  // keys differ by head
  }
  spec.eviction.unit = EvictUnit::token;
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 3};
  spec.eviction.protect = {1, 2};
  spec.prefill.queries = PrefillQueries::none;
  testing::RandomTrace trace(spec.model, testing::requests_of({{40, 30}, {9, 40}}), 5);
  testing::RandomQkv qkv(spec.model, 7);
  std::size_t seen = 0, queries = 0, lost_tokens = 0;
  const auto check = [&](const StepBatch& batch, ShardedCache& cache, StepDriver& driver) {
    for (; seen < driver.probe().rows().size(); ++seen) {
      const ProbeRecord& row = driver.probe().rows()[seen];
      const auto item = std::find_if(batch.items.begin(), batch.items.end(), [&](const BatchItem& i) { return i.request.value == row.request; });
      if (item->finishes()) continue;  // its pages are gone already
      const RequestId request(static_cast<std::uint32_t>(row.request));
      const auto position = static_cast<std::uint32_t>(row.position);
      std::set<std::uint16_t> wanted;
      RoutingRows rows;
      trace.read(request, position, position + 1, static_cast<std::uint32_t>(row.layer), static_cast<std::uint32_t>(row.layer) + 1, WantLogits::no,
                 rows);
      if (scope == ReadScope::routed) wanted.insert(rows.ids.begin(), rows.ids.end());
      std::vector<std::set<std::uint32_t>> of_group;
      std::set<std::uint32_t> expected;  // of any head group
      for (std::uint32_t hg = 0; hg < n_head_groups; ++hg) {
        of_group.push_back(live_positions(cache, request, static_cast<std::uint32_t>(row.layer), hg, wanted));
        expected.insert(of_group[hg].begin(), of_group[hg].end());
      }
      ASSERT_EQ(row.read_tokens, static_cast<std::int64_t>(expected.size())) << "request " << row.request << " position " << row.position;
      // The mass of the set that was read pins down which tokens it holds.
      std::vector<float> q(spec.model.n_heads * spec.model.d_k);
      qkv.queries(LayerId(static_cast<std::uint16_t>(row.layer)), request, position, position + 1, {}, q.data());
      const LayerShape& layer = spec.model.layers[static_cast<std::size_t>(row.layer)];
      const ExactQuery query{LayerId(static_cast<std::uint16_t>(row.layer)), layer, request, position, q.data(), nullptr, 0.25, nullptr, 0};
      const ExactResult exact = exact_attention(qkv, spec.model, query);
      double mass = 0;
      for (std::uint32_t h = 0; h < spec.model.n_heads; ++h) {
        for (const std::uint32_t p : of_group[h * n_head_groups / spec.model.n_heads])
          mass += exact.weights[h * (position + std::size_t{1}) + p] / spec.model.n_heads;
      }
      ASSERT_NEAR(row.attn_mass_kept, mass, 1e-9);
      queries += 1;
      lost_tokens += position + 1 - expected.size();
    }
  };
  const auto transport = make_local_transport();
  const auto backend = make_host_backend(0);
  const RunOutcome out = testing::run_replay(spec, *transport, *backend, trace, check);
  EXPECT_GT(queries, 60U);
  EXPECT_GT(lost_tokens, 0U) << "evictions must have removed all copies of some token";
  EXPECT_GT(testing::totals(out).wire_notices, 0);
  EXPECT_EQ(testing::totals(out).pages_moved > 0, replan > 0);
  EXPECT_TRUE(out.violations.empty()) << out.violations.front();
}

INSTANTIATE_TEST_SUITE_P(Copies, ReadSet,
                         ::testing::Combine(::testing::Values(ReadScope::all, ReadScope::routed),
                                            ::testing::Values(Dedup::none, Dedup::shard, Dedup::rank),
                                            ::testing::Values(ShardMap::expert_affine, ShardMap::pikv_xor, ShardMap::eplb), ::testing::Values(0U),
                                            ::testing::Values(1U, 4U)));
INSTANTIATE_TEST_SUITE_P(MovedCopies, ReadSet,
                         ::testing::Combine(::testing::Values(ReadScope::all, ReadScope::routed), ::testing::Values(Dedup::none),
                                            ::testing::Values(ShardMap::eplb), ::testing::Values(1U, 4U), ::testing::Values(1U, 2U)));

TEST(ReadSet, HashRuleCountsWhatItCannotRead) {
  RunSpec spec = testing::small_spec(testing::gqa_model(2));
  testing::use_expert_layout(spec);
  spec.read.copies = CopyRule::hash;
  spec.eviction.rule = evict::Random{};
  spec.eviction.unit = EvictUnit::token;
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  spec.eviction.protect = {1, 2};
  const RunOutcome hashed = testing::run_replay(spec);
  spec.read.copies = CopyRule::surviving;
  const RunOutcome surviving = testing::run_replay(spec);
  const StepRecord a = testing::totals(hashed), b = testing::totals(surviving);
  EXPECT_EQ(a.evictions, b.evictions);
  EXPECT_GT(a.masked_copies, 0);
  EXPECT_EQ(b.masked_copies, 0);
  EXPECT_EQ(a.entries_wanted + a.masked_copies, b.entries_wanted) << "each unread survivor is a token that `surviving` reads";
}

/// One request whose four tokens all choose expert 0 of two, two shards: reads and stores that change shard, by hand.
TEST(ReadSet, SwitchesOfShard) {
  ModelShape model = testing::gqa_model(1);
  model.gate.n_experts = 2;
  model.gate.top_k = 1;
  const auto run = [&](ShardMap map) {
    RunSpec spec = testing::small_spec(model);
    testing::use_expert_layout(spec, map);
    spec.cluster.ranks = 2;
    spec.placement.n_tok = spec.placement.n_exp = 2;
    spec.routing.key = RoutingKey::same_layer;
    spec.read.scope = ReadScope::routed;
    spec.probe.samples = 0;
    test::ArrayTrace trace(2, 1, 1, {4}, {0, 0, 0, 0});
    const auto transport = make_local_transport();
    const auto backend = make_backend("count", 0);
    return testing::totals(testing::run_replay(spec, *transport, *backend, trace));
  };
  const StepRecord scattered = run(ShardMap::pikv_xor);  // stored on 0 1 0 1; read on 0 | 0 1 | 0 1 | 0 1
  EXPECT_EQ(scattered.cross_shard_stores, 3);
  EXPECT_EQ(scattered.expert_reads, 4);
  EXPECT_EQ(scattered.shard_reads, 7);
  EXPECT_EQ(scattered.cross_shard_switches, 5);
  const StepRecord together = run(ShardMap::expert_affine);
  EXPECT_EQ(together.shard_reads, 4);
  EXPECT_EQ(together.cross_shard_switches + together.cross_shard_stores, 0);
}

}  // namespace
}  // namespace moekv
