// Action demote: nothing is lost whatever the budget, and what moves is what a slow simulation of page accesses says.
#include <gtest/gtest.h>

#include <fmt/format.h>

#include "rules/evict/flexgen.hpp"
#include "support/replay_fixture.hpp"
#include "support/tier_simulation.hpp"

namespace moekv {
namespace {

using testing::run_replay;
using testing::totals;

RunSpec demote_spec(const EvictRule& rule, BudgetSpec budget, ModelShape model = testing::gqa_model()) {
  RunSpec spec = testing::small_spec(std::move(model));
  spec.eviction.action = EvictAction::demote;
  spec.eviction.rule = rule;
  spec.eviction.budget = budget;
  return spec;
}

void expect_moves(const RunOutcome& out) {
  const StepRecord sum = totals(out);
  EXPECT_GT(sum.demoted_pages, 20);
  EXPECT_GT(sum.recalled_pages, 20);
  EXPECT_EQ(sum.demotions, sum.evictions);
}

/// The same values to the last bit.
void expect_equal_probes(const RunOutcome& a, const RunOutcome& b) {
  ASSERT_EQ(a.probes.size(), b.probes.size());
  for (std::size_t i = 0; i < a.probes.size(); ++i) {
    ASSERT_EQ(a.probes[i].read_tokens, b.probes[i].read_tokens);
    ASSERT_EQ(a.probes[i].attn_out_err, b.probes[i].attn_out_err) << "request " << a.probes[i].request << " position " << a.probes[i].position;
    ASSERT_EQ(a.probes[i].max_abs_err, b.probes[i].max_abs_err);
  }
}

RunSpec without_eviction(RunSpec spec) {
  spec.eviction = {};
  return spec;
}

TEST(Tier, ATightBudgetIsDenseAttentionForEveryLayoutAndScope) {
  ModelShape mixed = testing::gqa_model(4);
  mixed.layers[0].moe = false;
  mixed.layers[1].attention = AttentionKind::window;
  mixed.layers[1].window_tokens = 10;
  mixed.n_kv_heads = 2;
  for (const ModelShape& shape : {testing::gqa_model(), mixed, testing::mla_model()}) {
    for (const Layout layout : {Layout::local, Layout::head, Layout::replicated, Layout::token, Layout::expert}) {
      for (const EvictScope scope : {EvictScope::request, EvictScope::shard}) {
        RunSpec spec = demote_spec(evict::Lru{}, {BudgetKind::pages, 2, 1, 1}, shape);
        spec.placement.layout = layout;
        spec.placement.map = layout == Layout::expert ? ShardMap::hash : layout == Layout::token ? ShardMap::block_cyclic : ShardMap::none;
        spec.eviction.scope = scope;
        spec.eviction.protect = {0, 0};
        SCOPED_TRACE(fmt::format("{} layout {} scope {}", shape.name, static_cast<int>(layout), static_cast<int>(scope)));
        const RunOutcome out = run_replay(spec, testing::requests_of({{33, 9}, {0, 20}, {1, 1}}));
        testing::expect_dense(out, 1e-5);
        expect_moves(out);
        EXPECT_GT(totals(out).overcommit, 0) << "a query of all pages needs more than two at once";
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Tier, EveryRuleOfPagesAndEveryTriggerLosesNothing) {
  const std::vector<EvictRule> rules = {evict::Random{}, evict::Fifo{},     evict::Streaming{}, evict::Mru{},    evict::Clock{}, evict::Sieve{}, evict::Slru{},
                                        evict::TwoQueue{}, evict::S3Fifo{}, evict::Arc{},       evict::H2oSum{}, evict::Lfu{},   evict::Knorm{}};
  for (const EvictRule& rule : rules) {
    for (const Trigger trigger : {Trigger::on_full, Trigger::watermark, Trigger::every}) {
      RunSpec spec = demote_spec(rule, {BudgetKind::fraction, 0, 1, 3});
      testing::use_expert_layout(spec);
      spec.placement.dedup = Dedup::rank;
      spec.page.key = PageKey::shard;
      spec.eviction.trigger = trigger;
      spec.eviction.every_steps = 3;
      spec.prefill.evict = trigger == Trigger::every ? PrefillEvict::chunk : PrefillEvict::end;
      SCOPED_TRACE(fmt::format("rule {} trigger {}", std::visit([](const auto& r) { return r.name; }, rule), static_cast<int>(trigger)));
      const RunOutcome out = run_replay(spec, testing::requests_of({{33, 9}, {0, 20}, {1, 1}}));
      testing::expect_dense(out, 1e-5);
      expect_moves(out);
    }
  }
}

TEST(Tier, SealedPagesComeBackAsTheyWereStored) {
  struct Case {
    Codec codec;
    std::uint32_t raw_window;
    ReadScope scope;
  };
  const std::vector<Case> cases = {{codec::Int8Token{}, 0, ReadScope::routed},
                                   {codec::Int8Token{}, 11, ReadScope::all},
                                   {codec::Kivi4{}, 0, ReadScope::all},
                                   {codec::Kivi4{}, 11, ReadScope::routed},
                                   {codec::LowrankPca{4}, 0, ReadScope::routed}};  // a table for each sequence
  for (const Case& c : cases) {
    RunSpec spec = demote_spec(evict::Lru{}, {BudgetKind::tokens, 24, 1, 1}, testing::gqa_model(2));
    spec.page.slots = 32;
    testing::use_expert_layout(spec);
    spec.page.key = PageKey::shard;
    spec.read.scope = c.scope;
    spec.eviction.protect = {0, 0};
    spec.compression.k = spec.compression.v = c.codec;
    spec.compression.raw_window_tokens = c.raw_window;
    spec.prefill.evict = PrefillEvict::chunk;
    SCOPED_TRACE(fmt::format("{} window {}", std::visit([](const auto& codec) { return codec.name; }, c.codec), c.raw_window));
    const auto requests = testing::requests_of({{44, 50}, {70, 9}});
    const RunOutcome out = run_replay(spec, requests);
    expect_equal_probes(out, run_replay(without_eviction(spec), requests));
    expect_moves(out);
    const std::int64_t raw_block = 32LL * 4 * (16 + 16) * 4;
    EXPECT_LT(totals(out).recalled_bytes, totals(out).recalled_pages * raw_block) << "sealed blocks are smaller";
    EXPECT_TRUE(out.violations.empty()) << out.violations.front();
  }
}

TEST(Tier, RoutedReadsOfCopiesAreThoseWithoutEviction) {
  for (const CopyRule copies : {CopyRule::surviving, CopyRule::hash, CopyRule::paper}) {
    RunSpec spec = demote_spec(evict::Arc{}, {BudgetKind::pages, 6, 1, 1});
    testing::use_expert_layout(spec, ShardMap::hash);
    spec.read = {ReadScope::routed, select::All{}, copies};
    const RunOutcome out = run_replay(spec), full = run_replay(without_eviction(spec));
    expect_equal_probes(out, full);
    expect_moves(out);
    EXPECT_EQ(totals(out).entries_wanted, totals(full).entries_wanted);
    EXPECT_EQ(totals(out).n_req, totals(full).n_req) << "look-ups are those of the full history";
    EXPECT_EQ(totals(out).masked_copies, 0);
    EXPECT_EQ(totals(out).wire_notices, 0) << "no copy goes";
  }
}

TEST(Tier, BytesAreThoseOfTheBlocksAndTheCountBackendAgrees) {
  RunSpec spec = demote_spec(evict::Lru{}, {BudgetKind::pages, 3, 1, 1});
  testing::use_expert_layout(spec);
  spec.read.scope = ReadScope::routed;
  spec.probe.samples = 0;
  const RunOutcome host = run_replay(spec), count = run_replay(spec, testing::default_requests(), "count");
  const StepRecord sum = totals(host);
  const std::int64_t block = 8LL * 4 * (16 + 16) * 4;  // slots x heads x (k + v) x fp32
  EXPECT_EQ(sum.demoted_bytes, sum.demoted_pages * block);
  EXPECT_EQ(sum.recalled_bytes, sum.recalled_pages * block);
  EXPECT_GT(sum.recalled_pages, 0);
  EXPECT_GT(sum.t_demote, 0);
  EXPECT_GT(sum.t_recall, 0);
  EXPECT_GT(sum.premature_evictions, 0);
  EXPECT_LT(sum.premature_evictions, sum.recalled_pages);
  EXPECT_EQ(to_hex(host.digest), to_hex(count.digest));
  const StepRecord counted = totals(count);
  for_each_field(StepRecord::metrics, [&](const auto& m) {
    const bool decided = m.claim == ClaimClass::counted && m.name != "metadata_bytes";
    EXPECT_TRUE(!decided || sum.*m.member == counted.*m.member) << m.name;
  });
}

TEST(Tier, HitsAndMovesAreThoseOfASlowSimulation) {
  for (const bool lru : {true, false}) {
    for (const EvictScope scope : {EvictScope::request, EvictScope::shard}) {
      for (const std::uint64_t budget : {1U, 3U, 9U}) {
        RunSpec spec = demote_spec(lru ? EvictRule(evict::Lru{}) : EvictRule(evict::Fifo{}), {BudgetKind::pages, budget, 1, 1}, testing::gqa_model(2));
        testing::use_expert_layout(spec);
        spec.cluster.ranks = 2;
        spec.model.gate.top_k = 2;
        spec.model.gate.n_experts = 7;
        spec.routing.key = RoutingKey::same_layer;
        spec.read = {ReadScope::routed, select::All{}, CopyRule::paper};
        spec.eviction.scope = scope;
        spec.eviction.protect = {0, 0};
        spec.probe.samples = 0;
        spec.metrics.window_steps = 1U << 20;
        SCOPED_TRACE(fmt::format("{} scope {} budget {}", lru ? "lru" : "fifo", static_cast<int>(scope), budget));
        testing::RandomTrace trace(spec.model, testing::requests_of({{30, 40}, {0, 60}, {9, 70}, {50, 1}, {1, 30}}), 5);
        const Geometry geometry(spec, trace.info(), spec.cluster.ranks);
        testing::TierSimulation simulation(geometry, trace, lru);
        const auto compare = [&](const StepBatch& batch, ShardedCache& cache, StepDriver&) {
          simulation.step(batch);
          const StepRecord& count = cache.counters().step;
          ASSERT_EQ(count.n_req, simulation.lookups) << "step " << batch.step;
          ASSERT_EQ(count.n_hit, simulation.hits) << "step " << batch.step;
          ASSERT_EQ(count.recalled_pages, simulation.recalled) << "step " << batch.step;
          ASSERT_EQ(count.demoted_pages, simulation.demoted) << "step " << batch.step;
        };
        const auto transport = make_local_transport();
        const auto backend = make_backend("count", 0);
        const RunOutcome out = run_replay(spec, *transport, *backend, trace, compare);
        EXPECT_TRUE(out.violations.empty()) << out.violations.front();
        EXPECT_GT(simulation.recalled, 100);
        EXPECT_GT(simulation.hits, 100);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Tier, FlexgenDividesWholeSequences) {
  constexpr std::uint64_t n_heads = 32, batch = 4;  // X1: 30, 50 and 20 percent of 128 slices
  const std::uint64_t first = evict::planned(batch, 30) * n_heads, both = evict::planned(batch, 80) * n_heads;
  EXPECT_EQ(first, 32U);
  EXPECT_EQ(both - first, 64U);
  EXPECT_EQ(batch * n_heads - both, 32U);
}

TEST(Tier, FlexgenKeepsItsShareAndLosesNothing) {
  for (const evict::PlanAxis axis : {evict::PlanAxis::sequence, evict::PlanAxis::token_prefix, evict::PlanAxis::token_suffix, evict::PlanAxis::page_hash}) {
    RunSpec spec = demote_spec(evict::FlexgenStatic{40, axis}, {});
    spec.eviction.protect = {0, 0};
    SCOPED_TRACE(fmt::format("axis {}", static_cast<int>(axis)));
    std::int64_t resident = 0, away = 0;
    const auto look = [&](const StepBatch& batch, ShardedCache& cache, StepDriver&) {
      cache.execute_due();
      for (const Shard& shard : cache.shards()) {
        for (const Page& page : shard.pages()) {
          if (page.group == no_index) continue;
          (page.away ? away : resident) += page.live;
          const RequestTable::Row& row = cache.requests()[shard.groups()[page.group].request];
          const bool settled = page.used == 8 && page.max_position < row.step_begin && row.length >= row.prompt_tokens;
          if (!settled || axis == evict::PlanAxis::page_hash) continue;
          const std::uint32_t share = row.total_tokens * 40 / 100, request = shard.groups()[page.group].request.value % 5;
          const bool planned = axis == evict::PlanAxis::token_prefix   ? page.min_position < share
                               : axis == evict::PlanAxis::token_suffix ? page.min_position >= row.total_tokens - share
                                                                       : request == 2 || request == 4;  // floor(.4 n) grows at n = 3 and 5
          ASSERT_EQ(page.away, !planned) << "step " << batch.step << " position " << page.min_position;
        }
      }
    };
    testing::RandomTrace trace(spec.model, testing::default_requests(), 11);
    const auto transport = make_local_transport();
    const auto backend = make_backend("host", 0);
    const RunOutcome out = run_replay(spec, *transport, *backend, trace, look);
    testing::expect_dense(out, 1e-5);
    expect_moves(out);
    EXPECT_GT(resident, 0);
    EXPECT_GT(away, 0);
    EXPECT_EQ(totals(out).overcommit, 0);
  }
}

}  // namespace
}  // namespace moekv
