// Rules that need more than one entry: what the hook reads of store and queries, sums over layers, errors of the codec, loaded weights, thresholds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "core/rng.hpp"
#include "engine/group_scorer.hpp"
#include "io/hdf5.hpp"
#include "support/replay_fixture.hpp"
#include "support/temp_dir.hpp"

namespace moekv {
namespace {

using testing::for_each_live;
using testing::RandomQkv;
using testing::RandomTrace;

RunSpec local_spec(const EvictRule& rule, std::uint32_t layers = 1) {
  RunSpec spec = testing::small_spec(testing::gqa_model(layers));
  spec.cluster.ranks = 1;
  spec.placement.layout = Layout::local;
  spec.eviction.rule = rule;
  spec.eviction.budget = {BudgetKind::tokens, 20, 1, 1};
  spec.probe.samples = 0;
  spec.prefill.queries = PrefillQueries::automatic;
  return spec;
}

RunOutcome run(const RunSpec& spec, const std::vector<std::pair<std::uint32_t, std::uint32_t>>& requests, Backend& backend,
               const testing::AfterStep& check = {}) {
  RandomTrace trace(spec.model, testing::requests_of(requests), 5);
  const auto transport = make_local_transport();
  RunOutcome out = testing::run_replay(spec, *transport, backend, trace, check);
  EXPECT_TRUE(out.violations.empty()) << out.violations.front();
  return out;
}

RunOutcome run(const RunSpec& spec, const std::vector<std::pair<std::uint32_t, std::uint32_t>>& requests, const testing::AfterStep& check = {}) {
  const auto backend = make_host_backend(1);
  return run(spec, requests, *backend, check);
}

/// keydiff's scores of the entries of one head group of 4 heads, from rows that `key` gives.
template <class Key>
std::vector<double> keydiff(std::size_t n, std::uint32_t d, Key&& key) {
  std::vector<double> scores(n);
  for (std::uint32_t h = 0; h < 4; ++h) {
    std::vector<double> anchor(d);
    std::vector<std::vector<float>> rows;
    for (std::size_t i = 0; i < n; ++i) {
      rows.push_back(key(i, h));
      double norm = 0;
      for (const float x : rows[i]) norm += static_cast<double>(x) * static_cast<double>(x);
      for (std::uint32_t c = 0; c < d; ++c) anchor[c] += static_cast<double>(rows[i][c]) / std::sqrt(norm);
    }
    for (std::size_t i = 0; i < n; ++i) {
      double dot = 0, norm = 0, length = 0;
      for (std::uint32_t c = 0; c < d; ++c) {
        dot += static_cast<double>(rows[i][c]) * anchor[c];
        norm += static_cast<double>(rows[i][c]) * static_cast<double>(rows[i][c]);
        length += anchor[c] * anchor[c];
      }
      scores[i] -= dot / std::sqrt(norm * length) / 4;
    }
  }
  return scores;
}

TEST(EvictGroup, RulesSeeSealedKeysAsTheCodecGivesThemBack) {
  RunSpec spec = local_spec(evict::KeyDiff{});
  spec.compression.k = codec::Int4Token{};
  spec.compression.v = codec::Int8Token{};
  spec.eviction.budget = {BudgetKind::tokens, 40, 1, 1};
  RandomQkv qkv(spec.model, 7);
  const auto backend = make_host_backend(1);
  std::size_t sealed = 0, moved = 0;
  const auto check = [&](const StepBatch& batch, ShardedCache& cache, StepDriver&) {
    if (batch.items.front().end != 60) return;
    const Geometry geometry(spec, TraceInfo{}, 1);
    GroupScorer scorer(geometry, *backend, cache.counters(), cache.requests());
    auto& shard = const_cast<Shard&>(cache.shards().front());
    const Group& group = *shard.find(RequestId(0), 0, 0);
    scorer.score(shard, group, batch.step);
    struct At {
      std::uint32_t page, slot, position;
    };
    std::vector<At> entries;
    for_each_live(cache, [&](Shard& s, std::uint32_t page, std::uint32_t slot) { entries.push_back({page, slot, s.position(s.at(page, slot))}); });
    std::vector<float> k(16), v(16), all(64), values(64);
    const auto decoded = keydiff(entries.size(), 16, [&](std::size_t i, std::uint32_t h) {
      backend->read_row(shard.pages()[entries[i].page].block, h, entries[i].slot, k.data(), v.data());
      return k;
    });
    const auto raw = keydiff(entries.size(), 16, [&](std::size_t i, std::uint32_t h) {
      qkv.keys_values(LayerId(0), RequestId(0), entries[i].position, entries[i].position + 1, {}, all.data(), values.data());
      return std::vector<float>(all.begin() + 16 * h, all.begin() + 16 * h + 16);
    });
    for (std::size_t i = 0; i < entries.size(); ++i) {
      EXPECT_NEAR(static_cast<double>(scorer.of(shard.at(entries[i].page, entries[i].slot))), decoded[i], 1e-5);
      if (!shard.pages()[entries[i].page].sealed) continue;
      sealed += 1;
      moved += std::abs(decoded[i] - raw[i]) > 1e-4 ? 1 : 0;
    }
  };
  (void)run(spec, {{50, 30}}, *backend, check);
  EXPECT_GT(sealed, 20U);
  EXPECT_GT(moved, sealed / 2) << "a codec of 4 bits moves scores";
}

TEST(EvictGroup, BytesReadForScoresAreCounted) {
  RunSpec spec = local_spec(evict::KeyDiff{});
  // A prompt of one token and 29 outputs: at the end of the 21st to 29th of 30 steps 21 entries are scored (the last step finishes the request).
  const RunOutcome keys = run(spec, {{1, 29}});
  constexpr std::int64_t key_bytes = 4 * 16 * 4;  // 4 heads of 16 values in fp32
  EXPECT_EQ(testing::totals(keys).evictions, 9);
  EXPECT_EQ(testing::totals(keys).scoring_bytes, 9 * 21 * key_bytes);
  spec.eviction.rule = evict::Cur{};
  EXPECT_EQ(testing::totals(run(spec, {{1, 29}})).scoring_bytes, 9 * 21 * 2 * key_bytes);
  spec.eviction.rule = evict::Knorm{};
  EXPECT_EQ(testing::totals(run(spec, {{1, 29}})).scoring_bytes, 0) << "scored once, on the way in";
}

TEST(EvictGroup, TheNewestQueriesAreKeptInOrder) {
  evict::RKv rule;
  rule.window = 6;
  RunSpec spec = local_spec(rule);
  spec.page.head_groups = 2;
  RandomQkv qkv(spec.model, 7);
  std::size_t checked = 0;
  const auto check = [&](const StepBatch& batch, ShardedCache& cache, StepDriver&) {
    if (batch.items.front().finishes() || batch.items.front().end < 40) return;  // the prompt's last queries are there when it ends
    const std::uint32_t end = batch.items.front().end;
    for (std::uint32_t hg = 0; hg < 2; ++hg) {
      const RecentQueries& recent = const_cast<Shard&>(cache.shards().front()).find(RequestId(0), 0, hg)->recent;
      ASSERT_EQ(recent.positions.size(), 6U);
      for (std::uint32_t i = 0; i < 6; ++i) {
        ASSERT_EQ(recent.positions[recent.row(i)], end - 6 + i);
        std::vector<float> q(std::size_t{8} * 16);
        qkv.queries(LayerId(0), RequestId(0), end - 6 + i, end - 5 + i, {}, q.data());
        const std::size_t half = std::size_t{64} * sizeof(float);  // 4 of 8 query heads belong to a head group
        ASSERT_EQ(std::memcmp(&recent.rows[recent.row(i) * half], reinterpret_cast<const std::byte*>(q.data()) + hg * half, half), 0);
        ++checked;
      }
    }
  };
  const RunOutcome out = run(spec, {{40, 15}}, check);
  EXPECT_GT(checked, 100U);
  EXPECT_EQ(testing::totals(out).queries, 6 + 15) << "prefill.queries auto makes as many prompt queries as the rule keeps";
}

/// Live positions of each layer after each step's evictions; how often the layers of a request differ.
std::size_t layers_that_differ(const EvictRule& rule, std::int64_t& evictions) {
  RunSpec spec = local_spec(rule, 3);
  std::size_t differ = 0;
  const auto check = [&](const StepBatch&, ShardedCache& cache, StepDriver&) {
    cache.execute_due();
    std::map<std::uint32_t, std::map<std::uint32_t, std::set<std::uint32_t>>> live;
    for_each_live(cache, [&](Shard& shard, std::uint32_t page, std::uint32_t slot) {
      const Group& group = shard.groups()[shard.pages()[page].group];
      live[group.request.value][group.layer].insert(shard.position(shard.at(page, slot)));
    });
    for (const auto& [request, layers] : live) differ += layers.at(0) != layers.at(1) || layers.at(1) != layers.at(2) ? 1 : 0;
  };
  evictions = testing::totals(run(spec, {{30, 30}, {0, 50}}, check)).evictions;
  return differ;
}

TEST(EvictGroup, TheLayerSumIsOneDecisionForAllLayers) {
  std::int64_t evictions = 0;
  EXPECT_EQ(layers_that_differ(evict::PikvDuoLayersum{}, evictions), 0U);
  EXPECT_GT(evictions, 100);
  EXPECT_GT(layers_that_differ(evict::Tova{}, evictions), 20U) << "each layer decides for itself";
}

TEST(EvictGroup, QualityIsTheErrorOfTheCodec) {
  RunSpec spec = local_spec(evict::PikvQuestLegacy{});
  spec.compression.k = codec::Int4Token{};
  spec.compression.v = codec::Int4Token{};
  spec.eviction.budget = {BudgetKind::tokens, 40, 1, 1};
  RandomQkv qkv(spec.model, 7);
  const auto backend = make_host_backend(1);
  std::size_t sealed = 0, raw = 0;
  const auto check = [&](const StepBatch&, ShardedCache& cache, StepDriver&) {
    for_each_live(cache, [&](Shard& shard, std::uint32_t page, std::uint32_t slot) {
      const auto state = static_cast<double>(shard.state(shard.at(page, slot)).value);
      if (!shard.pages()[page].sealed) {
        raw += 1;
        ASSERT_EQ(state, 0.0);
        return;
      }
      const std::uint32_t p = shard.position(shard.at(page, slot));
      std::vector<float> k(64), v(64), own_k(16), own_v(16);
      qkv.keys_values(LayerId(0), RequestId(0), p, p + 1, {}, k.data(), v.data());
      double off = 0, all = 0;
      for (std::uint32_t h = 0; h < 4; ++h) {
        backend->read_row(shard.pages()[page].block, h, slot, own_k.data(), own_v.data());
        for (std::uint32_t c = 0; c < 16; ++c) {
          off += std::pow(static_cast<double>(own_k[c] - k[h * 16 + c]), 2) + std::pow(static_cast<double>(own_v[c] - v[h * 16 + c]), 2);
          all += std::pow(static_cast<double>(k[h * 16 + c]), 2) + std::pow(static_cast<double>(v[h * 16 + c]), 2);
        }
      }
      ASSERT_NEAR(state, off / all, 1e-6);
      ASSERT_GT(state, 1e-4);
      sealed += 1;
    });
  };
  const RunOutcome out = run(spec, {{50, 30}}, *backend, check);
  EXPECT_GT(sealed, 100U);
  EXPECT_GT(raw, 100U);
  EXPECT_GT(testing::totals(out).evictions, 0);
}

TEST(EvictGroup, LoadedWeightsScoreKeysAndValues) {
  const TempDir dir;
  const std::string path = dir.file("mlp.h5");
  std::vector<float> hidden(2 * 32);
  for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] = uniform_float(static_cast<std::uint32_t>(hash_words(3, i))) - 0.5F;
  const std::vector<float> bias = {0.5F, -0.25F}, out_weights = {1.5F, -2.0F}, out_bias = {0.125F};
  {
    h5::File file = h5::File::create(path);
    file.write("hidden", std::span<const float>(hidden), {2, 32});
    file.write("hidden_bias", bias);
    file.write("out", out_weights);
    file.write("out_bias", out_bias);
    file.close();
  }
  RunSpec spec = local_spec(evict::PikvQuestMlp{});
  spec.eviction.weights_path = path;
  RandomQkv qkv(spec.model, 7);
  std::size_t checked = 0;
  const auto check = [&](const StepBatch&, ShardedCache& cache, StepDriver&) {
    for_each_live(cache, [&](Shard& shard, std::uint32_t page, std::uint32_t slot) {
      const std::uint32_t p = shard.position(shard.at(page, slot));
      std::vector<float> k(64), v(64);
      qkv.keys_values(LayerId(0), RequestId(0), p, p + 1, {}, k.data(), v.data());
      double expected = 0;
      for (std::size_t head = 0; head < 4; ++head) {
        double out = 0.125;
        for (std::size_t h = 0; h < 2; ++h) {
          auto x = static_cast<double>(bias[h]);
          for (std::size_t c = 0; c < 16; ++c) {
            x += static_cast<double>(hidden[h * 32 + c]) * static_cast<double>(k[head * 16 + c]);
            x += static_cast<double>(hidden[h * 32 + 16 + c]) * static_cast<double>(v[head * 16 + c]);
          }
          out += static_cast<double>(out_weights[h]) * std::max(0.0, x);
        }
        expected += 1 / (1 + std::exp(-out)) / 4;
      }
      ASSERT_NEAR(static_cast<double>(shard.state(shard.at(page, slot)).value), expected, 1e-5);
      ++checked;
    });
  };
  EXPECT_GT(testing::totals(run(spec, {{30, 30}}, check)).evictions, 20);
  EXPECT_GT(checked, 300U);
  spec.model.d_v = 8;
  EXPECT_THROW((void)run(spec, {{30, 30}}), UserError) << "weights of another width";
}

/// Largest and smallest threshold of the groups when the run is nearly over.
std::pair<float, float> thresholds(evict::ControlSign sign) {
  evict::ThresholdAdaptive rule;
  rule.sign = sign;
  rule.gamma = 0.2F;
  rule.delta = 2;
  RunSpec spec = local_spec(rule);
  spec.eviction.protect = {1, 8};
  spec.eviction.budget = {BudgetKind::tokens, 40, 1, 1};
  spec.prefill.queries = PrefillQueries::all;
  std::pair<float, float> out{-1, 2};
  const auto check = [&](const StepBatch& batch, ShardedCache& cache, StepDriver&) {
    if (batch.items.front().end != 119) return;
    const evict::Control& control = const_cast<Shard&>(cache.shards().front()).find(RequestId(0), 0, 0)->list.control;
    out = {std::max(out.first, rule.threshold(control)), std::min(out.second, rule.threshold(control))};
  };
  EXPECT_GT(testing::totals(run(spec, {{60, 60}}, check)).evictions, 50);
  return out;
}

TEST(EvictGroup, InAReplayThePapersThresholdEndsAtOne) {
  EXPECT_EQ(thresholds(evict::ControlSign::paper).second, 1.0F) << "every miss raises the threshold that causes misses";
  EXPECT_EQ(thresholds(evict::ControlSign::corrected).first, 0.0F) << "dropped pages keep missing, so the corrected one lets everything stay";
}

TEST(EvictGroup, EnoughBudgetIsFullAttentionUnderEveryRule) {
  RunSpec spec = local_spec(evict::Full{}, 2);
  spec.cluster.ranks = 2;
  spec.placement.layout = Layout::token;
  spec.placement.map = ShardMap::block_cyclic;
  spec.prefill.queries = PrefillQueries::all;
  spec.probe.samples = 1U << 30;
  spec.eviction.budget = {BudgetKind::tokens, 4000, 1, 1};
  [&]<std::size_t... i>(std::index_sequence<i...>) {
    for (const EvictRule& rule : {EvictRule(std::in_place_index<i>)...}) {
      const std::string_view name = std::visit([](const auto& r) { return r.name; }, rule);
      spec.eviction.rule = rule;
      const RunOutcome out = run(spec, {{20, 10}});
      EXPECT_EQ(testing::totals(out).evictions, 0) << name;
      for (const ProbeRecord& p : out.probes) ASSERT_LT(p.attn_out_err, 1e-5) << name;
      EXPECT_EQ(out.probes.size(), 60U);
    }
  }(std::make_index_sequence<std::variant_size_v<EvictRule>>{});
}

}  // namespace
}  // namespace moekv
