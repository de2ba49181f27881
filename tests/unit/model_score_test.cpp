// A model in the loop against a slow forward pass in double: every option of the model file, and what caches, routers and chunks do to the loss.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "support/model_loop.hpp"

namespace moekv {
namespace {

using ::testing::Contains;
using testing::evict_half;
using testing::Loop;
using testing::metric;
using ::testing::Not;
using testing::TinyModel;

std::vector<std::pair<std::string, TinyModel>> every_option() {
  using HeadNorm = TinyModel::HeadNorm;
  return {
      {"plain", {}},
      {"interleaved, tied", {.rope_style = "interleaved", .tied = true}},
      {"part of the head turns, one layer does not", {.rope_dim = 4, .skips_rope = true}},
      {"no rope, own scale", {.rope_style = "none", .attention_scale = 0.2}},
      {"yarn with channels inside its ramp, window", {.yarn = true, .yarn_original = 4096, .yarn_fast = 200, .yarn_slow = 20, .window = 9}},
      {"yarn whose ramp has no length, norm of each head, biases", {.yarn = true, .yarn_slow = 3, .biases = true, .head_norm = HeadNorm::each}},
      {"norm of whole projections, softmax not renormalised, groups and a bias of the choice",
       {.choice_bias = true, .head_norm = HeadNorm::whole, .renormalise = false, .n_group = 3, .topk_group = 2}},
      {"gpt-oss",
       {.yarn = true,
        .yarn_truncate = false,
        .yarn_original = 4096,
        .yarn_fast = 200,
        .yarn_slow = 20,
        .yarn_factor_of_attention = 1.4,
        .biases = true,
        .sinks = true,
        .router_bias = true,
        .expert_biases = true,
        .clamped = true,
        .window = 5,
        .gate_order = "post",
        .type = ElementFormat::bf16}},
      {"DeepSeek-V3",
       {.choice_bias = true, .shared = true, .dense_first = true, .gate_score = "sigmoid", .gate_scale = 2.5, .n_group = 3, .topk_group = 2}},
      {"DeepSeek-V2", {.shared = true, .dense_first = true, .renormalise = false, .gate_scale = 4, .n_group = 2, .topk_group = 1}},
      {"Qwen2-MoE", {.biases = true, .shared = true, .shared_router = true, .renormalise = false, .type = ElementFormat::fp16}},
      {"Llama-4", {.top_k = 1, .shared = true, .weight_on_input = true, .gate_score = "sigmoid", .renormalise = false}},
      {"sqrtsoftplus", {.choice_bias = true, .gate_score = "sqrtsoftplus", .gate_scale = 1.5}},
  };
}

TEST(ModelScore, EveryOptionGivesTheLossOfTheSlowForwardPass) {
  for (const auto& [name, options] : every_option()) {
    SCOPED_TRACE(name);
    const Loop loop(options);
    const std::vector<double> truth = loop.truth();
    const RunOutcome out = loop.run(loop.spec());
    EXPECT_TRUE(out.violations.empty());
    ASSERT_EQ(out.tokens.size(), truth.size());
    double spread = 0;
    for (std::size_t i = 0; i < truth.size(); ++i) {
      EXPECT_NEAR(out.tokens[i].nll, truth[i], 2e-4) << "token " << i;
      spread += std::abs(truth[i] - truth[0]);
      EXPECT_EQ(out.tokens[i].nll, out.tokens[i].nll_reference);
      EXPECT_EQ(out.tokens[i].kl, 0);
    }
    EXPECT_GT(spread, 1) << "a model that always says the same tests nothing";
    EXPECT_EQ(metric(out, "nll_change"), 0);
    EXPECT_EQ(metric(out, "top1_agreement"), 1);
    EXPECT_EQ(metric(out, "n_scored_tail"), 3 * 20);
    EXPECT_EQ(metric(out, "attention_drift"), 0);
    EXPECT_FALSE(out.probes.empty());
    for (const ProbeRecord& p : out.probes) EXPECT_LT(p.attn_out_err, 1e-4);
  }
}

TEST(ModelScore, AnOptionMattersToTheLoss) {
  // The comparison above could not fail where an option changed nothing.
  const std::vector<double> plain = Loop({}).truth();
  for (const auto& [name, options] : every_option()) {
    if (name == "plain") continue;
    const std::vector<double> other = Loop(options).truth();
    double most = 0;
    for (std::size_t i = 0; i < plain.size(); ++i) most = std::max(most, std::abs(plain[i] - other[i]));
    EXPECT_GT(most, 0.05) << name;
  }
}

TEST(ModelScore, LayoutsChunksAndBatchesLeaveADenseModelAlone) {
  const Loop loop({.sinks = true, .window = 9});
  const std::vector<double> truth = loop.truth();
  for (const Layout layout : {Layout::local, Layout::expert, Layout::token, Layout::head, Layout::replicated}) {
    for (const std::uint32_t chunk : {1U, 16U}) {
      RunSpec s = loop.spec();
      s.placement.layout = layout;
      s.placement.map = layout == Layout::expert ? ShardMap::expert_affine : layout == Layout::token ? ShardMap::block_cyclic : ShardMap::none;
      s.cluster.ranks = 2;
      s.prefill.chunk_tokens = chunk;
      s.batch.concurrency = chunk == 1 ? 2 : 8;
      const RunOutcome out = loop.run(s);
      EXPECT_TRUE(out.violations.empty());
      ASSERT_EQ(out.tokens.size(), truth.size());
      for (std::size_t i = 0; i < truth.size(); ++i) EXPECT_NEAR(out.tokens[i].nll, truth[i], 2e-4);
      EXPECT_EQ(metric(out, "nll_change"), 0) << "the reference lies in the same layout";
    }
  }
}

TEST(ModelScore, WhatIsLostIsMeasured) {
  const Loop loop({});
  RunSpec s = loop.spec();
  evict_half(s);
  double before = -1;
  for (const std::uint64_t denominator : {2U, 4U, 8U}) {
    s.eviction.budget.denominator = denominator;
    const RunOutcome out = loop.run(s);
    EXPECT_TRUE(out.violations.empty());
    const double kl = metric(out, "kl_reference_tail");
    EXPECT_GT(kl, before) << "a smaller budget costs more";
    before = kl;
    EXPECT_NE(metric(out, "nll_change_tail"), 0);
    EXPECT_LE(metric(out, "nll_change_low_tail"), metric(out, "nll_change_tail"));
    EXPECT_GE(metric(out, "nll_change_high_tail"), metric(out, "nll_change_tail"));
    EXPECT_GT(metric(out, "attention_drift_tail"), 0);
    ASSERT_EQ(out.drifts.size(), 3U);
    for (const TokenRecord& t : out.tokens) {
      if (t.position >= 20) continue;
      EXPECT_EQ(t.nll, t.nll_reference) << "nothing is evicted before the prompt ends";
    }
  }
}

TEST(ModelScore, TheReferenceIsDenseWhateverTheRunDoes) {
  const Loop loop({.n_layers = 2});
  const std::vector<double> truth = loop.truth();
  const auto expect_dense = [&](const char* what, const std::function<void(RunSpec&)>& change) {
    SCOPED_TRACE(what);
    RunSpec s = loop.spec();
    change(s);
    const RunOutcome out = loop.run(s);
    ASSERT_EQ(out.tokens.size(), truth.size());
    double most = 0;
    for (std::size_t i = 0; i < truth.size(); ++i) {
      EXPECT_NEAR(out.tokens[i].nll_reference, truth[i], 2e-5) << "token " << i;
      most = std::max(most, std::abs(out.tokens[i].nll - truth[i]));
    }
    EXPECT_GT(most, 1e-4);
  };
  expect_dense("combine", [](RunSpec& s) {
    s.combine = CombineType::bf16;
    s.placement.layout = Layout::token;
    s.placement.map = ShardMap::block_cyclic;
  });
  expect_dense("codec", [](RunSpec& s) { s.compression.k = s.compression.v = codec::Int4Token{}; });
}

TEST(ModelScore, ARouterChangesWhichExpertsCompute) {
  const Loop loop({.top_k = 1});
  RunSpec s = loop.spec();
  s.routing.rule = route::Hash{};
  const RunOutcome out = loop.run(s);
  EXPECT_GT(metric(out, "routing_change_rate"), 0.5);
  EXPECT_GT(metric(out, "kl_reference"), 0.01);
  s.routing.rule = route::Topk{};
  EXPECT_EQ(metric(loop.run(s), "nll_change"), 0) << "top-k of the logits is the model's own gate";
  s.routing.rule = route::CacheAware{.lambda = 20};
  EXPECT_THAT(loop.run(s).labels, Contains("not_exercised")) << "nothing is missed";
  evict_half(s);
  s.eviction.access = AccessSource::routed;  // of which the router hears
  const RunOutcome missed = loop.run(s);
  EXPECT_THAT(missed.labels, Not(Contains("not_exercised")));
  EXPECT_GT(metric(missed, "routing_change_rate"), 0);
}

TEST(ModelScore, ARecordedTraceReplaysToTheSameDecisions) {
  const Loop loop({.sinks = false, .window = 9, .renormalise = false});
  RunSpec s = loop.spec();
  s.payload.element = ElementFormat::fp16;  // as q, k and v are recorded
  s.placement.layout = Layout::expert;
  s.placement.map = ShardMap::expert_affine;
  s.read.scope = ReadScope::routed;
  s.prefill.chunk_tokens = 1;  // so that each token knows the choice of the one before
  s.prefill.queries = PrefillQueries::all;
  s.prefill.evict = PrefillEvict::chunk;
  s.eviction.rule = evict::H2oSum{};
  s.eviction.protect = {1, 2};
  s.eviction.budget.kind = BudgetKind::fraction;
  s.eviction.budget.denominator = 3;
  const std::string path = loop.folder.file("recorded.moekv.h5");
  const RunOutcome scored = loop.run(s, path);
  EXPECT_GT(metric(scored, "evictions"), 0);
  const auto trace = open_native_trace(path);
  EXPECT_EQ(trace->request(RequestId(2)).prompt_tokens, 20U);
  EXPECT_EQ(trace->request(RequestId(2)).output_tokens, 20U);
  EXPECT_EQ(h5::File::open(path).text("weight_kind"), "raw_softmax");
  RunSpec again = s;
  again.model.path.clear();
  const auto transport = make_local_transport();
  const auto backend = make_backend("host", 0);
  const RunOutcome replayed = replay(again, *trace, *backend, *transport);
  EXPECT_EQ(to_hex(scored.digest), to_hex(replayed.digest));
  EXPECT_EQ(metric(scored, "bytes_wire"), metric(replayed, "bytes_wire"));
  EXPECT_EQ(metric(scored, "evictions"), metric(replayed, "evictions"));
}

TEST(ModelScore, APolicyLooksAtTheQueriesThatAReplayWouldMake) {
  // All tokens of a model attend; of the prompt the policy sees only the attention that prefill.queries names, so it evicts what it would evict in a
  // replay where the others do not attend at all.
  const Loop loop({});
  RunSpec s = loop.spec();
  s.payload.element = ElementFormat::fp16;
  s.probe.samples = 1U << 30;
  s.eviction.rule = evict::H2oSum{};
  s.eviction.protect = {1, 2};
  s.eviction.budget.kind = BudgetKind::fraction;
  s.eviction.budget.denominator = 3;
  std::vector<std::int64_t> read[2];
  for (const PrefillQueries queries : {PrefillQueries::last, PrefillQueries::all}) {
    s.prefill.queries = queries;
    s.prefill.last = 3;
    const std::string path = loop.folder.file("recorded.moekv.h5");
    const RunOutcome scored = loop.run(s, path);
    EXPECT_EQ(h5::File::open(path).text("weight_kind"), "renorm");
    const auto trace = open_native_trace(path);
    RunSpec again = s;
    again.model.path.clear();
    const auto transport = make_local_transport();
    const auto backend = make_backend("host", 1);
    const RunOutcome replayed = replay(again, *trace, *backend, *transport);
    std::vector<ProbeRecord> decode[2];
    for (const ProbeRecord& p : scored.probes) {
      if (p.position >= 20) decode[0].push_back(p);
    }
    for (const ProbeRecord& p : replayed.probes) {
      if (p.position >= 20) decode[1].push_back(p);
    }
    ASSERT_EQ(decode[0].size(), decode[1].size());
    ASSERT_GT(decode[0].size(), 100U);
    for (std::size_t i = 0; i < decode[0].size(); ++i) {
      EXPECT_EQ(decode[0][i].read_tokens, decode[1][i].read_tokens);
      EXPECT_NEAR(decode[0][i].attn_mass_kept, decode[1][i].attn_mass_kept, 2e-3);
    }
    double kept = 0;
    for (const ProbeRecord& p : decode[0]) kept += p.attn_mass_kept;
    read[queries == PrefillQueries::all ? 1 : 0].push_back(std::llround(1e6 * kept));
  }
  EXPECT_NE(read[0], read[1]) << "the choice of queries matters";
}

TEST(ModelScore, ATokenDependsNotOnItsBatch) {
  const Loop loop({.shared = true});
  RunSpec s = loop.spec();
  s.batch.concurrency = 1;
  const RunOutcome one = loop.run(s);
  s.batch.concurrency = 8;
  s.prefill.chunk_tokens = 20;
  const RunOutcome all = loop.run(s);
  for (std::size_t i = 0; i < one.tokens.size(); ++i) EXPECT_EQ(one.tokens[i].nll, all.tokens[i].nll) << "token " << i;
}

}  // namespace
}  // namespace moekv
