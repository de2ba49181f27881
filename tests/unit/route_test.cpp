// The routing rules of the first set against published vectors and an independent slow top-k in double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "core/rng.hpp"
#include "rules/route/catalogue.hpp"

namespace moekv {
namespace {

struct Chosen {
  std::vector<std::uint16_t> ids;
  std::vector<float> weights;
};

GateShape gate_of(ScoreFunction f, ScoreOrder order, bool renormalise, float scale) {
  GateShape gate;
  gate.score = f;
  gate.order = order;
  gate.renormalise = renormalise;
  gate.scale = scale;
  return gate;
}

template <class Rule>
Chosen choose(const Rule& rule, const GateShape& gate, const std::vector<float>& z, std::uint32_t k, std::uint32_t position = 0) {
  Chosen c{std::vector<std::uint16_t>(k), std::vector<float>(k)};
  rule.choose({static_cast<std::uint32_t>(z.size()), k, 5, gate}, {1, position, 0, z.data()}, {c.ids.data(), c.weights.data()});
  return c;
}

void expect_weights(const Chosen& c, const std::vector<double>& expected) {
  ASSERT_EQ(c.weights.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(c.weights[i], expected[i], 1e-6) << i;
}

const std::vector<float> z4 = {2, 1, 0, -1};

TEST(Topk, PublishedVectors) {
  const auto pre = choose(route::Topk{}, gate_of(ScoreFunction::softmax, ScoreOrder::pre, false, 1), z4, 2);
  EXPECT_EQ(pre.ids, (std::vector<std::uint16_t>{0, 1}));
  expect_weights(pre, {.643914, .236883});
  expect_weights(choose(route::Topk{}, gate_of(ScoreFunction::softmax, ScoreOrder::pre, true, 1), z4, 2), {.731059, .268941});
  expect_weights(choose(route::Topk{}, gate_of(ScoreFunction::softmax, ScoreOrder::post, false, 1), z4, 2), {.731059, .268941});
  expect_weights(choose(route::Topk{}, gate_of(ScoreFunction::sigmoid, ScoreOrder::pre, false, 1), z4, 2), {.880797, .731059});
  expect_weights(choose(route::Topk{}, gate_of(ScoreFunction::sigmoid, ScoreOrder::pre, true, 1), z4, 2), {.546449, .453551});
  expect_weights(choose(route::Topk{}, gate_of(ScoreFunction::sigmoid, ScoreOrder::pre, true, 2.5F), z4, 2), {1.366123, 1.133877});
  expect_weights(choose(route::Topk{}, gate_of(ScoreFunction::sqrtsoftplus, ScoreOrder::pre, false, 1), z4, 4),
                 {1.458399, 1.145976, .832555, .559698});
}

TEST(Topk, BiasDecidesTheChoiceOnly) {  // the second published vector: biased scores choose, unbiased scores weigh
  const float bias[] = {0, 0, .5F, 0};
  std::vector<float> biased(4);
  for (std::size_t e = 0; e < 4; ++e) biased[e] = route::sigmoid(z4[e]) + bias[e];
  std::vector<std::uint16_t> ids(2);
  std::vector<float> weights(2);
  const GateShape gate = gate_of(ScoreFunction::sigmoid, ScoreOrder::pre, true, 2.5F);
  route::select_top(gate, biased.data(), 4, 2, {ids.data(), weights.data()});
  EXPECT_EQ(ids, (std::vector<std::uint16_t>{2, 0}));
  route::weigh(gate, z4.data(), 4, 1.0F, 2, ids.data(), weights.data());
  EXPECT_NEAR(weights[0], .905274, 1e-6);
  EXPECT_NEAR(weights[1], 1.594726, 1e-6);
}

TEST(Topk, OverridesReplacePartsOfTheGate) {
  const GateShape gate = gate_of(ScoreFunction::sigmoid, ScoreOrder::pre, true, 2.5F);
  route::Topk rule;
  rule.score = route::GateScore::softmax;
  rule.renormalise = route::GateSwitch::no;
  rule.scale = 2.0F;
  expect_weights(choose(rule, gate, z4, 2), {2 * .643914, 2 * .236883});
  rule.order = route::GateOrder::post;
  expect_weights(choose(rule, gate, z4, 2), {2 * .731059, 2 * .268941});
  rule.temperature = 0.5F;
  expect_weights(choose(rule, gate, z4, 2), {2 / (1 + std::exp(-2.0)), 2 / (1 + std::exp(2.0))});
}

/// Ids by a full stable sort, weights by the definition, all in double.
std::vector<std::uint16_t> slow_ids(const std::vector<float>& z, std::uint32_t k) {
  std::vector<std::uint16_t> order(z.size());
  std::iota(order.begin(), order.end(), std::uint16_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return z[a] > z[b]; });
  order.resize(k);
  return order;
}

TEST(Topk, EqualsSlowSortIncludingTies) {
  for (std::uint32_t trial = 0; trial < 300; ++trial) {
    const std::uint32_t n_experts = 1 + trial * 3, k = std::min(n_experts, 1 + trial % 22);
    std::vector<float> z(n_experts);
    double all = 0;
    for (std::uint32_t e = 0; e < n_experts; ++e) {
      z[e] = static_cast<float>(draw4(3, Stream::probe, trial, e, 0).v[0] % 40) * 0.2F - 4.0F;
      all += std::exp(static_cast<double>(z[e]));
    }
    const auto c = choose(route::Topk{}, gate_of(ScoreFunction::softmax, ScoreOrder::pre, false, 1), z, k);
    EXPECT_EQ(c.ids, slow_ids(z, k));
    for (std::uint32_t i = 0; i < k; ++i) EXPECT_NEAR(c.weights[i], std::exp(static_cast<double>(z[c.ids[i]])) / all, 1e-6);
  }
}

TEST(Topk, UnlistedExpertsComeLastAndWeighNothing) {
  const float none = -std::numeric_limits<float>::infinity();
  const auto c = choose(route::Topk{}, gate_of(ScoreFunction::softmax, ScoreOrder::post, true, 1), {none, 1, none, std::nanf(""), 2}, 3);
  EXPECT_EQ(c.ids, (std::vector<std::uint16_t>{4, 1, 0}));
  expect_weights(c, {.731059, .268941, 0});
  expect_weights(choose(route::Topk{}, gate_of(ScoreFunction::softmax, ScoreOrder::post, true, 1), {none, none, none}, 2), {.5, .5});
}

TEST(Topk, GroupLimitKeepsTheBestGroups) {
  // Four groups of two. Best single logit is in group 3, best pair sum in group 0.
  const std::vector<float> z = {1.0F, 0.9F, 0.1F, 0.0F, -1, -2, 3.0F, -9.0F};
  GateShape gate = gate_of(ScoreFunction::softmax, ScoreOrder::pre, true, 1);
  gate.n_group = 4;
  gate.topk_group = 1;
  EXPECT_EQ(choose(route::Topk{}, gate, z, 2).ids, (std::vector<std::uint16_t>{6, 7}));
  gate.score = ScoreFunction::sigmoid;
  EXPECT_EQ(choose(route::Topk{}, gate, z, 2).ids, (std::vector<std::uint16_t>{0, 1}));
  gate.topk_group = 2;
  EXPECT_EQ(choose(route::Topk{}, gate, z, 3).ids, (std::vector<std::uint16_t>{0, 1, 2}));
  gate.topk_group = 1;  // fewer experts than slots: the rest is absent
  EXPECT_EQ(choose(route::Topk{}, gate, z, 3).ids, (std::vector<std::uint16_t>{0, 1, ExpertId::invalid}));
}

TEST(TokenEntropy, ChangesNoChoiceEver) {
  for (const std::uint32_t n_group : {1U, 4U}) {
    for (const auto f : {ScoreFunction::softmax, ScoreFunction::sigmoid}) {
      GateShape gate = gate_of(f, ScoreOrder::pre, true, 1);
      gate.n_group = n_group;
      gate.topk_group = std::min(2U, n_group);
      for (std::uint32_t trial = 0; trial < 2000; ++trial) {
        std::vector<float> z(32);  // neighbours one rounding step apart, which a penalty in float would merge
        for (std::uint32_t e = 0; e < 32; ++e) {
          const Draw4 d = draw4(4, Stream::probe, trial, e, 0);
          z[e] = float_from_bits(bits_of(trial % 2 == 0 ? 0.01F : 1.0F) + d.v[0] % 16);
          if (trial % 3 == 0) z[e] += static_cast<float>(d.v[1] % 3);
        }
        EXPECT_EQ(choose(route::TokenEntropy{100.0F}, gate, z, 4).ids, choose(route::Topk{}, gate, z, 4).ids);
      }
    }
  }
}

TEST(Rr, FollowsItsFormula) {
  const std::vector<float> z(10);
  EXPECT_EQ(choose(route::Rr{}, {}, z, 4, 0).ids, (std::vector<std::uint16_t>{0, 1, 2, 3}));
  EXPECT_EQ(choose(route::Rr{}, {}, z, 4, 2).ids, (std::vector<std::uint16_t>{8, 9, 0, 1}));
  const auto late = choose(route::Rr{}, {}, z, 4, 4294967295U);  // t k exceeds 32 bits
  EXPECT_EQ(late.ids.front(), 4294967295ULL * 4 % 10);
}

TEST(Hash, StrideKeepsIdsDistinct) {
  for (std::uint32_t n = 1; n < 70; ++n) {
    for (std::uint32_t k = 1; k <= std::min(n, 22U); ++k) {
      for (const std::uint32_t stride : {0U, 1U, 2U, 8U, 12U, 64U, 65535U}) {
        const auto c = choose(route::Hash{stride}, {}, std::vector<float>(n), k, n);
        EXPECT_EQ(std::set<std::uint16_t>(c.ids.begin(), c.ids.end()).size(), k) << n << " " << stride;
      }
    }
  }
}

TEST(Hash, SpreadsEvenly) {
  std::vector<int> counts(60);
  for (std::uint32_t t = 0; t < 15000; ++t)
    for (const auto id : choose(route::Hash{}, {}, std::vector<float>(60), 4, t).ids) ++counts[id];
  for (const int n : counts) EXPECT_NEAR(n, 1000, 6 * std::sqrt(1000.0));
}

}  // namespace
}  // namespace moekv
