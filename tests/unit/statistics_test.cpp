// Statistics against numbers computed by hand.
#include "engine/statistics.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "core/state_stream.hpp"

namespace moekv {
namespace {

TEST(Percentile, IsTheNearestRank) {
  const std::vector<double> ten = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  EXPECT_EQ(percentile(ten, 50), 5);  // ceil(5.0) = 5th
  EXPECT_EQ(percentile(ten, 90), 9);
  EXPECT_EQ(percentile(ten, 95), 10);  // ceil(9.5) = 10th
  EXPECT_EQ(percentile(ten, 99.9), 10);
  EXPECT_EQ(percentile(std::vector<double>{7}, 50), 7);
  EXPECT_EQ(percentile(std::vector<double>{1, 2}, 1), 1);
  EXPECT_TRUE(std::isnan(percentile({}, 50)));
}

TEST(StudentT, IsThatOfTables) {
  for (const auto& [freedom, quantile] :
       {std::pair(1, 12.7062), {2, 4.3027}, {3, 3.1824}, {4, 2.7764}, {5, 2.5706}, {10, 2.2281}, {29, 2.0452}, {120, 1.9799}})
    EXPECT_NEAR(student_t_975(static_cast<std::size_t>(freedom)), quantile, 1e-4) << freedom;
}

TEST(BootstrapInterval, TwoClustersHaveAnIntervalAndOneHasNone) {
  const std::vector<ClusterSum> two = {{2, 1}, {8, 2}};  // means 2 and 4; all: 10 / 3
  const ConfidenceInterval interval = bootstrap_interval(two, 1000, 1);
  const double wider = 12.7062 * std::sqrt(2.0) / 1.96;
  EXPECT_NEAR(interval.low, 10.0 / 3 - wider * 4 / 3, 1e-2);
  EXPECT_NEAR(interval.high, 10.0 / 3 + wider * 2 / 3, 1e-2);
  EXPECT_TRUE(std::isnan(bootstrap_interval(std::span(two).first(1), 1000, 1).low));
  EXPECT_TRUE(std::isnan(bootstrap_interval({}, 1000, 1).high));
}

TEST(Moments, OfThePopulation) {
  const Moments m = moments(std::vector<double>{2, 4, 4, 4, 5, 5, 7, 9});
  EXPECT_EQ(m.n, 8);
  EXPECT_EQ(m.sum, 40);
  EXPECT_EQ(m.mean, 5);
  EXPECT_EQ(m.std, 2);
  EXPECT_EQ(m.min, 2);
  EXPECT_EQ(m.max, 9);
  EXPECT_TRUE(std::isnan(moments({}).mean));
}

TEST(Balance, OfFourLoads) {
  const Balance b = balance(std::vector<double>{4, 0, 3, 1});
  EXPECT_EQ(b.entities, 4);
  EXPECT_EQ(b.loaded, 3);
  EXPECT_EQ(b.max, 4);
  EXPECT_EQ(b.mean, 2);
  EXPECT_EQ(b.min, 0);
  EXPECT_DOUBLE_EQ(b.variance, 2.5);  // (4 + 4 + 1 + 1) / 4
  EXPECT_DOUBLE_EQ(b.gini, 0.4375);   // pairs |xi - xj|: 4 1 3 3 1 2, twice 28; / (2 * 16 * 2)
  EXPECT_NEAR(b.entropy, 0.5 * std::log(2) + 0.375 * std::log(8.0 / 3) + 0.125 * std::log(8), 1e-15);
  EXPECT_EQ(b.sum_of_squares, 26);
}

TEST(Balance, EdgeCases) {
  EXPECT_TRUE(std::isnan(balance(std::vector<double>{0, 0}).max));
  EXPECT_EQ(balance(std::vector<double>{0, 0}).entities, 2);
  EXPECT_EQ(balance(std::vector<double>{5}).gini, 0);
  EXPECT_DOUBLE_EQ(balance(std::vector<double>{0, 0, 0, 8}).gini, 0.75);  // 1 - 1/n
  EXPECT_EQ(balance(std::vector<double>{3, 3, 3}).gini, 0);
}

TEST(Drift, BetweenTwoLoads) {
  const std::vector<double> a = {1, 0}, b = {0, 7}, c = {2, 0};
  EXPECT_DOUBLE_EQ(jensen_shannon(a, b), std::log(2));
  EXPECT_EQ(jensen_shannon(a, c), 0);
  EXPECT_TRUE(std::isnan(jensen_shannon(a, std::vector<double>{0, 0})));
  const std::vector<double> d = {9, 8, 1, 1}, e = {9, 1, 8, 1};
  EXPECT_DOUBLE_EQ(jaccard(hottest(d, 2), hottest(e, 2)), 1.0 / 3);
  EXPECT_EQ(jaccard(hottest(d, 2), hottest(d, 2)), 1);
  EXPECT_EQ(hottest(std::vector<double>{1, 1, 1}, 1), std::vector<std::size_t>{0});  // ties by lower index
}

TEST(Skew, ExponentsOfExactLaws) {
  EXPECT_NEAR(zipf_exponent(std::vector<double>{4, 12, 3, 6}), 1, 1e-9);  // 12 / rank
  EXPECT_NEAR(zipf_exponent(std::vector<double>{36, 9, 4}), 2, 1e-9);     // 36 / rank^2
  EXPECT_NEAR(zipf_exponent(std::vector<double>{5, 5, 5}), 0, 1e-9);
  EXPECT_NEAR(zipf_exponent(std::vector<double>{7, 0, 0}), 10, 1e-9);      // steeper than any
  EXPECT_TRUE(std::isnan(zipf_exponent(std::vector<double>{0, 0})));
  std::vector<double> quantiles;  // density x^-1 on [1, 100]: ln x is uniform; x^-2: x = 1 / (1 - u (1 - 1/100))
  for (int i = 0; i <= 1000; ++i) quantiles.push_back(std::exp(i / 1000.0 * std::log(100)));
  EXPECT_NEAR(power_law_exponent(quantiles, 100), 1, 1e-5);
  for (int i = 0; i <= 1000; ++i) quantiles[static_cast<std::size_t>(i)] = 7 / (1 - i / 1000.0 * 0.99);
  EXPECT_NEAR(power_law_exponent(quantiles, 100), 2, 0.01);
  EXPECT_DOUBLE_EQ(hottest_share(std::vector<double>{1, 5, 0, 4}, 2), 0.9);
}

TEST(Matrix, DistanceFromDoublyStochastic) {
  EXPECT_DOUBLE_EQ(stochastic_distance(std::vector<double>{0, 2, 2, 0}, 2), 0);
  EXPECT_DOUBLE_EQ(stochastic_distance(std::vector<double>{0, 3, 1, 0}, 2), 0.5);                     // rows 1.5 .5, columns .5 1.5
  EXPECT_DOUBLE_EQ(stochastic_distance(std::vector<double>{0, 6, 0, 0, 0, 0, 0, 0, 0}, 3), 4.0 / 3);  // rows and columns 3 0 0
  EXPECT_TRUE(std::isnan(stochastic_distance(std::vector<double>(4), 2)));
}

TEST(Sketch, IsExactUpToItsCapAndCloseAfterIt) {
  SampleSketch exact, binned(4);
  for (int i = 1; i <= 1000; ++i) {
    exact.add(i * i);
    binned.add(i * i);
  }
  binned.add(0);
  exact.add(0);
  EXPECT_EQ(exact.percentile_of(50), 500 * 500);  // the 501st of 0, 1, 4, ...
  EXPECT_NEAR(binned.percentile_of(50), 250000, 250000 * SampleSketch::relative_error);
  EXPECT_EQ(binned.percentile_of(0.01), 0);
  EXPECT_EQ(binned.percentile_of(100), 1e6);
  const Moments a = exact.summary(), b = binned.summary();
  EXPECT_EQ(b.n, 1001);
  EXPECT_EQ(a.sum, b.sum);
  EXPECT_NEAR(a.std, b.std, 1e-6 * a.std);
  EXPECT_EQ(b.min, 0);
  EXPECT_EQ(b.max, 1e6);
  EXPECT_TRUE(std::isnan(SampleSketch().summary().mean));
}

TEST(Sketch, PercentilesAreThoseOfTheSortedSamples) {
  std::mt19937_64 random(3);
  const std::vector<double> asked{0.1, 50, 50, 90, 95, 99, 99.9, 100};
  for (const std::size_t n : {1U, 2U, 7U, 100U, 3000U}) {
    SampleSketch sketch;
    std::vector<double> samples;
    for (std::size_t i = 0; i < n; ++i) samples.push_back(static_cast<double>(random() % (n / 2 + 1)));
    for (const double x : samples) sketch.add(x);
    std::sort(samples.begin(), samples.end());
    const std::vector<double> found = sketch.percentiles(asked);
    ASSERT_EQ(found.size(), asked.size());
    for (std::size_t i = 0; i < asked.size(); ++i) EXPECT_EQ(found[i], percentile(samples, asked[i])) << n << ' ' << asked[i];
  }
  SampleSketch binned(4);
  for (int i = 1; i <= 1000; ++i) binned.add(i);
  const std::vector<double> two{50, 99};
  EXPECT_EQ(binned.percentiles(two), (std::vector<double>{binned.percentile_of(50), binned.percentile_of(99)}));
  EXPECT_TRUE(std::isnan(SampleSketch().percentiles(two).back()));
}

TEST(Sketch, GoesOnWhereItWasSaved) {
  for (const std::size_t cap : {4U, 1000U}) {
    SampleSketch through(cap), saved(cap), resumed(cap);
    for (int i = -20; i < 0; ++i) through.add(i * i + 0.5), saved.add(i * i + 0.5);
    StateBuffer state;
    state(saved);
    state.rewind();
    state(resumed);
    EXPECT_TRUE(state.done());
    for (int i = 1; i < 15; ++i) through.add(i * i), resumed.add(i * i);
    const Moments a = through.summary(), b = resumed.summary();
    EXPECT_EQ(a.n, b.n);
    for (double Moments::*number : {&Moments::sum, &Moments::mean, &Moments::std, &Moments::min, &Moments::max}) EXPECT_EQ(a.*number, b.*number);
    for (const double p : {1.0, 50.0, 99.0, 100.0}) EXPECT_EQ(through.percentile_of(p), resumed.percentile_of(p));
  }
}

}  // namespace
}  // namespace moekv
