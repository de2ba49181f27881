// Trace statistics on traces small enough to count by hand, against brute-force recomputation, and on absent slots and empty requests.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/rng.hpp"
#include "support/array_trace.hpp"
#include "trace/stats.hpp"

namespace moekv {
namespace {

using test::ArrayTrace;

TEST(TraceStats, CountedByHand) {
  // One layer, E 4, k 2, one request of four tokens: {0,1} {1,2} {1,2} {3,0}.
  ArrayTrace trace(4, 2, 1, {4}, {0, 1, 1, 2, 2, 1, 3, 0}, {.6F, .4F, .7F, .3F, .2F, .8F, .9F, .1F});
  const TraceStats s = compute_stats(trace);
  const LayerStats& l = s.layers.at(0);
  EXPECT_EQ(s.n_tokens, 4U);
  EXPECT_DOUBLE_EQ(l.max_over_mean, 1.5);  // loads 2 3 2 1
  EXPECT_DOUBLE_EQ(l.min_over_mean, 0.5);
  EXPECT_DOUBLE_EQ(l.gini, 2.0 * (1 * 1 + 2 * 2 + 3 * 2 + 4 * 3) / (4 * 8) - 5.0 / 4);
  EXPECT_DOUBLE_EQ(l.reuse_lag_1, (1 + 2 + 0) / 6.0);
  EXPECT_DOUBLE_EQ(l.reuse_lag_2, (1 + 0) / 4.0);
  EXPECT_TRUE(std::isnan(l.reuse_lag_4));
  EXPECT_DOUBLE_EQ(l.reuse_uniform, 0.5);
  EXPECT_DOUBLE_EQ(l.reuse_popularity, (4 + 9 + 4 + 1) / 16.0 / 2);
  EXPECT_DOUBLE_EQ(l.reuse_sequence, (2 + 6 + 2 + 0) / (4.0 * 3 * 2));
  EXPECT_DOUBLE_EQ(l.no_overlap, 1.0 / 3);
  EXPECT_DOUBLE_EQ(l.top1_repeat, 1.0 / 3);  // heaviest: 0 1 1 3
  EXPECT_DOUBLE_EQ(l.top1_independent, 6.0 / 16);
  EXPECT_DOUBLE_EQ(l.run_tokens, 8.0 / 5);           // runs: 0, 1 (three tokens), 2 (two tokens), 3, 0
  EXPECT_DOUBLE_EQ(l.reuse_by_rank.at(0), 1.0 / 3);  // heaviest kept: 0 no, 1 yes, 1 no
  EXPECT_DOUBLE_EQ(l.reuse_by_rank.at(1), 2.0 / 3);  // second kept: 1 yes, 2 yes, 2 no
  EXPECT_NEAR(l.weight_by_rank.at(0), (.6 + .7 + .8 + .9) / 4, 1e-6);
  EXPECT_NEAR(l.weight_sum, 1.0, 1e-6);
  // Accesses 0 1 | 1 2 | 2 1 | 3 0 with two slots: LRU hits 1, 2, 1; Belady the same; with one slot 1 and 2 hit.
  EXPECT_DOUBLE_EQ(l.lru_hit_k, 3.0 / 8);
  EXPECT_DOUBLE_EQ(l.lru_hit_quarter, 2.0 / 8);
  EXPECT_DOUBLE_EQ(l.opt_forced_hit_k, 3.0 / 8);
  EXPECT_DOUBLE_EQ(l.lru_hit_2k, 4.0 / 8);
  EXPECT_TRUE(std::isnan(l.lru_hit_3k));             // six slots for four experts
  EXPECT_DOUBLE_EQ(l.srp_4, 2.0 * 7 / (3 * 4 + 8));  // best set {1, 0, 2}
  EXPECT_TRUE(std::isnan(l.next_recall));
  EXPECT_TRUE(std::isnan(l.ep8_64));
}

TEST(TraceStats, BeladyLooksAhead) {
  // k 1, E 4, one slot of floor(E/4) and two of floor(E/2): 0 1 2 0 1 3 0; forced admission with two slots hits 0 and the last 0 only.
  ArrayTrace trace(4, 1, 1, {7}, {0, 1, 2, 0, 1, 3, 0});
  const LayerStats l = compute_stats(trace).layers.at(0);
  EXPECT_DOUBLE_EQ(l.opt_forced_hit_k, 0.0);
  EXPECT_DOUBLE_EQ(l.opt_forced_hit_half, 2.0 / 7);
  EXPECT_DOUBLE_EQ(l.lru_hit_half, 0.0);
}

TEST(TraceStats, NextLayerIsGuessedFromCoOccurrence) {
  // Layer 1 repeats layer 0 shifted by one expert: perfectly predictable, independent of popularity.
  std::vector<std::uint16_t> ids;
  for (std::uint32_t t = 0; t < 64; ++t) {
    const auto e = static_cast<std::uint16_t>(hash_words(1, t) % 8);
    ids.insert(ids.end(), {e, static_cast<std::uint16_t>((e + 1) % 8)});
  }
  ArrayTrace trace(8, 1, 2, {40, 24}, ids);
  const TraceStats s = compute_stats(trace);
  EXPECT_DOUBLE_EQ(s.layers[0].next_recall, 1.0);
  EXPECT_DOUBLE_EQ(s.layers[0].top1_information, 1.0);
  EXPECT_LT(s.layers[0].next_popularity, 0.4);
  EXPECT_TRUE(std::isnan(s.layers[1].next_recall));
  EXPECT_DOUBLE_EQ(s.median.next_recall, 1.0);
}

/// A seeded trace with locality, absent slots and an empty request.
struct RandomTrace {
  static constexpr std::uint32_t n_experts = 20, top_k = 3, n_layers = 2;
  std::vector<std::uint32_t> lengths = {150, 0, 1, 333, 70};
  std::vector<std::uint16_t> ids;
  RandomTrace() {
    for (std::uint32_t t = 0; t < 554; ++t)
      for (std::uint32_t l = 0; l < n_layers; ++l) {
        std::set<std::uint16_t> set;
        for (std::uint32_t i = 0; set.size() < top_k; ++i) set.insert(static_cast<std::uint16_t>(hash_words(9, i > 1 ? t : t / 7, l, i) % n_experts));
        ids.insert(ids.end(), set.begin(), set.end());
        if (t % 11 == 3) ids.back() = ExpertId::invalid;
      }
  }
  [[nodiscard]] std::set<std::uint16_t> at(std::uint32_t t, std::uint32_t l) const {
    std::set<std::uint16_t> set(&ids[(t * n_layers + l) * top_k], &ids[(t * n_layers + l) * top_k] + top_k);
    set.erase(ExpertId::invalid);
    return set;
  }
};

TEST(TraceStats, EqualsBruteForce) {
  const RandomTrace r;
  ArrayTrace trace(RandomTrace::n_experts, RandomTrace::top_k, RandomTrace::n_layers, r.lengths, r.ids);
  const TraceStats s = compute_stats(trace);
  for (std::uint32_t l = 0; l < RandomTrace::n_layers; ++l) {
    double shared = 0, possible = 0, distinct = 0, windows = 0;
    std::uint64_t hits = 0, accesses = 0;
    std::uint32_t first = 0;
    for (const std::uint32_t n : r.lengths) {
      std::vector<std::uint16_t> cache;  // most recent first
      for (std::uint32_t t = 0; t < n; ++t) {
        const auto now = r.at(first + t, l);
        if (t >= 4) {
          for (const auto e : r.at(first + t - 4, l)) shared += now.contains(e) ? 1 : 0;
          possible += RandomTrace::top_k;
        }
        if (t % 8 == 7) {
          std::set<std::uint16_t> seen;
          for (std::uint32_t b = t - 7; b <= t; ++b) seen.merge(r.at(first + b, l));
          distinct += static_cast<double>(seen.size());
          windows += 1;
        }
        for (const auto e : now) {
          ++accesses;
          const auto at = std::find(cache.begin(), cache.end(), e);
          hits += at != cache.end() ? 1 : 0;
          if (at != cache.end()) cache.erase(at);
          cache.insert(cache.begin(), e);
          cache.resize(std::min<std::size_t>(cache.size(), 6));
        }
      }
      first += n;
    }
    EXPECT_NEAR(s.layers[l].reuse_lag_4, shared / possible, 1e-12);
    EXPECT_NEAR(s.layers[l].distinct_8, distinct / windows / RandomTrace::n_experts, 1e-12);
    EXPECT_NEAR(s.layers[l].lru_hit_2k, static_cast<double>(hits) / static_cast<double>(accesses), 1e-12);
    EXPECT_GE(s.layers[l].opt_forced_hit_2k, s.layers[l].lru_hit_2k);
  }
}

TEST(TraceStats, UniformTokensHaveUnitFanoAndNoInformation) {
  std::vector<std::uint16_t> ids;
  for (std::uint32_t t = 0; t < 20000; ++t)
    for (std::uint32_t l = 0; l < 2; ++l) ids.push_back(static_cast<std::uint16_t>(hash_words(4, t, l) % 16));
  ArrayTrace trace(16, 1, 2, {20000}, ids);
  const LayerStats l = compute_stats(trace).layers.at(0);
  EXPECT_NEAR(l.fano_32, 1.0, 0.05);
  EXPECT_NEAR(l.top1_information, 0.0, 0.01);
  EXPECT_NEAR(l.run_tokens, 16.0 / 15, 0.01);
  EXPECT_NEAR(l.zipf, 0.0, 0.06);
  EXPECT_GT(l.ep8_64, l.ep8_1024);
  EXPECT_NEAR(l.ep8_1024, 1.13, 0.03);  // largest of 8 binomials of mean 128
  EXPECT_TRUE(std::isnan(l.lift_p99));  // one expert per token has no pairs
}

}  // namespace
}  // namespace moekv
