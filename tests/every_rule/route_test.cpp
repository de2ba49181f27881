// What every routing rule owes its callers: k distinct valid experts, finite weights, determinism, no writes outside its slots.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <type_traits>
#include <vector>

#include "core/rng.hpp"
#include "rules/route/catalogue.hpp"
#include "rules/route/group.hpp"

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

/// Seeded state of one layer, or the even one that a run begins with.
struct State {
  std::vector<float> values;
  route::LayerState view;
  State(std::uint32_t n_experts, bool even) : values(3 * n_experts + 2 * route::max_arms + 1) {
    float* at = values.data();
    view = {at, at + n_experts, at + 2 * n_experts, at + 3 * n_experts, at + 3 * n_experts + route::max_arms, at + 3 * n_experts + 2 * route::max_arms, 0};
    for (std::uint32_t e = 0; e < n_experts; ++e) {
      const Draw4 d = draw4(13, Stream::probe, e, 0, 0);
      view.load[e] = even ? 1.0F : 2.0F * uniform_float(d.v[0]);
      if (even) continue;
      view.miss[e] = static_cast<float>(d.v[1] % 50);
      view.bias[e] = uniform_float(d.v[2]) - 0.5F;
    }
  }
};

/// The choices of `n` tokens of one home rank, with a guard element behind each array.
struct Chosen {
  std::vector<std::uint16_t> ids;
  std::vector<float> weights;
  template <class Rule>
  Chosen(const Rule& rule, const route::Geometry& g, const std::vector<route::TokenView>& views)
      : ids(views.size() * g.top_k + 1, 12345), weights(ids.size(), -1.0F) {
    std::vector<float> floats(route::scratch_floats(g.n_experts, views.size()) + 1, -7.0F);
    std::vector<std::uint32_t> words(route::scratch_words(g.n_experts, views.size()) + 1, 7777U);
    route::choose_all(rule, g, views.data(), static_cast<std::uint32_t>(views.size()), {ids.data(), weights.data()}, {floats.data(), words.data()});
    EXPECT_EQ(ids.back(), 12345);
    EXPECT_EQ(weights.back(), -1.0F);
    EXPECT_EQ(floats.back(), -7.0F);
    EXPECT_EQ(words.back(), 7777U);
  }
};

std::vector<Token> make_tokens(Shape s, std::uint32_t n, const State& state) {
  std::vector<Token> tokens;
  tokens.reserve(n);
  for (std::uint32_t t = 0; t < n; ++t) {
    tokens.emplace_back(s, 2, t);
    tokens.back().view.state = &state.view;
    tokens.back().view.prefill = t % 4 != 3;
  }
  return tokens;
}
std::vector<route::TokenView> views_of(const std::vector<Token>& tokens) {
  std::vector<route::TokenView> views;
  for (const Token& t : tokens) views.push_back(t.view);
  return views;
}

TYPED_TEST(EveryRouteRule, ChoosesDistinctExpertsWithFiniteWeights) {
  for (const Shape s : shapes) {
    for (const bool renormalise : {false, true}) {
      for (const auto f : {ScoreFunction::softmax, ScoreFunction::sigmoid, ScoreFunction::sqrtsoftplus}) {
        const auto g = geometry(s, f, ScoreOrder::pre, renormalise);
        if (refusal(TypeParam{}, g) != nullptr) continue;
        const State state(s.n_experts, renormalise);
        const std::vector<Token> tokens = make_tokens(s, 20, state);
        const Chosen c(TypeParam{}, g, views_of(tokens));
        for (std::uint32_t t = 0; t < 20; ++t) {
          std::set<std::uint16_t> distinct;
          std::uint32_t present = 0;
          for (std::uint32_t i = t * s.top_k; i < (t + 1) * s.top_k; ++i) {
            ASSERT_TRUE(std::isfinite(c.weights[i]) && c.weights[i] >= 0.0F) << c.weights[i];
            if (c.ids[i] == ExpertId::invalid) {
              ASSERT_EQ(c.weights[i], 0.0F);
              continue;
            }
            ASSERT_EQ(present, i - t * s.top_k) << "absent slots come last";
            ASSERT_LT(c.ids[i], s.n_experts);
            ASSERT_TRUE(distinct.insert(c.ids[i]).second);
            present += 1;
          }
          if (!route::ChoosesByGroup<TypeParam>) {
            ASSERT_EQ(present, s.top_k) << s.n_experts;
          }
        }
      }
    }
  }
}

TYPED_TEST(EveryRouteRule, IsDeterministicAndKeyedByTheToken) {
  const Shape s{64, 6};
  const auto g = geometry(s, ScoreFunction::softmax, ScoreOrder::post, true);
  const State state(s.n_experts, false);
  const std::vector<Token> tokens = make_tokens(s, 40, state);
  const Chosen a(TypeParam{}, g, views_of(tokens)), b(TypeParam{}, g, views_of(tokens));
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_EQ(a.weights, b.weights);
  std::set<std::vector<std::uint16_t>> seen;
  for (std::uint32_t t = 0; t < 40; ++t) seen.insert({a.ids.begin() + t * 6, a.ids.begin() + (t + 1) * 6});
  EXPECT_GT(seen.size(), 10U);
}

TYPED_TEST(EveryRouteRule, StateStaysFiniteAndFollowsTheCounts) {
  if constexpr (requires { &TypeParam::update; }) {
    const Shape s{60, 4};
    const auto g = geometry(s, ScoreFunction::softmax, ScoreOrder::post, true);
    State state(s.n_experts, true);
    const State before = state;
    std::vector<std::int64_t> load(s.n_experts), missed(s.n_experts);
    for (std::uint32_t step = 0; step < 500; ++step) {
      for (std::uint32_t e = 0; e < s.n_experts; ++e) {
        load[e] = step % 7 == 3 ? 0 : draw4(5, Stream::probe, step, e, 0).v[0] % (e < 3 ? 4000 : 9);
        missed[e] = e < 3 ? 5 : 0;
      }
      TypeParam{}.update(g, {load.data(), missed.data(), 100, 5000, step + 1, 2}, state.view);
      for (const float x : state.values) ASSERT_TRUE(std::isfinite(x));
    }
    EXPECT_NE(state.values, before.values);
    const std::vector<Token> tokens = make_tokens(s, 400, state);
    const Chosen biased(TypeParam{}, g, views_of(tokens));
    State even(s.n_experts, true);
    const std::vector<Token> plain_tokens = make_tokens(s, 400, even);
    const Chosen plain(TypeParam{}, g, views_of(plain_tokens));
    const auto hot = [](const Chosen& c) { return std::count_if(c.ids.begin(), c.ids.end(), [](std::uint16_t e) { return e < 3; }); };
    EXPECT_LE(hot(biased), hot(plain)) << "experts with most load and misses are chosen no more than before";
  }
}

}  // namespace
}  // namespace moekv
