// Budget allocators: exact sums, and each against a slow count of its own.
#include "engine/allocate.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <span>

#include "core/error.hpp"
#include "core/rng.hpp"
#include "engine/head_table.hpp"
#include "io/hdf5.hpp"
#include "support/temp_dir.hpp"

namespace moekv {
namespace {

using allocate::Request;
using allocate::Shares;

std::uint64_t sum(const Shares& s) { return std::accumulate(s.begin(), s.end(), std::uint64_t{0}); }

/// Numbers from (seed, counter).
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : seed_(seed) {}
  std::uint64_t below(std::uint64_t n) { return hash_words(seed_, 31, ++at_) % n; }
  double real() { return static_cast<double>(below(1U << 20)) / (1U << 20); }

 private:
  std::uint64_t seed_, at_ = 0;
};

Request random_request(Draw& draw, bool weighted) {
  Request r;
  const std::size_t n = 1 + draw.below(9);
  for (std::size_t g = 0; g < n; ++g) {
    auto& row = r.scores.emplace_back();
    const std::size_t units = 1 + draw.below(40);
    for (std::size_t u = 0; u < units; ++u) row.push_back(draw.below(4) == 0 ? 0.5 : draw.real());
    if (weighted) {
      auto& w = r.weights.emplace_back();
      for (std::size_t u = 0; u < units; ++u) w.push_back(static_cast<double>(1 + draw.below(64)));
    }
    r.held.push_back(units);
  }
  return r;
}

template <class Rule>
Rule random_rule(Draw& draw) {
  Rule rule;
  if constexpr (requires { rule.beta; }) rule.beta = 1 + 30 * draw.real();
  if constexpr (requires { rule.alpha; }) rule.alpha = draw.real();
  if constexpr (requires { rule.floor; }) rule.floor = draw.real();
  if constexpr (requires { rule.sink; })
    rule.sink = static_cast<std::uint32_t>(draw.below(20)), rule.recent = static_cast<std::uint32_t>(draw.below(40));
  return rule;
}

template <class Variant>
struct AsTypes;
template <class... Rules>
struct AsTypes<std::variant<Rules...>> {
  using type = ::testing::Types<Rules...>;
};
template <class Rule>
class EveryAllocator : public ::testing::Test {};
TYPED_TEST_SUITE(EveryAllocator, AsTypes<Allocator>::type);

TYPED_TEST(EveryAllocator, SumsExactlyAndKeepsWhatIsProtected) {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    Draw draw(seed);
    const Request r = random_request(draw, seed % 3 == 0);
    const auto rule = random_rule<TypeParam>(draw);
    Shares shares, fixed;
    for (std::size_t g = 0; g < r.n_groups(); ++g) {
      shares.push_back(seed % 5 == 0 ? draw.below(1ULL << 40) : draw.below(60));
      fixed.push_back(draw.below(12));
    }
    const Shares made = capacities(rule, r, shares, fixed);
    ASSERT_EQ(sum(made), sum(shares)) << rule.name << " seed " << seed;
    if (sum(fixed) >= sum(shares)) {
      ASSERT_EQ(made, shares);
      continue;
    }
    for (std::size_t g = 0; g < made.size(); ++g) ASSERT_GE(made[g], fixed[g]) << rule.name << " seed " << seed;
  }
}

/// How many units of each group have fewer than `total` units before them, where a better score, then a lower group, then a lower unit comes first.
std::vector<double> counted(const Request& r, std::uint64_t total) {
  std::vector<double> out(r.n_groups(), 0.0);
  for (std::size_t g = 0; g < r.n_groups(); ++g) {
    for (std::size_t u = 0; u < r.scores[g].size(); ++u) {
      std::uint64_t before = 0;
      for (std::size_t h = 0; h < r.n_groups(); ++h) {
        for (std::size_t v = 0; v < r.scores[h].size(); ++v) {
          const double mine = r.scores[g][u], other = r.scores[h][v];
          before += other > mine || (other == mine && std::pair(h, v) < std::pair(g, u)) ? 1 : 0;
        }
      }
      out[g] += before < total ? 1 : 0;
    }
  }
  return out;
}

TEST(Ada, IsTheJointTopWithAPartForAll) {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    Draw draw(seed);
    Request r = random_request(draw, false);
    std::uint64_t units = 0;
    for (const auto& row : r.scores) units += row.size();
    r.total = 1 + draw.below(units);
    const allocate::Ada ada{draw.real()};
    const auto best = counted(r, r.total);
    const Shares made = ada.capacity(r);
    std::vector<double> wanted, rest;
    for (const double b : best) wanted.push_back((1 - ada.alpha) * b + ada.alpha * static_cast<double>(r.total) / static_cast<double>(best.size()));
    ASSERT_EQ(sum(made), r.total);
    double least_up = 2, most_down = -1;  // remainders of those rounded up and down
    for (std::size_t g = 0; g < made.size(); ++g) {
      const double floor = std::floor(wanted[g] + 1e-9), remainder = wanted[g] - floor;
      ASSERT_TRUE(static_cast<double>(made[g]) == floor || static_cast<double>(made[g]) == floor + 1) << "seed " << seed;
      if (static_cast<double>(made[g]) == floor) most_down = std::max(most_down, remainder);
      if (static_cast<double>(made[g]) > floor) least_up = std::min(least_up, remainder);
    }
    ASSERT_GE(least_up + 1e-6, most_down) << "seed " << seed;
  }
}

/// Best sum of scores of `total` units of which every group has at least `sure`, by trying every division.
double best_sum(const std::vector<std::vector<double>>& sorted, std::size_t g, std::uint64_t left, std::uint64_t sure) {
  if (g == sorted.size()) return left == 0 ? 0.0 : -1e300;
  double best = -1e300, own = 0;
  for (std::uint64_t n = 0; n <= std::min<std::uint64_t>(left, sorted[g].size()); ++n) {
    if (n > 0) own += sorted[g][n - 1];
    if (n >= std::min<std::uint64_t>(sure, sorted[g].size())) best = std::max(best, own + best_sum(sorted, g + 1, left - n, sure));
  }
  return best;
}

TEST(Pooled, KeepsTheMostOfAllDivisionsAboveTheFloor) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Draw draw(seed);
    Request r;
    std::uint64_t units = 0;
    for (std::size_t g = 0; g < 1 + seed % 4; ++g) {
      auto& row = r.scores.emplace_back(6);
      for (double& s : row) s = draw.real();
      units += row.size();
    }
    r.total = 1 + draw.below(units);
    const allocate::Pooled pooled{allocate::Over::heads, seed % 2 == 0 ? 0.0 : draw.real()};
    const Shares made = pooled.capacity(r);
    auto sorted = r.scores;
    for (auto& row : sorted) std::sort(row.begin(), row.end(), std::greater<>());
    double kept = 0;
    for (std::size_t g = 0; g < made.size(); ++g) {
      for (std::uint64_t u = 0; u < made[g]; ++u) kept += sorted[g].at(u);
    }
    ASSERT_NEAR(kept, best_sum(sorted, 0, r.total, static_cast<std::uint64_t>(std::floor(pooled.floor * r.mean() + 1e-9))), 1e-9) << "seed " << seed;
  }
}

TEST(Winners, EqualUnitsGoToTheLowestGroup) {
  Request r{.scores = {{0.5, 0.9, 0.5}, {0.5, 0.5}, {0.5}}, .weights = {{2, 1, 1}, {3, 2}, {4}}, .held = {}, .total = 6};
  EXPECT_EQ(winners(r), (std::vector<double>{4, 2, 0}));  // 1 to the best; of the other 5 three fit group 0 and two group 1
  r.total = 9;
  EXPECT_EQ(winners(r), (std::vector<double>{4, 5, 0}));
  EXPECT_EQ(winners(r, 1.0), (std::vector<double>{3, 3, 3}));  // each its mean share first
  r.total = 10;
  EXPECT_EQ(winners(r, 1.0), (std::vector<double>{4, 3, 3}));
  r.scores[2] = {0.6};
  EXPECT_EQ(winners(r), (std::vector<double>{4, 2, 4}));
}

/// Lists hand over their units as they lie in the store, so the order among equals must not matter: neither of pages of unequal size.
TEST(Winners, OrderOfAGroupsUnitsIsNothing) {
  std::size_t moved = 0;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    Draw draw(seed);
    Request r = random_request(draw, seed % 2 == 0);
    for (auto& row : r.scores) {
      for (double& s : row) s = std::floor(4 * s) / 4;  // many ties
    }
    r.total = 1 + draw.below(200);
    Request shuffled = r;
    for (std::size_t g = 0; g < r.n_groups(); ++g) {
      for (std::size_t u = r.scores[g].size(); u > 1; --u) {
        const std::size_t other = draw.below(u);
        std::swap(shuffled.scores[g][u - 1], shuffled.scores[g][other]);
        if (!r.weights.empty()) std::swap(shuffled.weights[g][u - 1], shuffled.weights[g][other]);
      }
    }
    moved += shuffled.scores != r.scores ? 1 : 0;
    for (const double floor : {0.0, 0.4, 1.0}) ASSERT_EQ(winners(r, floor), winners(shuffled, floor)) << "seed " << seed;
  }
  EXPECT_GT(moved, 400U);
}

TEST(Pyramid, FallsAndHasThePublishedEnds) {
  for (std::uint64_t layers = 2; layers < 60; ++layers) {
    Request r;
    r.scores.assign(layers, {0.0});
    r.total = layers * 1000 + layers / 2;
    const Shares made = allocate::Pyramid{20}.capacity(r);
    EXPECT_TRUE(std::is_sorted(made.rbegin(), made.rend())) << layers;
    EXPECT_NEAR(static_cast<double>(made.back()), r.mean() / 20, 1);
    EXPECT_NEAR(static_cast<double>(made.front()), 2 * r.mean() - r.mean() / 20, 1);
  }
}

TEST(Duo, ClassesAsManyAsIfNoTwoGatesWereEqual) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Draw draw(seed);
    std::vector<double> gates(1 + draw.below(30)), apart;
    for (double& g : gates) g = static_cast<double>(draw.below(5)) / 4;
    for (std::size_t i = 0; i < gates.size(); ++i) apart.push_back(gates[i] - 1e-6 * static_cast<double>(i));
    const allocate::Duo duo{static_cast<double>(draw.below(11)) / 10};
    const std::vector<bool> full = duo.full(gates);
    const double threshold = duo.threshold(apart);
    for (std::size_t i = 0; i < gates.size(); ++i) ASSERT_EQ(full[i], apart[i] >= threshold - 1e-12) << "seed " << seed << " gate " << i;
  }
}

TEST(Cake, PreferencesAreProductsOfRoots) {
  const allocate::Cake cake{1.6, 0.6};
  const std::vector<double> entropy{30, 12, 55, 0}, variance{0.02, 0.4, 1e-9, 1};
  const auto p = cake.preferences(entropy, variance);
  for (std::size_t l = 0; l < 3; ++l) {
    const auto exact = [&](std::size_t i) { return std::pow(entropy[i], 1 / 1.6) * std::pow(variance[i], 1 / 0.6); };
    EXPECT_NEAR(p[l], exact(l) / exact(1), 1e-6);
  }
  EXPECT_EQ(p[3], 0.0);
}

class HeadTables : public ::testing::Test {
 protected:
  std::string write(const std::string& text) {
    std::string path = folder_.file("table.csv");
    std::ofstream(path) << text;
    return path;
  }
  static std::string refusal(const std::string& path) {
    try {
      (void)read_head_table(path, "gates", 2, 3);
    } catch (const UserError& error) {
      return error.what();
    }
    return "accepted";
  }
  TempDir folder_;
};

TEST_F(HeadTables, TextAndHdf5HoldTheSame) {
  const std::vector<double> values{0.5, 0, 1, 0.25, 1, 0.125};
  EXPECT_EQ(read_head_table(write("# gates\n0.5, 0, 1\n\n0.25\t1\t0.125\n"), "gates", 2, 3), values);
  const std::string path = folder_.file("table.h5");
  {
    h5::File file = h5::File::create(path);
    file.write("gates", std::span<const double>(values), h5::Dims{2, 3});
  }
  EXPECT_EQ(read_head_table(path, "gates", 2, 3), values);
  EXPECT_THAT(refusal(path), ::testing::StrEq("accepted"));
}

TEST_F(HeadTables, OthersAreRefused) {
  using ::testing::HasSubstr;
  EXPECT_THAT(refusal(write("1 2 3\n")), HasSubstr("has 1 rows, expected 2 rows of 3"));
  EXPECT_THAT(refusal(write("1 2 3\n1 2\n")), HasSubstr("table.csv:2"));
  EXPECT_THAT(refusal(write("1 2 3\n1 2 x\n")), HasSubstr("'x' is not a number"));
  EXPECT_THAT(refusal(write("1 2 3\n1 2 -3\n")), HasSubstr("-3 is not among gates"));
  EXPECT_THAT(refusal(write("1 2 3\n1 2 nan\n")), HasSubstr("is not among gates"));
  EXPECT_THAT(refusal(write("0 0 0\n0 0 0\n")), HasSubstr("no value of gates is above 0"));
  EXPECT_THAT(refusal(folder_.file("none")), HasSubstr("cannot be read"));
}

}  // namespace
}  // namespace moekv
