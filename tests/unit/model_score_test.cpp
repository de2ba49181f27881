// A model in the loop against a slow forward pass in double: every option of the model file, and what caches, routers and chunks do to the loss.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "engine/replay.hpp"
#include "engine/summary_list.hpp"
#include "model/model_driver.hpp"
#include "model/predictions.hpp"
#include "support/slow_model.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"

namespace moekv {
namespace {

using testing::SlowModel;
using testing::TinyModel;

constexpr std::uint32_t n_sequences = 3, n_tokens = 41;  // 40 predictions each

std::vector<std::uint32_t> sequence(std::uint32_t s, std::uint32_t vocab) {
  std::vector<std::uint32_t> out;
  for (std::uint32_t t = 0; t < n_tokens; ++t) out.push_back(static_cast<std::uint32_t>(hash_words(17, s, t) % vocab));
  return out;
}

/// A tiny model in a folder of its own, with a token file.
struct Loop {
  explicit Loop(const TinyModel& m) : options(m), model_path(folder.file("model.h5")), tokens_path(folder.file("tokens.h5")) {
    testing::write_tiny_model(model_path, m);
    h5::File file = h5::File::create(tokens_path);
    std::vector<std::uint32_t> all;
    for (std::uint32_t s = 0; s < n_sequences; ++s) {
      const auto own = sequence(s, m.vocab);
      all.insert(all.end(), own.begin(), own.end());
    }
    file.write("token_ids", std::span<const std::uint32_t>(all), {n_sequences, n_tokens});
    file.close();
    const ModelFile open(model_path);
    decoder = std::make_unique<Decoder>(open);
    tokens = std::make_unique<TokenSource>(tokens_path, 0, open.spec());
  }

  [[nodiscard]] RunSpec spec() const {
    RunSpec s;
    s.model = shape_of(decoder->spec(), model_path);
    s.trace.tokens = tokens_path;
    s.cluster.ranks = 2;
    s.payload.element = ElementFormat::fp32;
    s.eviction.access = AccessSource::dense;
    s.prefill.chunk_tokens = 7;
    s.probe.samples = 40;
    s.page.slots = 8;
    s.score.resamples = 100;
    return s;
  }
  [[nodiscard]] RunOutcome run(const RunSpec& s, const std::string& record = {}) const {
    omp_set_num_threads(1);  // there is too little to do for more
    const auto transport = make_local_transport();
    const auto backend = make_backend("host", 0);
    std::unique_ptr<TraceRecorder> recorder;
    if (!record.empty()) recorder = std::make_unique<TraceRecorder>(record, *tokens, decoder->spec(), KvType::fp16, "test", *transport);
    RunOutcome out = replay(s, *tokens, *backend, *transport, {}, model_driver(s, *decoder, *tokens, *transport, recorder.get()));
    if (recorder) recorder->finish();
    return out;
  }
  [[nodiscard]] std::vector<double> truth() const {
    SlowModel slow(model_path, options);
    std::vector<double> out;
    for (std::uint32_t s = 0; s < n_sequences; ++s) {
      const auto own = slow.losses(sequence(s, options.vocab));
      out.insert(out.end(), own.begin(), own.end());
    }
    return out;
  }

  TinyModel options;
  TempDir folder;
  std::string model_path, tokens_path;
  std::unique_ptr<Decoder> decoder;
  std::unique_ptr<TokenSource> tokens;
};

double metric(const RunOutcome& out, const std::string& name) {
  for (const Summary& s : out.summary) {
    if (s.name == name) return s.value;
  }
  ADD_FAILURE() << "no metric " << name;
  return std::nan("");
}

std::vector<std::pair<std::string, TinyModel>> every_option() {
  using HeadNorm = TinyModel::HeadNorm;
  return {
      {"plain", {}},
      {"interleaved, tied", {.rope_style = "interleaved", .tied = true}},
      {"part of the head turns, one layer does not", {.rope_dim = 4, .skips_rope = true}},
      {"no rope, own scale", {.rope_style = "none", .attention_scale = 0.2}},
      {"yarn, window", {.yarn = true, .window = 9}},
      {"norm of each head, biases", {.biases = true, .head_norm = HeadNorm::each}},
      {"norm of whole projections, softmax not renormalised", {.head_norm = HeadNorm::whole, .renormalise = false}},
      {"gpt-oss",
       {.yarn = true,
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
  s.eviction.rule = evict::Streaming{};
  s.eviction.unit = EvictUnit::token;
  s.eviction.protect = {1, 2};
  s.eviction.budget.kind = BudgetKind::fraction;
  double before = -1;
  for (const std::uint64_t denominator : {2U, 4U, 8U}) {
    s.eviction.budget.numerator = 1;
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

TEST(ModelScore, ARouterChangesWhichExpertsCompute) {
  const Loop loop({.top_k = 1});
  RunSpec s = loop.spec();
  s.routing.rule = route::Hash{};
  const RunOutcome out = loop.run(s);
  EXPECT_GT(metric(out, "routing_change_rate"), 0.5);
  EXPECT_GT(metric(out, "kl_reference"), 0.01);
  s.routing.rule = route::Topk{};
  EXPECT_EQ(metric(loop.run(s), "nll_change"), 0) << "top-k of the logits is the model's own gate";
}

TEST(ModelScore, ARecordedTraceReplaysToTheSameDecisions) {
  const Loop loop({.sinks = false, .window = 9});
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

TEST(ModelScore, PredictionsAreThoseOfASoftmaxInDouble) {
  const Loop loop({});
  const std::uint32_t n = 70, hidden = loop.options.hidden, vocab = loop.options.vocab;  // more tokens than are in memory at once
  std::vector<float> x, reference, z, y;
  std::vector<std::uint32_t> targets;
  for (std::uint32_t i = 0; i < n * hidden; ++i) {
    x.push_back(2 * uniform_float(static_cast<std::uint32_t>(hash_words(1, i))) - 1);
    reference.push_back(x.back() + 0.5F * uniform_float(static_cast<std::uint32_t>(hash_words(2, i))));
  }
  for (std::uint32_t t = 0; t < n; ++t) targets.push_back(static_cast<std::uint32_t>(hash_words(3, t) % vocab));
  loop.decoder->head(x, z);
  loop.decoder->head(reference, y);
  const std::vector<Prediction> got = predict(*loop.decoder, x, reference, targets);
  int same = 0;
  for (std::uint32_t t = 0; t < n; ++t) {
    double q = 0, p = 0, kl = 0;
    std::uint32_t best_q = 0, best_p = 0;
    for (std::uint32_t i = 0; i < vocab; ++i) {
      q += std::exp(static_cast<double>(z[t * vocab + i]));
      p += std::exp(static_cast<double>(y[t * vocab + i]));
      if (z[t * vocab + i] > z[t * vocab + best_q]) best_q = i;
      if (y[t * vocab + i] > y[t * vocab + best_p]) best_p = i;
    }
    for (std::uint32_t i = 0; i < vocab; ++i) {
      const double a = std::exp(static_cast<double>(y[t * vocab + i])) / p, b = std::exp(static_cast<double>(z[t * vocab + i])) / q;
      kl += a * std::log(a / b);
    }
    EXPECT_NEAR(got[t].nll, std::log(q) - static_cast<double>(z[t * vocab + targets[t]]), 1e-9);
    EXPECT_NEAR(got[t].nll_reference, std::log(p) - static_cast<double>(y[t * vocab + targets[t]]), 1e-9);
    EXPECT_NEAR(got[t].kl, kl, 1e-9);
    EXPECT_EQ(got[t].same_top1, best_p == best_q ? 1 : 0);
    same += best_p == best_q ? 1 : 0;
  }
  EXPECT_GT(same, 5);
  EXPECT_LT(same, 65);
}

TEST(ModelScore, TheChangeOfTheLossAndItsInterval) {
  // Two sequences of two and of four tokens, prompts of one and two: changes 1 and 0 a token. A resample draws one of them twice, or both.
  RunOutcome out;
  for (const std::int64_t request : {0, 1}) {
    RequestRecord r;
    r.request = request;
    r.prompt_tokens = 1 + request;
    out.requests.push_back(r);
    for (std::uint32_t p = 0; p < (request == 0 ? 2U : 4U); ++p) {
      TokenRecord t{};
      t.request = request;
      t.position = p;
      t.nll_reference = 1;
      t.nll = request == 0 ? 2 : 1;
      t.kl = p;
      t.same_top1 = p == 0 ? 1 : 0;
      out.tokens.push_back(t);
    }
  }
  RunSpec spec;
  spec.score.resamples = 1000;
  SummaryList list;
  add_score(spec, out, list);
  out.summary = list.take();
  EXPECT_DOUBLE_EQ(metric(out, "nll"), 8.0 / 6);
  EXPECT_DOUBLE_EQ(metric(out, "nll_change"), 2.0 / 6);
  EXPECT_EQ(metric(out, "nll_change_low"), 0);
  EXPECT_EQ(metric(out, "nll_change_high"), 1);
  EXPECT_DOUBLE_EQ(metric(out, "kl_reference"), 7.0 / 6);
  EXPECT_DOUBLE_EQ(metric(out, "top1_agreement"), 2.0 / 6);
  EXPECT_EQ(metric(out, "n_scored_tail"), 3);  // position 1 of the first, 2 and 3 of the second
  EXPECT_DOUBLE_EQ(metric(out, "nll_change_tail"), 1.0 / 3);
  EXPECT_DOUBLE_EQ(metric(out, "kl_reference_tail"), 2);
  EXPECT_EQ(metric(out, "top1_agreement_tail"), 0);
  spec.score.from_position = 3;
  SummaryList later;
  add_score(spec, out, later);
  out.summary = later.take();
  EXPECT_EQ(metric(out, "n_scored_tail"), 1);
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
