// Without payload a query counts what it reads chain by chain; with payload it looks at every page. Both count the same.
#include <gtest/gtest.h>

#include "support/replan_fixture.hpp"
#include "support/same_rows.hpp"

namespace moekv {
namespace {

using testing::requests_of;

/// Long enough for chains of several pages of 80 slots.
const std::vector<RequestInfo>& long_requests() {
  static const std::vector<RequestInfo> requests = requests_of({{150, 90}, {0, 130}, {200, 1}, {33, 120}});
  return requests;
}

RunSpec reading_spec(std::uint32_t slots) {
  ModelShape model = testing::gqa_model(2);
  model.gate.n_experts = 5;
  RunSpec spec = testing::small_spec(std::move(model));
  testing::use_expert_layout(spec);
  spec.cluster.ranks = 2;  // chains share groups
  spec.page.slots = slots;
  spec.read.scope = ReadScope::routed;
  spec.probe.samples = 0;
  spec.eviction.rule = evict::Lru{};
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  return spec;
}

StepRecord expect_same_counts(const RunSpec& spec) {
  const RunOutcome pages = testing::run_replay(spec, long_requests(), "host"), chains = testing::run_replay(spec, long_requests(), "count");
  testing::expect_same(pages, chains, "metadata_bytes");
  return testing::totals(chains);
}

class ChainReads : public ::testing::TestWithParam<std::uint32_t> {};  // slots of a page

TEST_P(ChainReads, AreThoseOfTheirPages) {
  for (const EvictRule& rule : {EvictRule(evict::Lru{}), EvictRule(evict::Random{})}) {
    for (const EvictUnit unit : {EvictUnit::page, EvictUnit::token}) {
      if (unit == EvictUnit::token && std::holds_alternative<evict::Lru>(rule)) continue;
      RunSpec spec = reading_spec(GetParam());
      spec.eviction.rule = rule;
      spec.eviction.unit = unit;
      const StepRecord sum = expect_same_counts(spec);
      EXPECT_GT(sum.evictions, 0);
      EXPECT_GT(sum.wire_notices, 0);
      EXPECT_LT(sum.entries_wanted, sum.entries_scanned) << "some entries are blocked";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Slots, ChainReads, ::testing::Values(8, 16, 32, 48, 64, 80));

TEST(ChainReads, OfEveryMapScopeAndLayout) {
  for (const ShardMap map : {ShardMap::expert_affine, ShardMap::pikv_xor, ShardMap::hash}) {
    for (const ReadScope scope : {ReadScope::routed, ReadScope::all}) {
      for (const CopyRule copies : {CopyRule::surviving, CopyRule::hash, CopyRule::paper}) {
        RunSpec spec = reading_spec(8);
        testing::use_expert_layout(spec, map);
        spec.placement.fold = true;
        spec.read.scope = scope;
        spec.read.copies = copies;
        (void)expect_same_counts(spec);
      }
    }
  }
  for (const Layout layout : {Layout::local, Layout::token, Layout::head, Layout::replicated}) {
    RunSpec spec = reading_spec(8);
    spec.placement.layout = layout;
    spec.placement.map = layout == Layout::token ? ShardMap::block_cyclic : ShardMap::none;
    spec.read.scope = ReadScope::all;
    (void)expect_same_counts(spec);
  }
}

TEST(ChainReads, OfAWindowAndOfAStepThatEvictsBeforeItAttends) {
  RunSpec spec = reading_spec(8);
  spec.model.layers[1].attention = AttentionKind::window;
  spec.model.layers[1].window_tokens = 40;
  (void)expect_same_counts(spec);
  spec = reading_spec(8);
  spec.step_order = StepOrder::pikv;
  spec.prefill.evict = PrefillEvict::chunk;
  EXPECT_GT(expect_same_counts(spec).evictions, 0);
}

TEST(ChainReads, OfChainsThatMoveAndJoin) {
  for (const ReadScope scope : {ReadScope::routed, ReadScope::all}) {
    RunSpec spec = testing::replan_spec(3);
    spec.read.scope = scope;
    spec.probe.samples = 0;
    spec.eviction.rule = evict::Lru{};
    spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
    const RunOutcome pages = testing::run_replanned(spec), chains = testing::run_replanned(spec, {}, "count");
    testing::expect_same(pages, chains, "metadata_bytes");
    EXPECT_GT(testing::totals(chains).pages_moved, 0);
    EXPECT_GT(testing::totals(chains).evictions, 0);
  }
}

}  // namespace
}  // namespace moekv
