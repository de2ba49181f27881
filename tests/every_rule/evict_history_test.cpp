// Every eviction rule against slow oracles that recompute each choice from the whole history.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "core/rng.hpp"
#include "support/evict_world.hpp"
#include "support/group_oracle.hpp"

namespace moekv {
namespace {

using testing::EveryEvictRule;
using testing::random_row;
using testing::Set;
using testing::some_positions;
using testing::World;

/// All that happened: attention rows and accesses by step, entry p stored at step p.
struct History {
  std::vector<std::map<std::uint32_t, float>> rows;
  std::vector<Set> accesses;
};

/// The score of an entry, recomputed from the whole history by its definition. `competing` are the entries that may go.
double score_of(const EvictRule& rule, const History& h, std::uint32_t p, const Set& competing) {
  const std::string_view name = std::visit([](const auto& r) { return r.name; }, rule);
  const std::size_t now = h.rows.size() - 1;
  double sum = 0, squares = 0, decayed = 0, newest = 0, average = 0;
  for (std::size_t s = p; s <= now; ++s) {
    const auto a = static_cast<double>(h.rows[s].at(p));
    sum += a;
    squares += a * a;
    decayed += a * std::pow(0.95, static_cast<double>(now - s));
    newest = a;
    average = 0.9 * average + 0.1 * a;
  }
  const auto last_of = [&](std::uint32_t q) {
    std::size_t last = q;
    for (std::size_t s = q; s <= now; ++s) last = h.accesses[s].contains(q) ? s : last;
    return last;
  };
  const auto count_of = [&](std::uint32_t q) {
    return 1 + std::count_if(h.accesses.begin() + q, h.accesses.end(), [&](const Set& set) { return set.contains(q); });
  };
  const auto times = [&] {
    std::vector<std::size_t> t = {p};
    for (std::size_t s = p; s <= now; ++s) {
      if (h.accesses[s].contains(p)) t.push_back(s);
    }
    return t;
  }();
  const auto last = static_cast<double>(last_of(p)), count = static_cast<double>(count_of(p));
  if (name == "h2o.sum" || name == "chunk_retain") return sum;
  if (name == "h2o.mean_seen") return sum / static_cast<double>(now + 1 - p);
  if (name == "h2o.decay") return decayed;
  if (name == "h2o.sq") return squares;
  if (name == "tova" || name == "pikv.h2o" || name == "pikv.duo_layersum") return newest;
  if (name == "random") return static_cast<double>(uniform_float(static_cast<std::uint32_t>(hash_words(1, 0U, 0U, p, std::uint64_t{now}))));
  if (name == "knorm") return -static_cast<double>(World::payload_state(p));
  if (name == "paged_eviction" || name == "pikv.quest_mlp") return static_cast<double>(World::payload_state(p));
  if (name == "pikv.sl_indicator") return now - p > 64 ? 1 : 0;
  if (name == "lfu") return count;
  if (name == "lru_plus.raw") return count - (static_cast<double>(now) - last);
  if (name == "lru_plus.norm") {
    double most_count = 0, most_sum = 0;
    for (const std::uint32_t q : competing) {
      most_count = std::max(most_count, static_cast<double>(count_of(q)));
      double other = 0;
      for (std::size_t s = q; s <= now; ++s) other += static_cast<double>(h.rows[s].at(q));
      most_sum = std::max(most_sum, other);
    }
    return 0.3 * last / static_cast<double>(now) + 0.3 * count / most_count + 0.4 * sum / most_sum;
  }
  if (name == "pikv.quest_legacy") return count * std::pow(0.95, static_cast<double>(now) - last);  // raw: quality 1
  if (name == "threshold.adaptive") {
    double most_count = 0, most_average = 0;
    for (const std::uint32_t q : competing) {
      double other = 0;
      for (std::size_t s = q; s <= now; ++s) other = 0.9 * other + 0.1 * static_cast<double>(h.rows[s].at(q));
      most_count = std::max(most_count, static_cast<double>(count_of(q)));
      most_average = std::max(most_average, other);
    }
    const double attention = most_average > 0 ? average / most_average : 0;
    return (attention + 1 / (1 + static_cast<double>(now) - last) + count / most_count + 1 -
            static_cast<double>(now - p) / static_cast<double>(now)) /
           4;
  }
  if (name == "lrfu") {
    double heat = 0;
    for (const std::size_t t : times) heat += std::exp2(-static_cast<double>(now - t) / 128);
    return heat;
  }
  if (name == "least_stale.cyclic_layer") return 0;  // one layer: LeastStale below has several
  if (name == "flexgen.static" || name == "pikv.flexgen_inv") return 0;  // one sequence, one place: all alike
  if (name == "least_stale.ewma_interval") {
    double gap = 1;
    for (std::size_t i = 1; i < times.size(); ++i) gap = 0.5 * static_cast<double>(times[i] - times[i - 1]) + 0.5 * gap;
    return static_cast<double>(now) - last - gap;
  }
  return p;  // fifo, streaming
}

/// Rows and accesses of step t; attention in quarters, so that sums are exact and ties are common.
void add_step(History& h, std::uint32_t t) {
  auto row = random_row(9, t, t);
  for (auto& [p, a] : row) a = std::floor(4 * a) / 4;
  h.rows.push_back(row);
  h.accesses.push_back(some_positions(t));
}

/// Scores of the competing entries; `all` are the resident ones.
std::map<std::uint32_t, double> scores_of(const EvictRule& rule, const History& h, const Set& competing, const Set& all) {
  testing::GroupOracle oracle{all, static_cast<std::uint32_t>(h.rows.size()), {}};
  for (const std::uint32_t p : all) {
    for (std::size_t s = p; s < h.rows.size(); ++s) oracle.sums[p] += static_cast<double>(h.rows[s].at(p));
  }
  const auto group = std::visit(
      [&]<class Rule>(const Rule& r) -> std::map<std::uint32_t, double> {
        if constexpr (evict::scores_groups<Rule>) return oracle.scores(r);
        return {};
      },
      rule);
  std::map<std::uint32_t, double> out;
  for (const std::uint32_t p : competing) out[p] = group.empty() ? score_of(rule, h, p, competing) : group.at(p);
  return out;
}

TEST_P(EveryEvictRule, IncrementalEqualsRecomputed) {
  if (!GetParam().chooses || GetParam().has_own_order) GTEST_SKIP() << "full never chooses; queues of accesses have their own tests and vectors";
  const ProtectSpec protect{1, 3};
  const bool pages = !GetParam().has_tokens;
  const EvictRule& rule = GetParam().small;
  const double equal = GetParam().scores_groups && !GetParam().needs_mass ? 3e-8 : 1e-5;
  World world(rule, 17, protect, pages ? 1 : 4, pages ? EvictUnit::page : EvictUnit::token);
  History history;
  Set expected;
  const std::uint32_t sinks = GetParam().name == "streaming" ? 4 : protect.sinks;
  for (std::uint32_t t = 1; t <= 100; ++t) {
    add_step(history, t);
    expected.insert(t - 1);
    Set competing;
    for (const std::uint32_t p : expected) {
      if (p >= sinks && p + protect.recent < t && p + 1 < t) competing.insert(p);
    }
    std::vector<std::tuple<double, std::uint32_t>> order;
    for (const auto& [p, score] : scores_of(rule, history, competing, expected)) order.emplace_back(score, p);
    // Equal up to rounding is equal: the smaller position goes.
    std::sort(order.begin(), order.end(), [&](const auto& a, const auto& b) {
      const double difference = std::get<0>(a) - std::get<0>(b);
      return std::abs(difference) > equal ? difference < 0 : std::get<1>(a) < std::get<1>(b);
    });
    const auto below = std::visit([](const auto& r) { return static_cast<double>(evict::threshold(r, {})); }, rule);
    const bool due = expected.size() > 17;
    for (std::size_t i = 0; due && i < order.size(); ++i) {
      if (i == 0 || std::get<0>(order[i]) < below - equal) expected.erase(std::get<1>(order[i]));
    }
    world.access(history.accesses.back());
    const Set live = world.step(t, history.rows.back());
    ASSERT_EQ(live, expected) << "step " << t << ", lowest scores " << std::get<0>(order[0]) << " and "
                              << std::get<0>(order[std::min<std::size_t>(1, order.size() - 1)]);
  }
}

/// The last layer's oldest unit goes, however much another was accessed: a pool of several layers against a plain list, pages of one token.
TEST(LeastStale, OfALaterTurnGoesFirst) {
  constexpr std::uint32_t n_layers = 3;
  RunSpec spec = testing::small_spec(testing::gqa_model(n_layers));
  spec.cluster.ranks = 1;
  spec.eviction.rule = evict::LeastStaleCyclic{};
  spec.eviction.scope = EvictScope::shard;
  spec.eviction.budget = {BudgetKind::pages, 8, 1, 1};
  spec.eviction.protect = {0, 0};
  spec.page.slots = 1;
  spec.probe.samples = 0;
  testing::RandomTrace trace(spec.model, testing::requests_of({{0, 25}}), 5);
  const auto transport = make_local_transport();
  const auto backend = make_count_backend();
  using Unit = std::pair<std::uint32_t, std::uint32_t>;  // layer, position
  std::set<Unit> held, due;
  std::map<std::uint32_t, std::uint32_t> gone;  // layer -> units
  const auto check = [&](const StepBatch& batch, ShardedCache& cache, StepDriver&) {
    if (batch.items.front().finishes()) return;
    const std::uint32_t now = batch.items.front().begin;
    for (const Unit& u : due) held.erase(u), gone[u.first] += 1;
    for (std::uint32_t l = 0; l < n_layers; ++l) held.insert({l, now});
    std::set<Unit> live;
    testing::for_each_live(cache, [&](Shard& s, std::uint32_t page, std::uint32_t slot) {
      live.insert({s.groups()[s.pages()[page].group].layer, s.position(s.at(page, slot))});
    });
    ASSERT_EQ(live, held) << "step " << now;
    std::vector<Unit> order;
    for (const Unit& u : held) {
      if (u.second < now) order.push_back(u);
    }
    std::sort(order.begin(), order.end(), [](const Unit& a, const Unit& b) { return a.first != b.first ? a.first > b.first : a.second < b.second; });
    order.resize(held.size() > 8 ? held.size() - 8 : 0);
    due = {order.begin(), order.end()};
  };
  const RunOutcome out = testing::run_replay(spec, *transport, *backend, trace, check);
  EXPECT_TRUE(out.violations.empty());
  EXPECT_GT(gone[2], 15U);
  EXPECT_GT(gone[1], 15U);
  EXPECT_GT(gone[0], 0U);
}

/// lru, mru, clock and slru against lists kept the slow way, pages of one entry.
TEST_P(EveryEvictRule, QueuesEqualNaiveLists) {
  constexpr std::size_t capacity = 12;
  const std::string_view name = GetParam().name;
  if (name != "lru" && name != "mru" && name != "clock" && name != "sieve") GTEST_SKIP() << "not a queue of accesses, or covered by vectors";
  World world(GetParam().rule, capacity, {0, 0}, 1, EvictUnit::page);
  std::vector<std::uint32_t> list;  // oldest first
  Set marked;
  std::uint32_t hand = 0;  // sieve: the unit the hand is at, if it is there
  bool hand_set = false;
  for (std::uint32_t t = 1; t <= 200; ++t) {
    const Set accessed = some_positions(t);
    for (const std::uint32_t p : accessed) {
      const auto at = std::find(list.begin(), list.end(), p);
      if (at == list.end()) continue;
      if (name == "clock" || name == "sieve") {
        marked.insert(p);
      } else {
        list.erase(at);
        list.push_back(p);
      }
    }
    world.access(accessed);
    list.push_back(t - 1);
    while (list.size() > capacity) {
      auto victim = list.begin();
      if (name == "mru") {
        victim = list.end() - 2;  // what the step stored is pinned
      } else if (name == "clock") {
        while (marked.erase(list.front()) > 0) std::rotate(list.begin(), list.begin() + 1, list.end());
        victim = list.begin();
        if (*victim == t - 1) victim = list.begin() + 1;
      } else if (name == "sieve") {
        if (hand_set) victim = std::find(list.begin(), list.end(), hand);
        while (*victim == t - 1 || marked.erase(*victim) > 0) victim = victim + 1 == list.end() ? list.begin() : victim + 1;
        hand_set = victim + 1 != list.end();
        if (hand_set) hand = *(victim + 1);
      }
      list.erase(victim);
    }
    ASSERT_EQ(world.step(t), Set(list.begin(), list.end())) << name << " step " << t;
  }
}

}  // namespace
}  // namespace moekv
