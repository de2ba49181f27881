// Properties that hold for every eviction rule, and rules that must agree (eviction.md section 9).
#include <gtest/gtest.h>

#include "support/evict_world.hpp"

namespace moekv {
namespace {

using testing::EveryEvictRule;
using testing::random_row;
using testing::Set;
using testing::some_positions;
using testing::World;

/// The residents of every step of two worlds are equal. Returns what was evicted.
std::size_t expect_equal(World& a, World& b, std::uint32_t steps) {
  std::size_t evicted = 0;
  for (std::uint32_t t = 1; t <= steps; ++t) {
    for (World* w : {&a, &b}) w->access(some_positions(t));
    const Set live = a.step(t, random_row(5, t, t));
    EXPECT_EQ(b.step(t, random_row(5, t, t)), live) << "step " << t;
    if (::testing::Test::HasFailure()) return evicted;
    evicted += a.evicted().size();
  }
  return evicted;
}

TEST_P(EveryEvictRule, NumbersOfPagesDoNotMatter) {
  for (const EvictUnit unit : {EvictUnit::token, EvictUnit::page}) {
    if (unit == EvictUnit::token && !GetParam().has_tokens) continue;
    const EvictRule& rule = GetParam().small;
    World world(rule, 20, {2, 4}, 4, unit), scrambled(rule, 20, {2, 4}, 4, unit);
    scrambled.scramble(40);
    const std::size_t evicted = expect_equal(world, scrambled, 80);
    EXPECT_EQ(evicted > 0, GetParam().chooses);
  }
}

TEST_P(EveryEvictRule, WhatFitsStays) {
  for (const EvictUnit unit : {EvictUnit::token, EvictUnit::page}) {
    if (unit == EvictUnit::token && !GetParam().has_tokens) continue;
    World world(GetParam().small, 60, {2, 4}, 4, unit);
    for (std::uint32_t t = 1; t <= 60; ++t) {
      world.access(some_positions(t));
      ASSERT_EQ(world.step(t, random_row(5, t, t)).size(), t);
    }
    EXPECT_EQ(world.counts().evictions, 0);
    EXPECT_EQ(world.counts().steps_under_pressure, 0);
  }
}

TEST_P(EveryEvictRule, PagesOfOneEntryAreTokens) {
  if (!GetParam().has_tokens) GTEST_SKIP() << "has no tokens";
  const EvictRule& rule = GetParam().small;
  World tokens(rule, 17, {1, 3}, 1, EvictUnit::token), pages(rule, 17, {1, 3}, 1, EvictUnit::page);
  const std::size_t evicted = expect_equal(tokens, pages, 80);
  EXPECT_EQ(evicted > 0, GetParam().chooses);
}

TEST(EvictProperty, DecayOfOneIsTheSumAndOfZeroTheLastAttention) {
  evict::H2oDecay keeps_all, forgets;
  keeps_all.gamma = 1;
  forgets.gamma = 0;
  World decay(keeps_all, 17, {1, 3}, 4, EvictUnit::token), sum(evict::H2oSum{}, 17, {1, 3}, 4, EvictUnit::token);
  EXPECT_GT(expect_equal(decay, sum, 80), 0U);
  World last(forgets, 17, {1, 3}, 4, EvictUnit::token), tova(evict::Tova{}, 17, {1, 3}, 4, EvictUnit::token);
  EXPECT_GT(expect_equal(last, tova, 80), 0U);
}

TEST(EvictProperty, WithoutRoomForHeavyHittersH2oIsAWindow) {
  World h2o(evict::H2oSum{}, 12, {0, 12}, 4, EvictUnit::token);
  for (std::uint32_t t = 1; t <= 60; ++t) {
    Set window;
    for (std::uint32_t p = t > 12 ? t - 12 : 0; p < t; ++p) window.insert(p);
    ASSERT_EQ(h2o.step(t, random_row(5, t, t)), window);
  }
}

/// Scores uniform in [0, 1]: a threshold theta lets 1 - theta of the lookups hit.
float settled(evict::ControlSign sign, float& eta) {
  evict::ThresholdAdaptive rule;
  rule.gamma = 0.1F;
  rule.sign = sign;
  evict::Control control;
  for (int i = 0; i < 400; ++i) {
    control.lookups = 1000;
    control.hits = static_cast<std::uint64_t>(1000.0F * (1.0F - rule.threshold(control)) + 0.5F);
    rule.adapt(control);
  }
  eta = 1.0F - rule.threshold(control);
  return rule.threshold(control);
}

TEST(EvictProperty, ThePapersControllerRunsAwayAndTheCorrectedOneSettles) {
  float eta = 0;
  EXPECT_EQ(settled(evict::ControlSign::paper, eta), 1.0F);
  EXPECT_EQ(eta, 0.0F);
  EXPECT_NEAR(settled(evict::ControlSign::corrected, eta), 0.1F, 0.01F);
  EXPECT_NEAR(eta, 0.9F, 0.01F);
}

}  // namespace
}  // namespace moekv
