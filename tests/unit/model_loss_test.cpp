// What a scored run tells: predictions, the change of the loss and its interval, drift, and values that overflow.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "engine/summary_list.hpp"
#include "model/predictions.hpp"
#include "support/model_loop.hpp"

namespace moekv {
namespace {

using testing::evict_half;
using ::testing::HasSubstr;
using testing::Loop;
using testing::metric;

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
  const double wider = 12.7062 * std::sqrt(2.0) / 1.96;  // two sequences of mean 1 and 0
  EXPECT_NEAR(metric(out, "nll_change_low"), 1.0 / 3 - wider / 3, 1e-3);
  EXPECT_NEAR(metric(out, "nll_change_high"), 1.0 / 3 + wider * 2 / 3, 1e-3);
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

/// What a run's driver shows after each of its steps.
RunOutcome run_watched(const Loop& loop, const RunSpec& s, const std::function<void(const ModelDriver&, const KvHistory&)>& watch) {
  const auto transport = make_local_transport();
  const auto backend = make_backend("host", 1);
  const ModelDriver* driver = nullptr;
  const KvHistory* history = nullptr;
  const DriverFactory make = [&](Geometry& geometry, ShardedCache& cache, std::uint64_t total_queries) {
    auto own_history = std::make_unique<KvHistory>(*loop.decoder);
    auto reference =
        s.score.reference == ScoreReference::dense ? std::make_unique<ReferenceRun>(s, *loop.decoder, *loop.tokens, *transport) : nullptr;
    history = own_history.get();
    auto made = std::make_unique<ModelDriver>(geometry, cache, *loop.decoder, *loop.tokens, std::move(own_history), std::move(reference), nullptr,
                                              total_queries);
    made->keep_tracks();
    driver = made.get();
    return made;
  };
  ReplayHooks hooks;
  hooks.progress = [&](const Progress&) { watch(*driver, *history); };
  return replay(s, *loop.tokens, *backend, *transport, hooks, make);
}

TEST(ModelScore, DriftIsTheDistanceOfTwoRuns) {
  const Loop loop({});
  RunSpec s = loop.spec();
  s.cluster.ranks = 1;
  s.batch.concurrency = 1;  // tokens come by request and position, 40 of each
  s.score.reference = ScoreReference::none;
  std::vector<LayerTrack> dense(3), own(3);
  const auto keep = [](std::vector<LayerTrack>& to, const ModelDriver& driver) {
    for (std::size_t l = 0; l < 3; ++l) {
      const LayerTrack& step = driver.tracks()[l];
      to[l].attention.insert(to[l].attention.end(), step.attention.begin(), step.attention.end());
      to[l].residual.insert(to[l].residual.end(), step.residual.begin(), step.residual.end());
    }
  };
  std::size_t most_requests = 0, last_requests = 1;
  (void)run_watched(loop, s, [&](const ModelDriver& driver, const KvHistory& history) {
    keep(dense, driver);
    most_requests = std::max(most_requests, history.n_requests());
    last_requests = history.n_requests();
  });
  EXPECT_EQ(most_requests, 1U) << "what is finished is forgotten";
  EXPECT_EQ(last_requests, 0U);
  s.score.reference = ScoreReference::dense;
  evict_half(s);
  const RunOutcome out = run_watched(loop, s, [&](const ModelDriver& driver, const KvHistory&) { keep(own, driver); });
  const auto distance = [](const std::vector<float>& a, const std::vector<float>& b, std::uint32_t from) {
    double error = 0, norm = 0;
    const std::size_t width = b.size() / (3 * 40);
    for (std::size_t i = 0; i < b.size(); ++i) {
      if (i / width % 40 < from) continue;
      error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
      norm += std::pow(static_cast<double>(b[i]), 2);
    }
    return std::sqrt(error / norm);
  };
  ASSERT_EQ(out.drifts.size(), 3U);
  for (std::size_t l = 0; l < 3; ++l) {
    const DriftRecord& d = out.drifts[l];
    EXPECT_EQ(d.n_tokens, 3 * 40);
    EXPECT_NEAR(d.attention_drift, distance(own[l].attention, dense[l].attention, 0), 1e-9);
    EXPECT_NEAR(d.attention_drift_tail, distance(own[l].attention, dense[l].attention, 20), 1e-9);
    EXPECT_NEAR(d.residual_drift, distance(own[l].residual, dense[l].residual, 0), 1e-9);
    EXPECT_NEAR(d.residual_drift_tail, distance(own[l].residual, dense[l].residual, 20), 1e-9);
    EXPECT_GT(d.residual_drift_tail, d.residual_drift);
    EXPECT_GT(d.residual_drift, 0.001);
  }
}

TEST(ModelScore, WhatOverflowsIsToldAndNotScored) {
  struct Case {
    const char *name, *expected;
    h5::Dims dims;
    std::size_t n_large;  // of its values, the others are small
    ScoreReference reference;
    std::size_t n_violations;
  };
  using enum ScoreReference;
  const std::string law = "law 'what a model computes is finite and fits payload.element' does not hold: ";
  for (const Case& c : {
           Case{"layers/0/attn/q", "first for the q, k or v of request 0, position 0, layer 0 (step 0)", {48, 24}, 1152, dense, 2},
           Case{"layers/1/ffn/experts_up", "first for the residual stream of request 0, position 0, layer 1", {6, 10, 24}, 1440, none, 1},
           Case{"layers/0/ffn/router", "first for the gate logits of request 0, position 0, layer 0", {6, 24}, 144, none, 1},
           Case{"head", "120 times, first for the prediction of request 0, position 0, layer 2", {19, 24}, 456, dense, 1},
           Case{"head", "120 times, first for the prediction of request 0, position 0, layer 2", {19, 24}, 24, none, 1},  // often the logit is -inf
       }) {
    SCOPED_TRACE(c.name);
    Loop loop({});
    {
      h5::File file = h5::File::open(loop.model_path, h5::Access::update);
      std::vector<float> values(file.dataset(c.name).read<float>().size(), 0.1F);
      std::fill_n(values.begin(), c.n_large, 3e38F);
      file.remove(c.name);
      file.write(c.name, std::span<const float>(values), c.dims);
      file.close();
    }
    loop.decoder = std::make_unique<Decoder>(ModelFile(loop.model_path));
    RunSpec s = loop.spec();
    s.score.reference = c.reference;
    const RunOutcome out = loop.run(s);
    ASSERT_EQ(out.violations.size(), c.n_violations);
    EXPECT_THAT(out.violations[0], HasSubstr(law));
    EXPECT_THAT(out.violations[0], HasSubstr(c.expected));
    if (c.n_large != 456) continue;
    EXPECT_TRUE(std::isnan(metric(out, "nll")));
    EXPECT_TRUE(std::isnan(metric(out, "nll_change"))) << "metrics are not left out";
    EXPECT_TRUE(std::isnan(metric(out, "nll_change_low")));
  }
}

TEST(NumberCheck, KnowsWhatAttentionAndPayloadHold) {
  const HomeToken token{RequestId(7), 5, Rank(0)};
  const auto told = [&](ElementFormat payload, float q, float k, float v) {
    NumberCheck check(payload);
    check.begin_step(3);
    check.attention_inputs(LayerId(1), std::span(&token, 1), std::vector<float>{1, q}, std::vector<float>{k}, std::vector<float>{v});
    RunOutcome out;
    check.collect(" of the reference", *make_local_transport(), out);
    return out.violations.empty() ? std::string() : out.violations[0];
  };
  using enum ElementFormat;
  EXPECT_EQ(told(fp32, 9e15F, -9e15F, 3e38F), "");
  EXPECT_EQ(told(fp16, 65504, -65504, 65504), "");
  EXPECT_EQ(told(bf16, 7e4F, -7e4F, 7e4F), "");
  const char* place = "1 times, first for the q, k or v of the reference of request 7, position 5, layer 1 (step 3)";
  EXPECT_THAT(told(fp32, -2e16F, 1, 1), HasSubstr(place));
  EXPECT_THAT(told(fp32, 1, 2e16F, 1), HasSubstr(place));
  EXPECT_THAT(told(fp16, 65520, 1, 1), HasSubstr(place));
  EXPECT_THAT(told(fp16, 1, 1, -65520), HasSubstr(place));
  EXPECT_THAT(told(fp32, 1, 1, std::nanf("")), HasSubstr(place));
}

}  // namespace
}  // namespace moekv
