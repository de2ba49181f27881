// Paired bootstrap comparisons: intervals of known samples, whole clusters resampled, verdicts; and the effect audit on a made-up table.
#include "results/compare.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/rng.hpp"

namespace moekv {
namespace {

std::vector<PairedValue> values_of(const std::vector<double>& differences, std::size_t per_cluster = 1) {
  std::vector<PairedValue> values;
  for (std::size_t i = 0; i < differences.size(); ++i) values.push_back({10 + differences[i], 10, i / per_cluster});
  return values;
}

TEST(Compare, EqualSidesDoNotDiffer) {
  const Comparison c = compare_values(values_of({0, 0, 0}));
  EXPECT_EQ(c.verdict, Verdict::no_difference);
  EXPECT_EQ(c.low, 0);
  EXPECT_EQ(c.high, 0);
}

TEST(Compare, AConstantDifferenceIsCertain) {
  const Comparison c = compare_values(values_of({2, 2, 2, 2}));
  EXPECT_EQ(c.verdict, Verdict::higher);
  EXPECT_DOUBLE_EQ(c.low, 2);
  EXPECT_DOUBLE_EQ(c.high, 2);
  EXPECT_EQ(compare_values(values_of({-1, -2, -1})).verdict, Verdict::lower);
}

TEST(Compare, AnIntervalThatSpansZeroIsNoDifference) {
  const Comparison c = compare_values(values_of({3, -2, 1, -3, 2}));
  EXPECT_EQ(c.verdict, Verdict::no_difference);
  EXPECT_LT(c.low, 0);
  EXPECT_GT(c.high, 0);
}

TEST(Compare, OneClusterHasNoInterval) {
  const Comparison c = compare_values(values_of({1, 2, 3}, 3));
  EXPECT_EQ(c.verdict, Verdict::undecided);
  EXPECT_TRUE(std::isnan(c.low));
  EXPECT_DOUBLE_EQ(c.difference, 2);
  EXPECT_EQ(compare_values({}).verdict, Verdict::undecided);
}

/// Fifty copies of a difference in one cluster are one observation: the interval is that of the two clusters.
TEST(Compare, ClustersAreTakenWhole) {
  std::vector<double> differences(100, 1.0);
  std::fill(differences.begin() + 50, differences.end(), -1.0);
  const Comparison whole = compare_values(values_of(differences, 50)), single = compare_values(values_of(differences));
  EXPECT_EQ(whole.clusters, 2U);
  EXPECT_LE(whole.low, -1);
  EXPECT_GE(whole.high, 1);
  EXPECT_LT(single.high, 0.3);
}

/// Two samples of one law: a difference is claimed about as often as the interval promises, also with few clusters.
TEST(Compare, FewClustersAreNotTooSure) {
  for (const std::uint64_t n : {2U, 3U, 5U, 10U}) {
    int wrong = 0;
    for (std::uint64_t trial = 0; trial < 300; ++trial) {
      std::vector<double> differences;
      for (std::uint64_t i = 0; i < n; ++i) {
        double x = 0;
        for (std::uint64_t k = 0; k < 12; ++k) x += static_cast<double>(hash_words(6, n, trial, i, k) >> 11) * 0x1p-53;
        differences.push_back(x - 6);
      }
      wrong += compare_values(values_of(differences)).verdict == Verdict::no_difference ? 0 : 1;
    }
    EXPECT_LT(wrong, 300 * 0.11) << n;  // 15 +- 4 are expected; percentiles alone give 48 of five clusters, 150 of two
  }
}

TEST(Compare, WhatIsNotFiniteDecidesNothing) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(compare_values(std::vector<PairedValue>{{infinity, 1, 0}, {2, 1, 1}}).verdict, Verdict::undecided);
  EXPECT_EQ(compare_values(std::vector<PairedValue>{{infinity, infinity, 0}, {2, 2, 1}}).verdict, Verdict::undecided);
}

/// For many independent values the interval is that of the normal law: 1.96 standard errors to each side.
TEST(Compare, WidthIsThatOfTheNormalLaw) {
  std::vector<double> differences;
  double sum = 0, squares = 0;
  for (std::uint64_t i = 0; i < 400; ++i) {
    double x = 0;
    for (std::uint64_t k = 0; k < 12; ++k) x += static_cast<double>(hash_words(5, i, k) >> 11) * 0x1p-53;
    differences.push_back(x - 5.5);
    sum += differences.back();
    squares += differences.back() * differences.back();
  }
  const double mean = sum / 400, error = std::sqrt((squares / 400 - mean * mean) / 400);
  const Comparison c = compare_values(values_of(differences));
  EXPECT_NEAR(c.low, mean - 1.96 * error, 0.1 * error);
  EXPECT_NEAR(c.high, mean + 1.96 * error, 0.1 * error);
  EXPECT_EQ(c.verdict, Verdict::higher);
}

PointColumn column(std::string group, std::string name, std::vector<std::string> texts, std::string claim = "") {
  PointColumn c{std::move(group), std::move(name), "1", std::move(claim), "", false, false, std::move(texts), {}};
  c.numeric = c.group == "metric";
  for (const std::string& text : c.texts) c.numbers.push_back(c.numeric ? std::stod(text) : 0);
  return c;
}

/// Two axes of two values: `a` changes one of two counters, `b` none; a measured metric does not count.
PointTable table() {
  PointTable t;
  t.n_points = 4;
  t.columns = {column("", "status", {"ok", "ok", "ok", "ok"}),
               column("", "label", {"", "", "", ""}),
               column("", "repeat", {"0", "0", "0", "0"}),
               column("", "digest", {"x", "x", "y", "y"}),
               column("setting", "a", {"1", "1", "2", "2"}),
               column("setting", "b", {"p", "q", "p", "q"}),
               column("metric", "hits", {"5", "5", "7", "7"}, "counted"),
               column("metric", "tokens", {"9", "9", "9", "9"}, "counted"),
               column("metric", "time", {"1", "2", "3", "4"}, "measured")};
  return t;
}

TEST(EffectAudit, AnAxisWithoutEffectIsFound) {
  const std::vector<Effect> effects = audit_effects(table());
  ASSERT_EQ(effects.size(), 2U);
  EXPECT_EQ(effects[0].pairs, 2U);
  EXPECT_EQ(effects[0].changed_counters, 1U);
  EXPECT_EQ(effects[0].changed_decisions, 2U);
  EXPECT_FALSE(effects[0].none());
  EXPECT_EQ(effects[1].counters, 2U);
  EXPECT_TRUE(effects[1].none());
}

TEST(EffectAudit, FidelityIsAnEffect) {
  PointTable t = table();
  t.columns.push_back(column("metric", "attn_out_err_mean", {"1", "2", "3", "4"}, "measured"));
  EXPECT_FALSE(audit_effects(t)[1].none());
}

/// Keys that change together, as in `zip`, are judged together.
TEST(EffectAudit, PartnersAreNamed) {
  PointTable t = table();
  t.columns[5].texts = {"p", "p", "q", "q"};
  t.columns[2].texts = {"0", "1", "0", "1"};
  const std::vector<Effect> effects = audit_effects(t);
  for (const Effect& effect : effects) EXPECT_EQ(effect.pairs, 2U);
  EXPECT_EQ(effects[0].also_different, std::vector<std::string>{"b"});
}

/// cases: [{label: base, a: 1}, {a: 2}, {a: 3}] x b: a label is a name of what is set. An included point that sets more is no pair.
TEST(EffectAudit, LabelsAreNoDifference) {
  PointTable t = table();
  t.columns[1].texts = {"base", "base", "", ""};
  EXPECT_EQ(audit_effects(t)[0].pairs, 2U);
  t.n_points = 6;
  for (PointColumn& c : t.columns) {
    for (const std::size_t i : {2, 3}) {
      c.texts.push_back(c.name == "a" ? "3" : c.texts[i]);
      c.numbers.push_back(c.numbers[i]);
    }
  }
  EXPECT_EQ(audit_effects(t)[0].pairs, 4U);
  t.n_points = 7;
  for (PointColumn& c : t.columns) {
    c.texts.push_back(c.name == "label" ? "full" : c.name == "a" ? "4" : c.name == "b" ? "r" : c.texts.front());
    c.numbers.push_back(c.numbers.front());
  }
  EXPECT_EQ(audit_effects(t)[0].pairs, 4U);
}

TEST(EffectAudit, FailedPointsAreNoEvidence) {
  PointTable t = table();
  t.columns[0].texts = {"ok", "failed", "failed", "ok"};
  for (const Effect& effect : audit_effects(t)) {
    EXPECT_EQ(effect.pairs, 0U);
    EXPECT_FALSE(effect.none());
  }
}

}  // namespace
}  // namespace moekv
