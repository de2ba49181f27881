// What every eviction rule must keep (protection, pins, budget, determinism), the published vectors, and a slow oracle that recomputes each choice.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "device/backend.hpp"
#include "engine/evictor.hpp"
#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

/// One request of one layer in one shard: tokens come one a step, attention rows and accesses are given.
class World {
 public:
  World(const EvictRule& rule, std::uint64_t budget, ProtectSpec protect, std::uint32_t page_slots, EvictUnit unit, std::uint32_t total = 1000,
        std::uint32_t prompt = 0)
      : total_(total), prompt_(prompt) {
    spec_.model = testing::gqa_model(1);
    spec_.model.layers[0].moe = false;
    spec_.eviction.rule = rule;
    spec_.eviction.budget = {BudgetKind::tokens, budget, 1, 1};
    spec_.eviction.protect = protect;
    spec_.eviction.unit = unit;
    spec_.eviction.access = AccessSource::dense;
    spec_.page.slots = page_slots;
    geometry_ = std::make_unique<Geometry>(spec_, TraceInfo{}, 1);
    backend_ = make_count_backend();
    counters_ = std::make_unique<Counters>(*geometry_, Rank(0), Rank(1));
    shard_ = std::make_unique<Shard>(*geometry_, ShardId(0), *backend_, 100000);
    evictor_ = std::make_unique<Evictor>(*geometry_, requests_, *counters_, [](Shard&, const Group&, std::size_t) {});
    evictor_->set_shards(0, 1);
  }

  /// Stores tokens up to `end`, adds `row` (position -> attention) to the rule's state, then decides and executes.
  std::set<std::uint32_t> step(std::uint32_t end, const std::map<std::uint32_t, float>& row = {}) {
    StepBatch batch{step_, {{RequestId(0), Rank(0), length_, end, length_, prompt_, total_}}};
    requests_.begin_step(batch);
    for (; length_ < end; ++length_) {
      EntryMeta entry;
      entry.request = RequestId(0);
      entry.position = length_;
      shard_->append(shard_->find_or_add(RequestId(0), 0, 0, Rank(0), total_), entry, step_);
    }
    for_each_live([&](std::uint32_t page, std::uint32_t slot, std::uint32_t position) {
      const auto it = row.find(position);
      if (it == row.end()) return;
      float& state = shard_->state(shard_->at(page, slot));
      std::visit([&](const auto& rule) {
        if constexpr (requires { rule.mass(state, 1.0F); }) state = rule.mass(state, it->second);
      }, spec_.eviction.rule);
    });
    evictor_->decide(*shard_, step_);
    const auto before = live();
    evictor_->execute(*shard_);
    step_ += 1;
    const auto after = live();
    evicted_.clear();
    std::set_difference(before.begin(), before.end(), after.begin(), after.end(), std::back_inserter(evicted_));
    return after;
  }
  /// Accesses the pages that hold these positions, in ascending order of position.
  void access(const std::set<std::uint32_t>& positions) {
    std::map<std::uint32_t, std::uint32_t> pages;
    for_each_live([&](std::uint32_t page, std::uint32_t, std::uint32_t position) {
      if (positions.count(position) > 0) pages.emplace(position, page);
    });
    for (const auto& [position, page] : pages) shard_->touch_queue(page);
  }
  std::set<std::uint32_t> live() {
    std::set<std::uint32_t> out;
    for_each_live([&](std::uint32_t, std::uint32_t, std::uint32_t position) { out.insert(position); });
    return out;
  }
  const std::vector<std::uint32_t>& evicted() const { return evicted_; }
  StepRecord& counts() { return counters_->step; }
  std::uint64_t current_step() const { return step_; }

 private:
  template <class F>
  void for_each_live(F&& f) {
    for (std::uint32_t p = 0; p < shard_->pages().size(); ++p) {
      if (shard_->pages()[p].group == no_index) continue;
      for (std::uint32_t s = 0; s < shard_->pages()[p].used; ++s) {
        if (shard_->live(p, s)) f(p, s, shard_->position(shard_->at(p, s)));
      }
    }
  }

  RunSpec spec_;
  std::uint32_t total_, prompt_, length_ = 0;
  std::uint64_t step_ = 0;
  RequestTable requests_{1};
  std::unique_ptr<Geometry> geometry_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Counters> counters_;
  std::unique_ptr<Shard> shard_;
  std::unique_ptr<Evictor> evictor_;
  std::vector<std::uint32_t> evicted_;
};

using Set = std::set<std::uint32_t>;

TEST(Vectors, H2oSumKeepsHeavyHittersAndRecent) {
  World world(evict::H2oSum{}, 4, {0, 2}, 8, EvictUnit::token);
  world.step(1, {{0, 1.0F}});
  world.step(2, {{0, .6F}, {1, .4F}});
  world.step(3, {{0, .2F}, {1, .5F}, {2, .3F}});
  EXPECT_EQ(world.step(4, {{0, .1F}, {1, .2F}, {2, .3F}, {3, .4F}}), (Set{0, 1, 2, 3}));
  EXPECT_EQ(world.step(5, {{0, .05F}, {1, .45F}, {2, .1F}, {3, .1F}, {4, .3F}}), (Set{0, 1, 3, 4}));
  EXPECT_EQ(world.step(6, {{0, .05F}, {1, .05F}, {3, .6F}, {4, .1F}, {5, .2F}}), (Set{0, 1, 4, 5}));
}

TEST(Vectors, StreamingKeepsSinksAndTheLastTokens) {
  evict::Streaming rule;
  rule.start = 2;
  World world(rule, 5, {0, 0}, 8, EvictUnit::token);
  Set live;
  for (std::uint32_t t = 1; t <= 9; ++t) live = world.step(t);
  EXPECT_EQ(live, (Set{0, 1, 6, 7, 8}));
}

TEST(Vectors, LruFollowsAccessesAndFifoDoesNot) {
  for (const bool lru : {true, false}) {
    World world(lru ? EvictRule{evict::Lru{}} : EvictRule{evict::Fifo{}}, 3, {0, 0}, 1, EvictUnit::page);
    world.step(3);
    if (lru) world.access({0});  // a fifo queue is never refreshed by the evictor
    EXPECT_EQ(world.step(4), lru ? (Set{0, 2, 3}) : (Set{1, 2, 3}));
    if (lru) world.access({2});
    EXPECT_EQ(world.step(5), lru ? (Set{2, 3, 4}) : (Set{2, 3, 4}));
  }
}

TEST(Vectors, PromptIsEvictedOnlyAfterItsLastChunk) {
  World world(evict::Fifo{}, 8, {0, 2}, 4, EvictUnit::token, 60, 40);
  EXPECT_EQ(world.step(16).size(), 16U);
  EXPECT_EQ(world.step(32).size(), 32U);
  EXPECT_EQ(world.step(40), (Set{32, 33, 34, 35, 36, 37, 38, 39}));
}

template <class Rule>
class EveryEvictRule : public ::testing::Test {};

template <class Variant>
struct AsTypes;
template <class... Rules>
struct AsTypes<std::variant<Rules...>> {
  using type = ::testing::Types<Rules...>;
};
TYPED_TEST_SUITE(EveryEvictRule, AsTypes<EvictRule>::type);

std::map<std::uint32_t, float> random_row(std::uint64_t seed, std::uint64_t step, std::uint32_t n) {
  std::map<std::uint32_t, float> row;
  for (std::uint32_t p = 0; p < n; ++p) row[p] = uniform_float(static_cast<std::uint32_t>(hash_words(seed, step, p)));
  return row;
}

TYPED_TEST(EveryEvictRule, ProtectionBudgetAndDeterminism) {
  constexpr std::uint64_t budget = 24;
  const ProtectSpec protect{3, 5};
  for (const EvictUnit unit : {EvictUnit::token, EvictUnit::page}) {
    if (unit == EvictUnit::token && std::is_same_v<TypeParam, evict::Lru>) continue;  // an access is of a page
    World world(TypeParam{}, budget, protect, 4, unit), twin(TypeParam{}, budget, protect, 4, unit);
    for (std::uint32_t t = 1; t <= 120; ++t) {
      const auto row = random_row(5, t, t);
      const Set live = world.step(t, row);
      ASSERT_EQ(twin.step(t, row), live) << "two equal histories must give equal choices";
      for (const std::uint32_t gone : world.evicted()) {
        ASSERT_GE(gone, protect.sinks);
        ASSERT_LT(gone + protect.recent, t);
      }
      if (TypeParam::family == evict::Family::none) {
        ASSERT_EQ(live.size(), t);
      } else {
        ASSERT_LE(live.size(), budget + static_cast<std::uint64_t>(world.counts().overcommit));
        ASSERT_EQ(world.counts().overcommit, 0) << "there was always something to evict";
      }
      ASSERT_EQ(world.counts().budget_excess, 0);
      ASSERT_TRUE(live.count(t - 1) == 1) << "what the step appended is pinned";
    }
    EXPECT_EQ(world.counts().evictions > 0, TypeParam::family != evict::Family::none);
  }
}

TYPED_TEST(EveryEvictRule, BudgetBelowProtectionIsOvercommitNotLoss) {
  World world(TypeParam{}, 4, {4, 8}, 4, EvictUnit::page);
  for (std::uint32_t t = 1; t <= 40; ++t) {
    const Set live = world.step(t);
    for (std::uint32_t p = 0; p < std::min(4U, t); ++p) ASSERT_EQ(live.count(p), 1U);
    for (std::uint32_t p = t > 8 ? t - 8 : 0; p < t; ++p) ASSERT_EQ(live.count(p), 1U);
  }
  EXPECT_EQ(world.counts().overcommit > 0, TypeParam::family != evict::Family::none);
}

/// Keeps the whole history and recomputes every choice from it.
Set oracle_choice(const EvictRule& rule, const Set& live, const std::vector<std::map<std::uint32_t, float>>& rows, std::uint64_t step,
                  std::uint32_t n, std::uint64_t budget, const ProtectSpec& protect) {
  std::vector<std::tuple<double, std::uint32_t>> order;
  const auto sinks = std::holds_alternative<evict::Streaming>(rule) ? std::max(protect.sinks, std::get<evict::Streaming>(rule).start) : protect.sinks;
  for (const std::uint32_t p : live) {
    if (p < sinks || p + protect.recent >= n || p + 1 == n) continue;
    double score = p;
    if (std::holds_alternative<evict::H2oSum>(rule)) {
      float sum = 0;
      for (std::size_t s = p; s < rows.size(); ++s) sum += rows[s].at(p);
      score = static_cast<double>(sum);
    }
    if (std::holds_alternative<evict::Random>(rule)) {
      score = static_cast<double>(uniform_float(static_cast<std::uint32_t>(hash_words(1, 0U, 0U, p, step))));
    }
    order.emplace_back(score, p);
  }
  std::sort(order.begin(), order.end());
  Set kept = live;
  for (const auto& [score, p] : order) {
    if (kept.size() <= budget) break;
    kept.erase(p);
  }
  return kept;
}

TYPED_TEST(EveryEvictRule, IncrementalEqualsRecomputed) {
  if constexpr (TypeParam::family == evict::Family::none || std::is_same_v<TypeParam, evict::Lru>) {
    GTEST_SKIP() << "full never chooses; lru has its own vector";
  } else {
    const ProtectSpec protect{1, 3};
    World world(TypeParam{}, 17, protect, 4, EvictUnit::token);
    std::vector<std::map<std::uint32_t, float>> rows;
    Set expected;
    for (std::uint32_t t = 1; t <= 100; ++t) {
      rows.push_back(random_row(9, t, t));
      expected.insert(t - 1);
      expected = oracle_choice(TypeParam{}, expected, rows, world.current_step(), t, 17, protect);
      ASSERT_EQ(world.step(t, rows.back()), expected) << "step " << t;
    }
  }
}

}  // namespace
}  // namespace moekv
