// What every routing rule owes its callers: k distinct valid experts, finite weights, determinism, no writes outside its slots.
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <type_traits>
#include <vector>

#include "core/rng.hpp"
#include "rules/route/catalogue.hpp"

namespace moekv {
namespace {

template <class Variant>
struct TypesOf;
template <class... Rules>
struct TypesOf<std::variant<Rules...>> {
  using type = ::testing::Types<Rules...>;
};

struct Shape {
  std::uint32_t n_experts, top_k;
};
constexpr Shape shapes[] = {{1, 1}, {8, 2}, {32, 4}, {60, 4}, {64, 6}, {7, 7}, {96, 8}, {288, 8}, {512, 22}, {896, 16}};

/// Inputs of one token: seeded logits (with ties and infinities now and then) and a recorded choice.
struct Token {
  std::vector<float> logits;
  std::vector<std::uint16_t> ids;
  std::vector<float> weights;
  route::TokenView view;

  Token(Shape s, std::uint32_t request, std::uint32_t position) {
    for (std::uint32_t e = 0; e < s.n_experts; ++e) {
      const Draw4 d = draw4(7, Stream::probe, request, position, e);
      logits.push_back(static_cast<float>(d.v[0] % 64) * 0.25F - 8.0F);
      if (position % 5 == 4 && d.v[1] % 3 == 0) logits.back() = -std::numeric_limits<float>::infinity();
    }
    for (std::uint32_t i = 0; i < s.top_k; ++i) {
      ids.push_back(static_cast<std::uint16_t>((position + i) % s.n_experts));
      weights.push_back(1.0F / static_cast<float>(i + 1));
    }
    view = {request, position, 3, logits.data(), ids.data(), weights.data()};
  }
};

route::Geometry geometry(Shape s, ScoreFunction f, ScoreOrder order, bool renormalise) {
  GateShape gate;
  gate.n_experts = s.n_experts;
  gate.top_k = s.top_k;
  gate.score = f;
  gate.order = order;
  gate.renormalise = renormalise;
  return {s.n_experts, s.top_k, 11, gate};
}

template <class Rule>
class EveryRouteRule : public ::testing::Test {};
TYPED_TEST_SUITE(EveryRouteRule, TypesOf<RouteRule>::type);

TYPED_TEST(EveryRouteRule, IsAValueWithAName) {
  static_assert(std::is_trivially_copyable_v<TypeParam>);
  static_assert(!TypeParam::name.empty() && !TypeParam::doc.empty());
}

TYPED_TEST(EveryRouteRule, ChoosesDistinctExpertsWithFiniteWeights) {
  for (const Shape s : shapes) {
    for (const bool renormalise : {false, true}) {
      for (const auto f : {ScoreFunction::softmax, ScoreFunction::sigmoid, ScoreFunction::sqrtsoftplus}) {
        const auto g = geometry(s, f, ScoreOrder::pre, renormalise);
        for (std::uint32_t t = 0; t < 20; ++t) {
          const Token token(s, 2, t);
          std::vector<std::uint16_t> ids(s.top_k + 1, 12345);
          std::vector<float> weights(s.top_k + 1, -1.0F);
          TypeParam{}.choose(g, token.view, {ids.data(), weights.data()});
          const std::set<std::uint16_t> distinct(ids.begin(), ids.end() - 1);
          ASSERT_EQ(distinct.size(), s.top_k) << s.n_experts;
          ASSERT_LT(*distinct.rbegin(), s.n_experts);
          for (std::uint32_t i = 0; i < s.top_k; ++i) ASSERT_TRUE(std::isfinite(weights[i]) && weights[i] >= 0.0F) << weights[i];
          ASSERT_EQ(ids.back(), 12345);
          ASSERT_EQ(weights.back(), -1.0F);
        }
      }
    }
  }
}

TYPED_TEST(EveryRouteRule, IsDeterministicAndKeyedByTheToken) {
  const Shape s{64, 6};
  const auto g = geometry(s, ScoreFunction::softmax, ScoreOrder::post, true);
  std::set<std::vector<std::uint16_t>> seen;
  for (std::uint32_t t = 0; t < 40; ++t) {
    const Token token(s, 1, t);
    std::vector<std::uint16_t> a(s.top_k), b(s.top_k);
    std::vector<float> wa(s.top_k), wb(s.top_k);
    TypeParam{}.choose(g, token.view, {a.data(), wa.data()});
    TypeParam{}.choose(g, token.view, {b.data(), wb.data()});
    EXPECT_EQ(a, b);
    EXPECT_EQ(wa, wb);
    seen.insert(a);
  }
  EXPECT_GT(seen.size(), 10U);
}

}  // namespace
}  // namespace moekv
