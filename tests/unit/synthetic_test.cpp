// Synthetic traces: rows do not depend on how they are read, distributions are what their names say, bad specifications are refused.
#include "trace/synthetic.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "core/error.hpp"
#include "rules/route/catalogue.hpp"
#include "trace/synthetic_detail.hpp"

namespace moekv {
namespace {

const char* const presets[] = {"flame", "dsv2lite", "gptoss", "uniform", "zipf", "k_hot", "power_law", "deepep_ratio"};

ModelShape shape_of(std::uint32_t n_experts, std::uint32_t top_k, std::uint32_t n_layers) {
  ModelShape shape;
  shape.layers.resize(n_layers);
  shape.gate.n_experts = n_experts;
  shape.gate.top_k = top_k;
  return shape;
}

SyntheticSpec spec_of(const std::string& preset) {
  SyntheticSpec spec;
  spec.preset = preset;
  spec.n_requests = 6;
  spec.prompt_tokens = 150;
  spec.output_tokens = 50;
  spec.overload_ratio = 1.5;
  return spec;
}

RoutingRows read(TraceSource& source, std::uint32_t r, std::uint32_t begin, std::uint32_t end, std::uint32_t lb, std::uint32_t le, WantLogits want) {
  RoutingRows rows;
  source.read(RequestId(r), begin, end, lb, le, want, rows);
  return rows;
}

class EveryPreset : public ::testing::TestWithParam<const char*> {};

TEST_P(EveryPreset, RowsAreAPureFunctionOfTheirPlace) {
  const ModelShape shape = shape_of(40, 5, 4);
  SyntheticSpec spec = spec_of(GetParam());
  spec.hot_experts = 16;
  auto whole = make_synthetic_trace(spec, shape);
  const RoutingRows all = read(*whole, 2, 0, 200, 0, 4, WantLogits::yes);
  auto other = make_synthetic_trace(spec, shape);  // a fresh source, read backwards in odd pieces and single layers
  for (const auto& [begin, end] : {std::pair{137U, 200U}, {136U, 137U}, {64U, 136U}, {0U, 64U}}) {
    (void)read(*other, 5, 3, 9, 1, 2, WantLogits::no);
    for (std::uint32_t l = 4; l-- > 0;) {
      const RoutingRows part = read(*other, 2, begin, end, l, l + 1, WantLogits::yes);
      for (std::uint32_t t = begin; t < end; ++t) {
        for (std::uint32_t i = 0; i < 5; ++i) {
          ASSERT_EQ(part.ids[(t - begin) * 5 + i], all.ids[(t * 4 + l) * 5 + i]);
          ASSERT_EQ(part.weights[(t - begin) * 5 + i], all.weights[(t * 4 + l) * 5 + i]);
        }
        for (std::uint32_t e = 0; e < 40 && !all.logits.empty(); ++e) ASSERT_EQ(part.logits[(t - begin) * 40 + e], all.logits[(t * 4 + l) * 40 + e]);
      }
    }
  }
}

TEST_P(EveryPreset, RowsAreValidAndSumToOne) {
  for (const auto& [n_experts, top_k] : {std::pair{64U, 6U}, {33U, 1U}, {8U, 2U}, {288U, 22U}}) {
    SyntheticSpec spec = spec_of(GetParam());
    const std::uint32_t half = n_experts / 2;
    spec.hot_experts = half;
    auto source = make_synthetic_trace(spec, shape_of(n_experts, top_k, 2));
    EXPECT_EQ(source->info().n_experts, n_experts);
    const RoutingRows rows = read(*source, 0, 0, 200, 0, 2, WantLogits::no);
    ASSERT_EQ(rows.ids.size(), 400U * top_k);
    EXPECT_TRUE(rows.logits.empty());
    for (std::size_t row = 0; row < 400; ++row) {
      const std::set<std::uint16_t> distinct(&rows.ids[row * top_k], &rows.ids[row * top_k] + top_k);
      ASSERT_EQ(distinct.size(), top_k);
      ASSERT_LT(*distinct.rbegin(), n_experts);
      const float sum = std::accumulate(&rows.weights[row * top_k], &rows.weights[row * top_k] + top_k, 0.0F);
      ASSERT_NEAR(sum, 1.0F, 1e-5F);
    }
  }
}

TEST_P(EveryPreset, SeedsAndRequestsDiffer) {
  SyntheticSpec spec = spec_of(GetParam());
  const ModelShape shape = shape_of(64, 6, 2);
  const auto first = read(*make_synthetic_trace(spec, shape), 0, 0, 50, 0, 2, WantLogits::no).ids;
  EXPECT_NE(first, read(*make_synthetic_trace(spec, shape), 4, 0, 50, 0, 2, WantLogits::no).ids);
  const std::string digest = make_synthetic_trace(spec, shape)->info().digest;
  spec.seed = 2;
  EXPECT_NE(first, read(*make_synthetic_trace(spec, shape), 0, 0, 50, 0, 2, WantLogits::no).ids);
  EXPECT_NE(digest, make_synthetic_trace(spec, shape)->info().digest);
}

INSTANTIATE_TEST_SUITE_P(Presets, EveryPreset, ::testing::ValuesIn(presets), [](const auto& preset) { return std::string(preset.param); });

TEST(Synthetic, TopkOnItsLogitsGivesTheRecordedRows) {
  ModelShape shape = shape_of(64, 6, 2);
  shape.gate.score = ScoreFunction::sigmoid;
  shape.gate.n_group = 8;
  shape.gate.topk_group = 4;
  shape.gate.scale = 2.5F;
  auto source = make_synthetic_trace(spec_of("dsv2lite"), shape);
  const RoutingRows rows = read(*source, 1, 10, 60, 0, 2, WantLogits::yes);
  std::vector<std::uint16_t> ids(6);
  std::vector<float> weights(6);
  for (std::size_t row = 0; row < 100; ++row) {
    route::Topk{}.choose({64, 6, 1, shape.gate}, {1, 0, 0, &rows.logits[row * 64]}, {ids.data(), weights.data()});
    ASSERT_TRUE(std::equal(ids.begin(), ids.end(), &rows.ids[row * 6]));
    ASSERT_TRUE(std::equal(weights.begin(), weights.end(), &rows.weights[row * 6]));
  }
}

/// Selection counts of one layer over all requests.
std::vector<double> counts(TraceSource& source) {
  std::vector<double> n(source.info().n_experts);
  for (std::uint32_t r = 0; r < source.n_requests(); ++r)
    for (const auto id : read(source, r, 0, source.request(RequestId(r)).total_tokens(), 0, 1, WantLogits::no).ids) n[id] += 1;
  return n;
}

double share_of_largest(std::vector<double> n, std::size_t how_many) {
  std::sort(n.rbegin(), n.rend());
  return std::accumulate(n.begin(), n.begin() + static_cast<std::ptrdiff_t>(how_many), 0.0) / std::accumulate(n.begin(), n.end(), 0.0);
}

TEST(Synthetic, HotGroupsGetTheirShare) {
  SyntheticSpec spec = spec_of("k_hot");
  spec.n_requests = 50;
  EXPECT_NEAR(share_of_largest(counts(*make_synthetic_trace(spec, shape_of(256, 8, 1))), 32), 0.9, 0.01);
  spec.preset = "deepep_ratio";
  spec.overload_ratio = 3.0;
  const auto n = counts(*make_synthetic_trace(spec, shape_of(256, 8, 1)));
  EXPECT_NEAR(std::accumulate(n.begin(), n.begin() + 32, 0.0) / (50 * 200 * 8), 3.0 / 8, 0.01);
}

TEST(Synthetic, ZipfWithoutReplacementFollowsItsExponent) {
  SyntheticSpec spec = spec_of("zipf");
  spec.n_requests = 200;
  spec.zipf_s = 1.0;
  auto n = counts(*make_synthetic_trace(spec, shape_of(64, 1, 1)));  // k = 1: no correction for drawing without replacement
  std::sort(n.rbegin(), n.rend());
  EXPECT_NEAR(n[0] / n[1], 2.0, 0.1);
  EXPECT_NEAR(n[0] / n[9], 10.0, 1.0);
}

TEST(Synthetic, PowerLawPutsTheHeaviestRankFirst) {
  const auto n = counts(*make_synthetic_trace(spec_of("power_law"), shape_of(64, 1, 1)));
  std::vector<double> rank(8);
  for (std::size_t e = 0; e < 64; ++e) rank[e / 8] += n[e];
  EXPECT_EQ(std::max_element(rank.begin(), rank.end()) - rank.begin(), 0);
}

TEST(Synthetic, LengthsAndArrivalsFollowTheirDistributions) {
  SyntheticSpec spec = spec_of("uniform");
  spec.n_requests = 20000;
  spec.length_sigma = 0.8;
  spec.arrivals = "gamma";
  spec.rate_per_s = 5;
  for (const double cv : {0.5, 1.0, 3.0}) {
    spec.arrival_cv = cv;
    const auto requests = synthetic::make_requests(spec);
    double log_sum = 0, square = 0;
    std::vector<double> gap;
    std::int64_t before = 0;
    for (const auto& r : requests) {
      log_sum += std::log(r.prompt_tokens / 150.0);
      square += std::pow(std::log(r.prompt_tokens / 150.0), 2);
      gap.push_back(static_cast<double>(r.arrival_ns - before) * 1e-9);
      before = r.arrival_ns;
    }
    EXPECT_NEAR(log_sum / 20000, 0.0, 0.03);
    EXPECT_NEAR(std::sqrt(square / 20000), 0.8, 0.02);
    const double mean = std::accumulate(gap.begin(), gap.end(), 0.0) / 20000;
    double variance = 0;
    for (const double g : gap) variance += (g - mean) * (g - mean) / 20000;
    EXPECT_NEAR(mean, 0.2, 0.2 * 4 * cv / std::sqrt(20000.0));
    EXPECT_NEAR(std::sqrt(variance) / mean, cv, 0.08 * cv);
  }
  spec.arrivals = "poisson";
  EXPECT_NEAR(static_cast<double>(synthetic::make_requests(spec).back().arrival_ns) * 1e-9, 4000, 120);
  spec.arrivals = "none";
  EXPECT_EQ(synthetic::make_requests(spec).back().arrival_ns, -1);
}

TEST(Synthetic, RefusesBadSpecificationsAllAtOnce) {
  SyntheticSpec spec = spec_of("gptos");
  spec.n_requests = 0;
  spec.arrivals = "poison";
  ModelShape shape = shape_of(4, 8, 0);
  try {
    (void)make_synthetic_trace(spec, shape);
    FAIL();
  } catch (const UserError& e) {
    EXPECT_EQ(e.problems().size(), 5U) << e.what();
    EXPECT_NE(std::string(e.what()).find("gptoss"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("poisson"), std::string::npos);
  }
  spec = spec_of("k_hot");
  spec.hot_experts = 4;  // 0.9 of 8 choices cannot fall on 4 experts
  EXPECT_THROW((void)make_synthetic_trace(spec, shape_of(64, 8, 1)), UserError);
  spec = spec_of("deepep_ratio");
  spec.overload_ratio = 9;
  EXPECT_THROW((void)make_synthetic_trace(spec, shape_of(64, 6, 1)), UserError);
}

TEST(Bootstrap, RowsAreBlocksOfTheRecordedTrace) {
  const auto recorded = [] { return make_synthetic_trace(spec_of("gptoss"), shape_of(32, 4, 3)); };
  std::set<std::vector<std::uint16_t>> blocks;
  for (std::uint32_t r = 0; r < 6; ++r)
    for (std::uint32_t b = 0; b < 3; ++b) blocks.insert(read(*recorded(), r, b * 64, b * 64 + 64, 0, 3, WantLogits::no).ids);
  SyntheticSpec spec = spec_of("bootstrap");
  spec.prompt_tokens = 300;
  auto source = synthetic::make_bootstrap(spec, shape_of(32, 4, 3), recorded());
  const RoutingRows all = read(*source, 3, 0, 350, 0, 3, WantLogits::yes);
  EXPECT_EQ(all.logits.size(), 350U * 3 * 32);
  for (std::uint32_t b = 0; b < 5; ++b) EXPECT_TRUE(blocks.contains({all.ids.begin() + b * 64 * 12, all.ids.begin() + (b + 1) * 64 * 12}));
  const RoutingRows part = read(*source, 3, 100, 201, 1, 2, WantLogits::no);
  for (std::uint32_t t = 100; t < 201; ++t)
    for (std::uint32_t i = 0; i < 4; ++i) ASSERT_EQ(part.ids[(t - 100) * 4 + i], all.ids[(t * 3 + 1) * 4 + i]);
  EXPECT_THROW((void)synthetic::make_bootstrap(spec, shape_of(64, 4, 2), recorded()), UserError);
}

}  // namespace
}  // namespace moekv
