// Exact attention and fidelity numbers against a naive two-pass loop over keys kept in memory.
#include "engine/exact.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "support/qkv_shapes.hpp"

namespace moekv {
namespace {

struct Query {
  ModelShape shape;
  LayerShape layer;
  std::uint32_t position;
};

/// Softmax weights of one head over positions [begin, position], by the definition and with no running maximum.
std::vector<double> naive_weights(const Query& c, std::uint32_t begin, std::uint32_t head, const std::vector<float>& q, const std::vector<float>& k,
                                  const float* sink, double scale) {
  std::vector<double> weights;
  double largest = sink != nullptr ? static_cast<double>(*sink) : -1e300;
  for (std::uint32_t p = begin; p <= c.position; ++p) {
    double logit = 0;
    const std::size_t row = (std::size_t{p} * c.shape.n_kv_heads + head / c.shape.group_size()) * c.shape.d_k;
    for (std::uint32_t i = 0; i < c.shape.d_k; ++i) logit += static_cast<double>(q[head * c.shape.d_k + i]) * static_cast<double>(k[row + i]);
    weights.push_back(scale * logit);
    largest = std::max(largest, weights.back());
  }
  double sum = sink != nullptr ? std::exp(static_cast<double>(*sink) - largest) : 0.0;
  for (double& w : weights) sum += w = std::exp(w - largest);
  for (double& w : weights) w /= sum;
  return weights;
}

class Exact : public ::testing::TestWithParam<Query> {};

TEST_P(Exact, EqualsTheNaiveLoop) {
  const Query& c = GetParam();
  const ModelShape& m = c.shape;
  const auto source = make_qkv_generator({.seed = 5}, m);
  const LayerId layer(1);
  const RequestId request(9);
  std::vector<float> q(std::size_t{m.n_heads} * m.d_k), k((std::size_t{c.position} + 1) * m.n_kv_heads * m.d_k),
      v((std::size_t{c.position} + 1) * m.n_kv_heads * m.d_v);
  source->queries(layer, request, c.position, c.position + 1, {}, q.data());
  source->keys_values(layer, request, 0, c.position + 1, {}, k.data(), v.data());
  std::vector<float> sinks(m.n_heads);
  source->sink_logits(layer, sinks.data());
  ExactQuery query{layer, c.layer, request, c.position, q.data(), c.layer.sinks ? sinks.data() : nullptr, 0.11, nullptr, 0};
  const ExactResult result = exact_attention(*source, m, query);

  const std::uint32_t window_begin =
      c.layer.attention == AttentionKind::window && c.position >= c.layer.window_tokens ? c.position + 1 - c.layer.window_tokens : 0;
  ASSERT_EQ(query.begin(), window_begin);
  const std::uint32_t n = c.position + 1 - window_begin;
  std::vector<std::uint32_t> read;
  for (std::uint32_t p = window_begin; p <= c.position; p += 3) read.push_back(p);
  double mass = 0, kl = 0, recall = 0;
  std::vector<float> damaged(result.o.begin(), result.o.end());
  for (std::uint32_t h = 0; h < m.n_heads; ++h) {
    const auto weights = naive_weights(c, window_begin, h, q, k, query.sinks != nullptr ? &sinks[h] : nullptr, 0.11);
    for (std::uint32_t i = 0; i < n; ++i) ASSERT_NEAR(result.weights[std::size_t{h} * n + i], weights[i], 1e-12);
    for (std::uint32_t d = 0; d < m.d_v; ++d) {
      double o = 0;
      for (std::uint32_t i = 0; i < n; ++i) {
        const std::size_t row = std::size_t{window_begin + i} * m.n_kv_heads + h / m.group_size();
        o += weights[i] * static_cast<double>(m.mla() ? k[row * m.d_k + d] : v[row * m.d_v + d]);
      }
      ASSERT_NEAR(result.o[std::size_t{h} * m.d_v + d], o, 1e-11);
    }
    double kept = 0;
    for (std::uint32_t i = 0; i < n; i += 3) kept += weights[i];
    kept /= std::accumulate(weights.begin(), weights.end(), 0.0);
    mass += kept / m.n_heads;
    kl -= std::log(kept) / m.n_heads;
    std::vector<std::uint32_t> order(n);
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return weights[a] > weights[b]; });
    for (std::uint32_t i = 0; i < 5; ++i) recall += (order[i] % 3 == 0 ? 0.2 : 0.0) / m.n_heads;
  }
  damaged[0] += 0.5F;
  const HeadReads reads[] = {{0, m.n_heads, read}};
  const Fidelity f = compare_with_exact(result, m, window_begin, reads, damaged.data(), 5);
  EXPECT_NEAR(f.mass_kept, mass, 1e-12);
  EXPECT_NEAR(f.kl, kl, 1e-10);
  EXPECT_NEAR(f.topk_recall, recall, 1e-12);
  EXPECT_NEAR(f.max_abs_err, 0.5, 1e-6);
  double norm = 0;
  for (const double x : result.o) norm += x * x;
  EXPECT_NEAR(f.out_err, 0.5 / std::sqrt(norm), 1e-6);
  EXPECT_LT(f.cosine, 1.0);
}

TEST_P(Exact, OfSeveralQueriesIsThatOfEach) {
  const Query& c = GetParam();
  const ModelShape& m = c.shape;
  const auto source = make_qkv_generator({.seed = 5}, m);
  std::vector<float> sinks(m.n_heads);
  source->sink_logits(LayerId(1), sinks.data());
  std::vector<std::vector<float>> q;
  std::vector<ExactQuery> queries;
  for (const std::uint32_t position : {c.position, c.position / 2, c.position - 1, 0U, c.position - c.position / 20, c.position / 16 * 16}) {
    q.emplace_back(std::size_t{m.n_heads} * m.d_k);
    source->queries(LayerId(1), RequestId(9), position, position + 1, {}, q.back().data());
    queries.push_back({LayerId(1), c.layer, RequestId(9), position, q.back().data(), c.layer.sinks ? sinks.data() : nullptr, 0.11, nullptr, 0});
  }
  const std::vector<ExactResult> together = exact_attention(*source, m, queries, 2);
  ASSERT_EQ(together.size(), queries.size());
  for (std::size_t i = 0; i < queries.size(); ++i) {
    const ExactResult alone = exact_attention(*source, m, queries[i]);
    EXPECT_EQ(together[i].o, alone.o) << queries[i].position;
    EXPECT_EQ(together[i].weights, alone.weights) << queries[i].position;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Exact,
                         ::testing::Values(Query{test::gqa_shape(6, 2, 32), {}, 700}, Query{test::gqa_shape(2, 2, 64), {}, 5},
                                           Query{test::mla_shape(3, 64, 16), {}, 300},
                                           Query{test::gqa_shape(4, 1, 32), {AttentionKind::window, 128, true, true}, 600},
                                           Query{test::gqa_shape(4, 4, 32), {AttentionKind::full, 0, true, true}, 255}));

}  // namespace
}  // namespace moekv
