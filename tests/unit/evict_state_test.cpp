// What a replay feeds to eviction rules: attention mass against exact attention, accesses that refresh queues, state of keys and values.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "engine/exact.hpp"
#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

using Key = std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>;  // request, layer, position

double reduced(const ExactResult& exact, std::uint32_t n_heads, std::size_t n_keys, std::size_t key, Reducer reducer) {
  double sum = 0, most = 0;
  for (std::uint32_t h = 0; h < n_heads; ++h) {
    const double a = exact.weights[h * n_keys + key];
    sum += a;
    most = std::max(most, a);
  }
  return reducer == Reducer::max ? most : reducer == Reducer::sum ? sum : sum / n_heads;
}

TEST(EvictState, MassIsThatOfExactAttention) {
  for (const Reducer reducer : {Reducer::mean, Reducer::sum, Reducer::max}) {
    RunSpec spec = testing::small_spec(testing::gqa_model(2));
    spec.model.layers[1].attention = AttentionKind::window;
    spec.model.layers[1].window_tokens = 12;
    spec.placement.layout = Layout::token;
    spec.placement.map = ShardMap::block_cyclic;
    spec.eviction.rule = evict::H2oSum{};
    spec.eviction.budget = {BudgetKind::tokens, 4000, 1, 1};  // nothing goes: all mass stays visible
    spec.eviction.head_reducer = reducer;
    spec.probe.samples = 0;
    testing::RandomTrace trace(spec.model, testing::requests_of({{30, 12}, {5, 20}}), 5);
    testing::RandomQkv qkv(spec.model, 7);
    std::map<Key, double> expected;
    std::map<Key, std::uint32_t> queries;
    std::size_t checked = 0;
    const auto check = [&](const StepBatch& batch, ShardedCache& cache, StepDriver&) {
      std::vector<float> q(std::size_t{spec.model.n_heads} * spec.model.d_k);
      for (const BatchItem& item : batch.items) {
        for (std::uint32_t layer = 0; layer < 2; ++layer) {
          for (std::uint32_t position = item.begin; position < item.end; ++position) {
            const LayerId id(static_cast<std::uint16_t>(layer));
            qkv.queries(id, item.request, position, position + 1, {}, q.data());
            const ExactQuery query{id, spec.model.layers[layer], item.request, position, q.data(), nullptr, 1.0 / std::sqrt(spec.model.d_k)};
            const ExactResult exact = exact_attention(qkv, spec.model, query);
            const std::size_t n = position + 1 - query.begin();
            for (std::size_t i = 0; i < n; ++i) {
              const Key key{item.request.value, layer, query.begin() + i};
              expected[key] += reduced(exact, spec.model.n_heads, n, i, reducer);
              queries[key] += 1;
            }
          }
        }
      }
      testing::for_each_live(cache, [&](Shard& shard, std::uint32_t page, std::uint32_t slot) {
        const Group& group = shard.groups()[shard.pages()[page].group];
        const std::size_t i = shard.at(page, slot);
        const Key key{group.request.value, group.layer, shard.position(i)};
        ASSERT_NEAR(static_cast<double>(shard.state(i).value), expected[key], 2e-5 * (1 + expected[key]));
        ASSERT_EQ(shard.state(i).seen, queries[key]);
        ++checked;
      });
    };
    const auto transport = make_local_transport();
    const auto backend = make_backend("host", 1);
    (void)testing::run_replay(spec, *transport, *backend, trace, check);
    EXPECT_GT(checked, 500U);
  }
}

/// Replays with masses that the test sets after every step, `gap` from one position to the next: those of a step are far below either gap that is used.
StepRecord choose_among(float gap, const EvictRule& rule, EvictUnit unit) {
  RunSpec spec = testing::small_spec(testing::gqa_model(2));
  spec.cluster.ranks = 1;
  spec.eviction.rule = rule;
  spec.eviction.unit = unit;
  spec.eviction.budget = {BudgetKind::tokens, 24, 1, 1};
  spec.eviction.protect = {0, 0};
  spec.probe.samples = 0;
  testing::RandomTrace trace(spec.model, testing::requests_of({{8, 40}}), 5);
  const auto set = [&](const StepBatch&, ShardedCache& cache, StepDriver&) {
    testing::for_each_live(cache, [&](Shard& shard, std::uint32_t page, std::uint32_t slot) {
      const std::size_t i = shard.at(page, slot);
      shard.state(i).value = 1e7F + gap * static_cast<float>(shard.position(i));
    });
  };
  const auto transport = make_local_transport();
  const auto backend = make_backend("host", 1);
  return testing::totals(testing::run_replay(spec, *transport, *backend, trace, set));
}

TEST(EvictState, CloseChoicesAreThoseThatRoundingMayTurn) {
  for (const EvictUnit unit : {EvictUnit::token, EvictUnit::page}) {
    const StepRecord far = choose_among(1e6F, evict::H2oSum{}, unit), near = choose_among(100.0F, evict::H2oSum{}, unit);
    EXPECT_EQ(far.close_choices, 0) << "the next score is at least 1e-2 away";
    EXPECT_GT(near.steps_under_pressure, 4);
    EXPECT_EQ(near.close_choices, near.steps_under_pressure) << "each choice ends between scores that differ by less than 1e-3";
  }
  EXPECT_EQ(choose_among(0, evict::Knorm{}, EvictUnit::token).close_choices, 0) << "a rule of keys decides alike on every backend";
}

RunSpec queue_spec(const EvictRule& rule, AccessSource access) {
  RunSpec spec = testing::small_spec(testing::gqa_model(2));
  testing::use_expert_layout(spec);
  spec.routing.key = RoutingKey::same_layer;
  spec.read.scope = ReadScope::routed;
  spec.eviction.rule = rule;
  spec.eviction.access = access;
  spec.eviction.scope = EvictScope::shard;
  spec.eviction.budget = {BudgetKind::tokens, 60, 1, 1};
  spec.eviction.protect = {0, 0};
  spec.probe.samples = 0;
  return spec;
}

TEST(EvictState, AccessesRefreshQueues) {
  const auto digest = [](const EvictRule& rule, AccessSource access) {
    const RunOutcome out = testing::run_replay(queue_spec(rule, access), testing::default_requests(), "count");
    EXPECT_TRUE(out.violations.empty());
    EXPECT_GT(testing::totals(out).evictions, 50);
    return to_hex(out.digest);
  };
  const std::string fifo = digest(evict::Fifo{}, AccessSource::routed);
  std::set<std::string> all = {fifo};
  const std::vector<EvictRule> rules = {evict::Lru{}, evict::Mru{}, evict::Clock{}, evict::Sieve{}, evict::Slru{}, evict::Lfu{}, evict::Lrfu{}};
  for (const EvictRule& rule : rules) all.insert(digest(rule, AccessSource::routed));
  EXPECT_EQ(all.size(), 1 + rules.size()) << "every rule decides differently from fifo and from each other";
}

TEST(EvictState, LfuUnderDenseAccessEvictsTheNewest) {
  RunSpec spec = testing::small_spec(testing::gqa_model(1));
  spec.placement.layout = Layout::local;
  spec.cluster.ranks = 1;
  spec.eviction.rule = evict::Lfu{};
  spec.eviction.access = AccessSource::dense;
  spec.eviction.budget = {BudgetKind::pages, 3, 1, 1};
  spec.eviction.protect = {0, 0};
  spec.probe.samples = 0;
  testing::RandomTrace trace(spec.model, testing::requests_of({{0, 200}}), 5);
  std::set<std::uint32_t> live;
  const auto check = [&](const StepBatch& batch, ShardedCache& cache, StepDriver&) {
    if (batch.items.front().end != 199) return;  // the step before the request ends
    testing::for_each_live(cache, [&](Shard& shard, std::uint32_t page, std::uint32_t slot) { live.insert(shard.position(shard.at(page, slot))); });
  };
  const auto transport = make_local_transport();
  const auto backend = make_backend("count", 1);
  (void)testing::run_replay(spec, *transport, *backend, trace, check);
  for (std::uint32_t p = 0; p < 16; ++p) EXPECT_EQ(live.count(p), 1U) << "the two oldest pages have been read most often";
  EXPECT_EQ(live.count(100), 0U);
}

TEST(EvictState, EntriesThatNoQueryReadGotNoAttention) {
  RunSpec spec = testing::small_spec(testing::gqa_model(2));
  testing::use_expert_layout(spec);
  spec.read.scope = ReadScope::routed;
  spec.eviction.rule = evict::Tova{};
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  spec.probe.samples = 0;
  testing::RandomTrace trace(spec.model, testing::requests_of({{20, 60}}), 5);
  std::size_t read = 0, unread = 0;
  const auto check = [&](const StepBatch& batch, ShardedCache& cache, StepDriver&) {
    if (batch.items.empty() || batch.items.front().finishes()) return;
    testing::for_each_live(cache, [&](Shard& shard, std::uint32_t page, std::uint32_t slot) {
      const float got = shard.state(shard.at(page, slot)).value;
      if (shard.pages()[page].used_step == static_cast<std::uint32_t>(batch.step)) {
        read += got > 0 ? 1 : 0;
      } else {
        unread += 1;
        ASSERT_EQ(got, 0.0F) << "step " << batch.step;
      }
    });
  };
  const auto transport = make_local_transport();
  const auto backend = make_backend("host", 1);
  EXPECT_GT(testing::totals(testing::run_replay(spec, *transport, *backend, trace, check)).evictions, 20);
  EXPECT_GT(read, 100U);
  EXPECT_GT(unread, 100U);
}

TEST(EvictState, KeysAndValuesScoreEntriesOnce) {
  RunSpec spec = testing::small_spec(testing::gqa_model(1));
  spec.placement.layout = Layout::local;
  spec.eviction.rule = evict::Knorm{};
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  spec.page.head_groups = 2;
  testing::RandomTrace trace(spec.model, testing::requests_of({{40, 30}}), 5);
  testing::RandomQkv qkv(spec.model, 7);
  std::size_t checked = 0;
  const auto check = [&](const StepBatch&, ShardedCache& cache, StepDriver&) {
    testing::for_each_live(cache, [&](Shard& shard, std::uint32_t page, std::uint32_t slot) {
      const Group& group = shard.groups()[shard.pages()[page].group];
      const std::size_t i = shard.at(page, slot);
      const std::uint32_t d = spec.model.d_k, p = shard.position(i);
      std::vector<float> k(std::size_t{spec.model.n_kv_heads} * d), v(k.size());
      qkv.keys_values(LayerId(0), group.request, p, p + 1, {}, k.data(), v.data());
      double expected = 0;
      for (const std::uint32_t h : {2 * group.head_group, 2 * group.head_group + 1}) {
        double sum = 0;
        for (std::uint32_t c = 0; c < d; ++c) sum += static_cast<double>(k[h * d + c]) * static_cast<double>(k[h * d + c]);
        expected += std::sqrt(sum) / 2;
      }
      ASSERT_NEAR(static_cast<double>(shard.state(i).value), expected, 1e-5 * expected);
      ++checked;
    });
  };
  const auto transport = make_local_transport();
  const auto backend = make_backend("host", 1);
  const RunOutcome out = testing::run_replay(spec, *transport, *backend, trace, check);
  EXPECT_GT(checked, 100U);
  EXPECT_GT(testing::totals(out).evictions, 20);
}

}  // namespace
}  // namespace moekv
