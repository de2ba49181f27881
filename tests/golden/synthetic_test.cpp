// Acceptance of the synthetic presets: 30k tokens of each against the statistics measured on the recorded traces they stand for.
#include "trace/synthetic.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "trace/stats.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t n_requests = 72, request_tokens = 420;  // 30240 tokens

ModelShape shape_of(std::uint32_t n_experts, std::uint32_t top_k, std::uint32_t n_layers) {
  ModelShape shape;
  shape.layers.resize(n_layers);
  shape.gate.n_experts = n_experts;
  shape.gate.top_k = top_k;
  return shape;
}

std::unique_ptr<TraceSource> generate(const std::string& preset, const ModelShape& shape) {
  SyntheticSpec spec;
  spec.preset = preset;
  spec.n_requests = n_requests;
  spec.prompt_tokens = request_tokens;
  spec.output_tokens = 0;
  return make_synthetic_trace(spec, shape);
}

/// Medians over layers measured on recorded traces.
struct Target {
  const char* preset;
  std::uint32_t n_experts, top_k, n_layers;
  double gini, lag_1, lag_16, next_recall, lru_quarter, fano;
};
constexpr Target targets[] = {{"flame", 64, 6, 8, .107, .236, .116, .48, .36, 1.9},
                              {"dsv2lite", 64, 6, 26, .275, .291, .204, .56, .43, 3.5},
                              {"gptoss", 32, 4, 24, .383, .434, .326, .59, .62, 7.2}};

class CalibratedPreset : public ::testing::TestWithParam<Target> {};

TEST_P(CalibratedPreset, FollowsTheRecordedStatistics) {
  const Target& t = GetParam();
  const auto trace = generate(t.preset, shape_of(t.n_experts, t.top_k, t.n_layers));
  const TraceStats s = compute_stats(*trace);
  const LayerStats& m = s.median;
  EXPECT_NEAR(m.gini, t.gini, .05);
  EXPECT_NEAR(m.reuse_lag_1, t.lag_1, .04);
  EXPECT_NEAR(m.reuse_lag_16, t.lag_16, .04);
  EXPECT_NEAR(m.next_recall, t.next_recall, .08);
  EXPECT_NEAR(m.lru_hit_quarter, t.lru_quarter, .08);
  EXPECT_LT(std::abs(std::log(m.fano_32 / t.fano)), std::log(1.5)) << m.fano_32;
  // The first layers have the lowest locality.
  for (std::size_t l = 0; l < 3; ++l) EXPECT_LT(s.layers[l].reuse_lag_1, m.reuse_lag_1) << l;
}

TEST_P(CalibratedPreset, WeightsSumToOne) {
  const Target& t = GetParam();
  const auto trace = generate(t.preset, shape_of(t.n_experts, t.top_k, 3));
  RoutingRows rows;
  for (std::uint32_t r = 0; r < n_requests; ++r) {
    trace->read(RequestId(r), 0, request_tokens, 0, 3, WantLogits::no, rows);
    for (auto w = rows.weights.begin(); w != rows.weights.end(); w += t.top_k) ASSERT_NEAR(std::accumulate(w, w + t.top_k, 0.0), 1.0, 3e-7);
  }
}

INSTANTIATE_TEST_SUITE_P(Presets, CalibratedPreset, ::testing::ValuesIn(targets),
                         [](const auto& target) { return std::string(target.param.preset); });

TEST(UniformPreset, ReusesExpertsAsOftenAsChance) {
  for (const auto& [n_experts, top_k] : {std::pair{64U, 6U}, {32U, 4U}, {256U, 8U}}) {
    const auto trace = generate("uniform", shape_of(n_experts, top_k, 1));
    const LayerStats l = compute_stats(*trace).layers.at(0);
    // |S(t) and S(t-1)| is hypergeometric; overlaps of different pairs of tokens are uncorrelated.
    const double p = static_cast<double>(top_k) / n_experts, pairs = n_requests * (request_tokens - 1.0);
    const double sigma = std::sqrt(p * (1 - p) * (n_experts - top_k) / (n_experts - 1.0) / top_k / pairs);
    EXPECT_NEAR(l.reuse_lag_1, p, 3 * sigma) << n_experts;
    EXPECT_NEAR(l.reuse_lag_2, p, 3 * sigma) << n_experts;
    EXPECT_NEAR(l.reuse_lag_16, p, 3 * sigma) << n_experts;
  }
}

/// A shape far from the calibration keeps a plausible expert-parallel imbalance: (max - mean)/mean at 32 ranks of 256 experts near 1.
TEST(CalibratedPresetShapes, LargeModelsStayPlausible) {
  const auto trace = generate("dsv2lite", shape_of(256, 8, 4));
  const LayerStats m = compute_stats(*trace).median;
  EXPECT_GT(m.ep16_1024, 1.2);
  EXPECT_LT(m.ep16_1024, 2.6);
  EXPECT_GT(m.reuse_lag_1, 3 * m.reuse_uniform);
}

}  // namespace
}  // namespace moekv
