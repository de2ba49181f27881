// The prediction of `moekv plan` against real runs of the engine (count backend) with uniform routing, and its page sums against brute force.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "core/error.hpp"
#include "engine/expected_pages.hpp"
#include "engine/plan_cost.hpp"
#include "engine/plan_memory.hpp"
#include "engine/plan_shares.hpp"
#include "support/parts_codecs.hpp"
#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

using testing::gqa_model;
using testing::mla_model;
using testing::RandomTrace;
using testing::requests_of;
using testing::run_replay;
using testing::small_spec;
using testing::totals;
using testing::use_expert_layout;

const std::vector<RequestInfo>& some_requests() {
  static const std::vector<RequestInfo> requests = requests_of({{140, 40}, {0, 125}, {257, 1}, {113, 60}, {1, 1}, {70, 90}});
  return requests;
}

RunSpec spec_of(const ModelShape& model = gqa_model()) {
  RunSpec spec = small_spec(model);
  spec.metrics.window_steps = 1U << 20;  // one window: kv_peak_bytes is then the sum over ranks of their largest page bytes
  spec.probe.samples = 0;
  return spec;
}

struct Both {
  PlanCost plan;
  StepRecord run;
};
Both plan_and_run(const RunSpec& spec) {
  const RandomTrace trace(spec.model, some_requests(), 11);
  Both both{predict_cost(spec, trace, spec.cluster.ranks), totals(run_replay(spec, some_requests(), "count"))};
  EXPECT_EQ(static_cast<std::int64_t>(both.plan.tokens), both.run.tokens);
  return both;
}

void expect_near(const Both& both, double tolerance) {
  const auto near = [&](double planned, std::int64_t real, const char* what) {
    EXPECT_NEAR(planned, static_cast<double>(real), tolerance * static_cast<double>(real) + 1e-6) << what;
  };
  near(both.plan.page_bytes(), both.run.kv_peak_bytes, "page bytes");
  near(both.plan.total.kv, both.run.wire_kv, "kv");
  near(both.plan.total.q, both.run.wire_q, "q");
  near(both.plan.total.partial, both.run.wire_partial, "partials");
  near(both.plan.total.headers, both.run.wire_headers, "headers");
  near(both.plan.total.logical, both.run.bytes_logical, "logical");
}

RunSpec with_layout(Layout layout, ShardMap map, const ModelShape& model = gqa_model()) {
  RunSpec spec = spec_of(model);
  spec.placement.layout = layout;
  spec.placement.map = map;
  return spec;
}

TEST(Plan, EqualsTheRunWherePlacementIsCertain) {
  for (const std::uint32_t ranks : {1U, 3U, 4U, 6U}) {
    for (const ModelShape& model : {gqa_model(), mla_model()}) {
      for (const auto& [layout, map] : {std::pair{Layout::local, ShardMap::none},
                                        {Layout::replicated, ShardMap::none},
                                        {Layout::head, ShardMap::none},
                                        {Layout::token, ShardMap::block_cyclic},
                                        {Layout::token, ShardMap::hash}}) {
        RunSpec spec = with_layout(layout, map, model);
        spec.cluster.ranks = ranks;
        spec.cluster.shards_per_rank = 2;
        SCOPED_TRACE(static_cast<int>(layout) * 1000 + static_cast<int>(map) * 100 + static_cast<int>(ranks));
        expect_near(plan_and_run(spec), 0.0);
      }
    }
  }
}

TEST(Plan, EqualsTheRunWithHeadGroupsAndWindows) {
  RunSpec spec = with_layout(Layout::token, ShardMap::block_cyclic);
  spec.page.head_groups = 2;
  spec.model.layers[1] = {AttentionKind::window, 20, false, true};
  expect_near(plan_and_run(spec), 0.0);
}

TEST(Plan, EqualsTheRunWithCompressedPages) {
  RunSpec spec = with_layout(Layout::local, ShardMap::none);
  spec.payload.element = ElementFormat::bf16;
  spec.compression.k = codec::Int8Token{};
  spec.compression.v = codec::Int4Token{};
  spec.page.slots = 32;
  const Both both = plan_and_run(spec);
  // The run peaks between admit and seal: up to one page a request and layer is still raw then.
  EXPECT_NEAR(both.plan.page_bytes() / static_cast<double>(both.run.kv_peak_bytes), 1.0, 0.25);
  EXPECT_NEAR(both.plan.total.logical, static_cast<double>(both.run.bytes_logical), 0.5);
}

/// A request that decodes 100 tokens ends as it peaks: with three sealed pages and a raw one a layer.
TEST(Plan, EqualsTheRunInPagesOfEveryCodec) {
  std::vector<Codec> codecs = []<class... C>(std::variant<C...>*) { return std::vector<Codec>{C{}...}; }(static_cast<Codec*>(nullptr));
  for (const auto& [name, parts] : testing::combinations()) codecs.emplace_back(parts);
  const std::vector<RequestInfo> requests = requests_of({{0, 100}});
  for (const Codec& codec : codecs) {
    RunSpec spec = with_layout(Layout::local, ShardMap::none);
    spec.cluster.ranks = 1;
    spec.page.slots = 32;
    spec.compression.k = spec.compression.v = codec;
    spec.compression.sink_tokens = 0;
    const RandomTrace trace(spec.model, requests, 11);
    const Geometry geometry(spec, trace.info(), 1);
    if (classes_of(codec) > 1 || geometry.sealed_format(1, 0).k.fit == TableFit::loaded) continue;
    const std::int64_t peak = totals(run_replay(spec, requests, "count")).kv_peak_bytes;
    EXPECT_EQ(predict_cost(spec, trace, 1).page_bytes(), static_cast<double>(peak)) << class_name(codec, 0);
    if (!geometry.compressed()) continue;
    const std::uint32_t n_kv_heads = spec.model.n_kv_heads;
    const std::uint64_t layer = 3 * geometry.sealed_format(n_kv_heads, 0).block_bytes() + geometry.raw_format(n_kv_heads).block_bytes();
    EXPECT_EQ(static_cast<std::uint64_t>(peak), spec.model.n_layers() * layer) << class_name(codec, 0);
  }
}

TEST(Plan, IsTheExpectationUnderUniformRouting) {
  for (const ShardMap map : {ShardMap::expert_affine, ShardMap::hash, ShardMap::pikv_xor}) {
    for (const Dedup dedup : {Dedup::none, Dedup::shard, Dedup::rank}) {
      for (const ReadScope scope : {ReadScope::all, ReadScope::routed}) {
        RunSpec spec = spec_of();
        use_expert_layout(spec, map);
        spec.placement.dedup = dedup;
        spec.read.scope = scope;
        SCOPED_TRACE(static_cast<int>(map) * 100 + static_cast<int>(dedup) * 10 + static_cast<int>(scope));
        expect_near(plan_and_run(spec), map == ShardMap::pikv_xor ? 0.1 : 0.05);
      }
    }
  }
}

TEST(Plan, MetadataHasTheRightSize) {
  for (const Layout layout : {Layout::local, Layout::expert}) {
    RunSpec spec = spec_of();
    if (layout == Layout::expert) use_expert_layout(spec);
    const Both both = plan_and_run(spec);
    double planned = 0;
    for (const double bytes : both.plan.rank_metadata_bytes) planned += bytes;
    const double ratio = static_cast<double>(both.run.metadata_bytes) / planned;
    EXPECT_GT(ratio, 0.9);  // the run's vectors have grown to up to twice what they hold
    EXPECT_LT(ratio, 2.6);
  }
}

TEST(Plan, BoundsARunWithEviction) {
  for (const EvictUnit unit : {EvictUnit::page, EvictUnit::token}) {
    RunSpec spec = with_layout(Layout::local, ShardMap::none);
    spec.eviction.rule = evict::Fifo{};
    spec.eviction.unit = unit;
    spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
    const Both both = plan_and_run(spec);
    EXPECT_TRUE(both.plan.evicts && both.plan.upper_bound);
    EXPECT_GE(both.plan.page_bytes() * 1.05, static_cast<double>(both.run.kv_peak_bytes));
    EXPECT_LT(both.plan.page_bytes(), 1.35 * static_cast<double>(both.run.kv_peak_bytes));
  }
}

TEST(Plan, RefusesWhatCanNeverFit) {
  RunSpec spec = with_layout(Layout::local, ShardMap::none);
  const RandomTrace trace(spec.model, some_requests(), 11);
  spec.memory.shard_bytes = 1000;
  EXPECT_THROW((void)predict_cost(spec, trace, 4), PointFailure);
  spec.eviction.scope = EvictScope::shard;
  spec.eviction.rule = evict::Fifo{};
  spec.eviction.budget = {BudgetKind::bytes, 2000};
  EXPECT_THROW((void)predict_cost(spec, trace, 4), PointFailure);
  spec.eviction.budget.amount = 900;
  EXPECT_NO_THROW((void)predict_cost(spec, trace, 4));
}

TEST(Plan, ShowsThePapersFormula) {
  const RunSpec spec = with_layout(Layout::local, ShardMap::none);
  const PlanCost cost = predict_cost(spec, RandomTrace(spec.model, some_requests(), 11), 4);
  const double k = spec.model.gate.top_k, ranks = 4;
  EXPECT_NEAR(cost.paper.shard_capacity, std::sqrt(cost.paper.tokens / (k * ranks)), 1e-9);
  EXPECT_NEAR(cost.paper.bytes, 2 * cost.paper.row_bytes * std::sqrt(k * cost.paper.tokens / ranks), 1e-3);  // M* = (4 d / rho) sqrt(K L / G)
  EXPECT_NEAR(cost.paper.row_bytes, 3.0 * 4 * 2 * 16 * 4, 1e-9);                                             // layers, heads, K and V, channels, fp32
}

/// The rule's name is no part of what a prediction is known by; of two rules that differ in what a prediction reads each gets its own.
TEST(Plan, RulesOfWhichTheSameIsReadShareAPrediction) {
  const auto rules = []<class... R>(std::variant<R...>*) { return std::vector<EvictRule>{R{}...}; }(static_cast<EvictRule*>(nullptr));
  for (const BudgetKind kind : {BudgetKind::tokens, BudgetKind::bytes}) {
    KnownCosts known;
    std::set<const PlanCost*> different;
    for (const EvictRule& rule : rules) {
      RunSpec spec = spec_of();
      use_expert_layout(spec);
      spec.eviction.rule = rule;
      spec.eviction.budget = {kind, kind == BudgetKind::bytes ? 40000U : 48U, 1, 1};
      const std::string name = std::visit([](const auto& r) { return std::string(r.name); }, rule);
      spec.resolved_yaml = "eviction:\n  policy: " + name + "\n";
      const RandomTrace trace(spec.model, some_requests(), 5);
      const PlanCost own = predict_cost(spec, trace, 4);
      const PlanCost& shared = known(spec, trace, 4);
      EXPECT_EQ(shared.model_ns, own.model_ns) << name;
      EXPECT_EQ(shared.rank_page_bytes, own.rank_page_bytes) << name;
      EXPECT_EQ(shared.rank_metadata_bytes, own.rank_metadata_bytes) << name;
      EXPECT_EQ(shared.rank_buffer_bytes, own.rank_buffer_bytes) << name;
      EXPECT_EQ(shared.total.logical, own.total.logical) << name;
      EXPECT_EQ(shared.notes, own.notes) << name;
      different.insert(&shared);
    }
    EXPECT_GT(different.size(), 3U);
    EXPECT_LT(different.size(), rules.size() / 2);
  }
}

TEST(Plan, AddsWhatMemoryMissedItBy) {
  PlanCost cost;
  cost.rank_page_bytes = {600, 900};
  cost.paper.bytes = 1500;
  std::vector<Summary> summary(1);
  summary[0].name = "rank_peak_bytes_max";
  summary[0].value = 1000;
  add_predictions(cost, RunSpec{}, summary);
  std::map<std::string, double> by_name;
  for (const Summary& s : summary) by_name[s.name] = s.value;
  EXPECT_EQ(summary[0].model, 900);
  EXPECT_EQ(by_name.at("mem_pred_bytes"), 900);
  EXPECT_DOUBLE_EQ(by_name.at("mem_residual"), 0.1);
  EXPECT_EQ(by_name.at("mem_pred_paper_bytes"), 1500);
  EXPECT_DOUBLE_EQ(by_name.at("mem_residual_paper"), -0.5);
}

/// A request that holds no more than before is not counted again: its pages are those of a request that came at once.
TEST(PlanMemory, PagesOfARequestDoNotDependOnTheStepsThatBroughtIt) {
  for (const Layout layout : {Layout::expert, Layout::local, Layout::head, Layout::replicated}) {
    for (const auto& [rule, kind] : {std::pair<EvictRule, BudgetKind>{evict::Lru{}, BudgetKind::tokens}, {evict::Full{}, BudgetKind::unlimited}}) {
      RunSpec spec = spec_of();
      spec.placement.layout = layout;
      if (layout == Layout::expert) use_expert_layout(spec);
      spec.eviction.rule = rule;
      spec.eviction.budget = {kind, 48, 1, 1};
      const RandomTrace trace(spec.model, some_requests(), 5);
      const Geometry geometry(spec, trace.info(), spec.cluster.ranks);
      PlanMemory grown(geometry);
      for (std::uint32_t end = 1; end <= 200; ++end) {
        const BatchItem item{RequestId(1), Rank(1), end - 1, end, end - 1, end - 1, 20, 200};
        PlanMemory at_once(geometry);
        grown.extend(item);
        at_once.extend(item);
        for (std::uint32_t g = 0; g < spec.cluster.ranks; ++g) {
          ASSERT_NEAR(grown.rank_bytes()[g], at_once.rank_bytes()[g], 1e-6) << "rank " << g << " at " << end;
          ASSERT_NEAR(grown.rank_metadata_bytes(g), at_once.rank_metadata_bytes(g), 1e-6) << "rank " << g << " at " << end;
        }
        ASSERT_NEAR(grown.local_bytes()[1], at_once.local_bytes()[1], 1e-6) << end;
        ASSERT_EQ(grown.tokens(), end);
      }
    }
  }
}

TEST(ExpectedPages, MatchTheBinomialSum) {
  for (const auto& [n, p, slots] :
       {std::tuple{100U, 0.05, 16U}, {1000U, 0.25, 16U}, {7U, 0.5, 8U}, {4000U, 0.2, 64U}, {5000U, 0.95, 16U}, {3U, 0.3, 1U}}) {
    double ceil = 0, floor = 0;
    for (std::uint32_t i = 0; i <= n; ++i) {
      const double log_p = std::lgamma(n + 1.0) - std::lgamma(i + 1.0) - std::lgamma(n - i + 1.0) + i * std::log(p) + (n - i) * std::log1p(-p);
      const std::uint32_t full = i / slots;
      ceil += std::exp(log_p) * (full + (i % slots > 0 ? 1 : 0));
      floor += std::exp(log_p) * full;
    }
    const PageExpectation e = expected_pages(n, p, slots);
    EXPECT_NEAR(e.ceil, ceil, 0.01) << n << ' ' << p;
    EXPECT_NEAR(e.floor, floor, 0.01) << n << ' ' << p;
  }
}

TEST(ExpectedPages, ChanceOfAnyIsHypergeometric) {
  EXPECT_NEAR(chance_of_any(12, 3, 3), 1.0 - 9.0 * 8 * 7 / (12.0 * 11 * 10), 1e-12);
  EXPECT_EQ(chance_of_any(4, 4, 1), 1.0);
  EXPECT_EQ(chance_of_any(4, 0, 2), 0.0);
}

}  // namespace
}  // namespace moekv
