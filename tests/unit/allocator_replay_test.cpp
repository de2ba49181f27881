// Allocators in a replay: what stays in every list is what a slow bookkeeping of scores, written apart, keeps.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <tuple>

#include "engine/exact.hpp"
#include "support/replay_fixture.hpp"
#include "support/temp_dir.hpp"

namespace moekv {
namespace {

using ListKey = std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>;  // request, layer, head group
using Residents = std::map<ListKey, std::set<std::uint32_t>>;
using Capacities = std::map<ListKey, std::uint64_t>;

constexpr std::uint32_t n_groups = 4, n_layers = 3;
const std::vector<RequestInfo> lengths = testing::requests_of({{40, 30}, {0, 45}, {57, 12}, {90, 20}});

/// Largest key norm goes; one head group per KV head; every list on the request's home rank. Norms differ by head and layer, so that heads
/// and layers win unequal parts.
class TiltedQkv : public testing::RandomQkv {
 public:
  explicit TiltedQkv(const ModelShape& model) : RandomQkv(model, 7), model_(model) {}
  void keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* k, float* v) override {
    RandomQkv::keys_values(layer, r, begin, end, experts, k, v);
    for (std::uint32_t i = 0; i < (end - begin) * model_.n_kv_heads * model_.d_k; ++i) {
      const std::uint32_t head = i / model_.d_k % model_.n_kv_heads;
      k[i] *= 1.0F + 0.15F * static_cast<float>(head) + 0.1F * static_cast<float>(layer.value);
    }
  }

 private:
  ModelShape model_;
};

RunSpec base_spec() {
  RunSpec spec = testing::small_spec(testing::gqa_model(n_layers));
  spec.cluster.ranks = 2;
  spec.page.head_groups = n_groups;
  spec.eviction.rule = evict::Knorm{};
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 4};
  spec.probe.samples = 0;
  return spec;
}

struct Seen {
  StepRecord total;
  std::vector<AllocationRecord> rows;
  std::vector<std::string> violations;
};

/// Runs the engine over `qkv`; `after(batch, residents after due evictions, capacities)` follows every step.
template <class F>
Seen replay(const RunSpec& spec, QkvSource& qkv, F&& after) {
  testing::RandomTrace trace(spec.model, lengths, 11);
  const auto transport = make_local_transport();
  const auto backend = make_backend("host", 0);
  const Geometry geometry(spec, trace.info(), spec.cluster.ranks);
  Batcher batcher(geometry, trace);
  ShardedCache cache(geometry, *backend, *transport, trace.n_requests());
  StepDriver driver(geometry, trace, &qkv, true, true, cache, batcher.total_queries() * geometry.layers().size());
  std::uint64_t step = 0;
  const auto close = [&] {
    cache.take_levels();
    cache.counters().flush(step + 1);
  };
  for (; !batcher.done(); ++step) {
    const StepBatch batch = batcher.next();
    driver.run(batch);
    cache.execute_due();
    Residents live;
    Capacities capacity;
    for (const Shard& shard : cache.shards()) {
      for (const Group& g : shard.groups()) {
        if (g.in_use) capacity[{g.request.value, g.layer, g.head_group}] = g.list.budget;
      }
      for (std::uint32_t p = 0; p < shard.pages().size(); ++p) {
        if (shard.pages()[p].group == no_index) continue;
        const Group& g = shard.groups()[shard.pages()[p].group];
        for (std::uint32_t slot = 0; slot < shard.pages()[p].used; ++slot) {
          if (shard.live(p, slot)) live[{g.request.value, g.layer, g.head_group}].insert(shard.position(shard.at(p, slot)));
        }
      }
    }
    after(batch, live, capacity);
    if (step % 8 == 7) close();
    (void)cache.counters().take_step_model();
    batcher.finish_step(batch, 0, 0);
  }
  close();
  RunOutcome out;
  cache.counters().collect(*transport, out);
  return {testing::totals(out), out.allocations, check_laws(spec, out)};
}

/// The bookkeeping: lists of scored positions, evicted by a function of one request's lists once its budget is exceeded.
class Oracle {
 public:
  using List = std::map<std::uint32_t, double>;                        // position -> score, the lowest goes
  using Lists = std::map<std::pair<std::uint32_t, std::uint32_t>, List>;  // (layer, head group)
  struct Now {
    std::uint32_t request, length, prompt, pinned_from;
    std::uint64_t share;  // equal share of a list
  };
  using Evict = std::function<void(const Now&, Lists&)>;

  Oracle(const RunSpec& spec, QkvSource& qkv, Evict evict) : spec_(spec), qkv_(qkv), evict_(std::move(evict)) {}

  void step(const StepBatch& batch) {
    for (const BatchItem& item : batch.items) {
      Lists& lists = requests_[item.request.value];
      for (std::uint32_t layer = 0; layer < n_layers; ++layer) add(lists, layer, item);
      if (item.finishes()) {
        requests_.erase(item.request.value);
        continue;
      }
      if (item.end < item.prompt_tokens) continue;
      const auto share = static_cast<std::uint64_t>(std::floor(static_cast<double>(item.total_tokens) / 4 + 0.5));
      const bool ends_prompt = item.end == item.prompt_tokens;
      evict_({item.request.value, item.end, item.prompt_tokens, ends_prompt ? item.end : item.begin, share}, lists);
    }
  }
  [[nodiscard]] Residents residents() const {
    Residents out;
    for (const auto& [request, lists] : requests_) {
      for (const auto& [key, list] : lists) {
        for (const auto& [position, score] : list) out[{request, key.first, key.second}].insert(position);
      }
    }
    return out;
  }

 private:
  void add(Lists& lists, std::uint32_t layer, const BatchItem& item) {
    const ModelShape& m = spec_.model;
    std::vector<float> k(std::size_t{item.end - item.begin} * m.n_kv_heads * m.d_k), v(k.size());
    qkv_.keys_values(LayerId(static_cast<std::uint16_t>(layer)), item.request, item.begin, item.end, {}, k.data(), v.data());
    const float* at = k.data();
    for (std::uint32_t p = item.begin; p < item.end; ++p) {
      for (std::uint32_t h = 0; h < n_groups; ++h, at += m.d_k) {
        double square = 0;
        for (std::uint32_t i = 0; i < m.d_k; ++i) square += static_cast<double>(at[i]) * static_cast<double>(at[i]);
        lists[{layer, h}][p] = -std::sqrt(square);
      }
    }
  }
  const RunSpec& spec_;
  QkvSource& qkv_;
  Evict evict_;
  std::map<std::uint32_t, Lists> requests_;
};

constexpr ProtectSpec protect{2, 4};  // of small_spec

bool may_go(const Oracle::Now& now, std::uint32_t position, ProtectSpec kept = protect) {
  return position >= kept.sinks && position + kept.recent < now.length && position < now.pinned_from;
}

/// Positions of a list that may go, the worst first.
std::vector<std::pair<double, std::uint32_t>> worst_first(const Oracle::Now& now, const Oracle::List& list, ProtectSpec kept = protect) {
  std::vector<std::pair<double, std::uint32_t>> out;
  for (const auto& [position, score] : list) {
    if (may_go(now, position, kept)) out.emplace_back(score, position);
  }
  std::sort(out.begin(), out.end());
  return out;
}

void cut(const Oracle::Now& now, Oracle::List& list, std::uint64_t capacity, ProtectSpec kept = protect) {
  for (const auto& [score, position] : worst_first(now, list, kept)) {
    if (list.size() <= capacity) return;
    list.erase(position);
  }
}

/// Units of each of several numbers, whole parts and the largest remainders.
std::vector<std::uint64_t> rounded(const std::vector<double>& wanted, std::uint64_t total) {
  std::vector<std::uint64_t> out;
  std::uint64_t given = 0;
  for (const double w : wanted) given += out.emplace_back(static_cast<std::uint64_t>(std::floor(w + 1e-9)));
  std::set<std::size_t> done;
  for (; given < total; ++given) {
    std::size_t best = 0;
    double most = -1;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const double remainder = wanted[i] - std::floor(wanted[i] + 1e-9);
      if (done.count(i) == 0 && remainder > most + 1e-9) most = remainder, best = i;
    }
    done.insert(best);
    out[best] += 1;
  }
  return out;
}

/// Replays, compares the residents of every list after every step, and what the run counted.
Seen expect_equal(const RunSpec& spec, const Oracle::Evict& evict) {
  TiltedQkv qkv(spec.model);
  Oracle oracle(spec, qkv, evict);
  std::size_t compared = 0;
  const Seen seen = replay(spec, qkv, [&](const StepBatch& batch, const Residents& live, const Capacities&) {
    oracle.step(batch);
    EXPECT_EQ(live, oracle.residents()) << "step " << batch.step;
    compared += live.size();
  });
  EXPECT_GT(compared, 1000U);
  EXPECT_GT(seen.total.evictions, 1000);
  EXPECT_TRUE(seen.violations.empty()) << seen.violations.front();
  return seen;
}

TEST(AllocatorReplay, UniformListsStandAlone) {
  const Seen seen = expect_equal(base_spec(), [](const Oracle::Now& now, Oracle::Lists& lists) {
    for (auto& [key, list] : lists) cut(now, list, now.share);
  });
  EXPECT_EQ(seen.total.allocations, 0);
  for (const AllocationRecord& row : seen.rows) EXPECT_LE(row.resident_max, 110);
}

TEST(AllocatorReplay, AdaSplitsALayerOnceByItsJointBest) {
  RunSpec spec = base_spec();
  spec.eviction.allocator = allocate::Ada{0.3};
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::vector<std::uint64_t>> capacity;  // (request, layer), once made
  const Seen seen = expect_equal(spec, [&](const Oracle::Now& now, Oracle::Lists& lists) {
    for (std::uint32_t layer = 0; layer < n_layers; ++layer) {
      std::uint64_t used = 0, fixed_all = 0;
      std::vector<std::uint64_t> fixed;
      std::vector<std::pair<double, std::uint32_t>> all;  // (score, head group)
      for (std::uint32_t h = 0; h < n_groups; ++h) {
        const auto open = worst_first(now, lists[{layer, h}]);
        used += lists[{layer, h}].size();
        fixed_all += fixed.emplace_back(lists[{layer, h}].size() - open.size());
        for (const auto& [score, position] : open) all.emplace_back(score, h);
      }
      auto& made = capacity[{now.request, layer}];
      if (made.empty() && used > n_groups * now.share) {
        const std::uint64_t total = n_groups * now.share - fixed_all;
        std::sort(all.rbegin(), all.rend());
        std::vector<double> wanted(n_groups, 0.3 * static_cast<double>(total) / n_groups);
        for (std::uint64_t i = 0; i < total; ++i) wanted[all[i].second] += 0.7;
        made = rounded(wanted, total);
        for (std::uint32_t h = 0; h < n_groups; ++h) made[h] += fixed[h];
      }
      for (std::uint32_t h = 0; h < n_groups && !made.empty(); ++h) cut(now, lists[{layer, h}], made[h]);
    }
  });
  EXPECT_EQ(seen.total.allocations, 4 * n_layers);
  for (const auto& [key, made] : capacity) EXPECT_GT(made.front(), made.back()) << "the head of small norms wins";
}

void cut_jointly(const Oracle::Now& now, const std::vector<Oracle::List*>& lists, double floor) {
  std::uint64_t used = 0, fixed = 0;
  std::vector<std::tuple<double, std::uint32_t, std::size_t>> all;
  std::vector<std::uint64_t> open(lists.size());
  for (std::size_t l = 0; l < lists.size(); ++l) {
    const auto own = worst_first(now, *lists[l]);
    open[l] = own.size();
    used += lists[l]->size();
    fixed += lists[l]->size() - own.size();
    for (const auto& [score, position] : own) all.emplace_back(score, position, l);
  }
  const std::uint64_t budget = lists.size() * now.share;
  const double sure = std::floor(floor * static_cast<double>(budget - fixed) / static_cast<double>(lists.size()) + 1e-9);
  std::sort(all.begin(), all.end());
  for (const auto& [score, position, l] : all) {
    if (used <= budget) return;
    if (static_cast<double>(open[l]) <= sure) continue;
    lists[l]->erase(position);
    open[l] -= 1;
    used -= 1;
  }
}

TEST(AllocatorReplay, PooledEvictsTheJointlyWorst) {
  for (const double floor : {0.0, 0.6}) {
    for (const allocate::Over over : {allocate::Over::heads, allocate::Over::layers}) {
      RunSpec spec = base_spec();
      spec.eviction.allocator = allocate::Pooled{over, floor};
      const Seen seen = expect_equal(spec, [&](const Oracle::Now& now, Oracle::Lists& lists) {
        std::vector<std::vector<Oracle::List*>> pools(over == allocate::Over::heads ? n_layers : 1);
        for (auto& [key, list] : lists) pools[over == allocate::Over::heads ? key.first : 0].push_back(&list);
        for (const auto& pool : pools) cut_jointly(now, pool, floor);
      });
      EXPECT_GT(seen.total.allocations, 40);
    }
  }
}

TEST(AllocatorReplay, PyramidFallsOverLayers) {
  RunSpec spec = base_spec();
  spec.eviction.allocator = allocate::Pyramid{4};
  const Seen seen = expect_equal(spec, [](const Oracle::Now& now, Oracle::Lists& lists) {
    // n tokens in all, so every list has at least n - 6 outside its protection: more than the first layer's share.
    const std::uint64_t mean = now.share - 6;
    const double low = static_cast<double>(mean) / 4, high = 2.0 * static_cast<double>(mean) - low;
    const auto made = rounded({high, (high + low) / 2, low}, 3 * mean);
    for (auto& [key, list] : lists) cut(now, list, made[key.first] + 6);
  });
  std::map<std::int64_t, std::int64_t> largest;
  for (const AllocationRecord& row : seen.rows) largest[row.layer] = std::max(largest[row.layer], row.budget_max);
  EXPECT_GT(largest[0], largest[1]);
  EXPECT_GT(largest[1], largest[2]);
}

TEST(AllocatorReplay, DuoStreamsWhereGatesAreLowAndRetrievesElsewhere) {
  TempDir folder;
  std::ofstream(folder.file("gates.csv")) << ".9 .1 .6 .3\n.2 .8 .7 .1\n.5 .4 .9 .8\n";  // the median is .55
  RunSpec spec = base_spec();
  spec.eviction.allocator = allocate::Duo{0.5, 3, 5};
  spec.eviction.allocator_path = folder.file("gates.csv");
  const std::set<std::pair<std::uint32_t, std::uint32_t>> full{{0, 0}, {0, 2}, {1, 1}, {1, 2}, {2, 2}, {2, 3}};
  expect_equal(spec, [&](const Oracle::Now& now, Oracle::Lists& lists) {
    const std::uint64_t left = 12 * now.share - 6 * 8;
    std::uint64_t i = 0;
    for (auto& [key, list] : lists) {
      const bool retrieves = full.count(key) > 0;
      const std::uint64_t part = left / 6 + (i < left % 6 ? 1 : 0);
      i += retrieves ? 1 : 0;
      cut(now, list, retrieves ? part : 8, retrieves ? protect : ProtectSpec{3, 5});
    }
  });
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 1};  // DuoAttention itself: retrieval heads keep all
  TiltedQkv qkv(spec.model);
  (void)replay(spec, qkv, [&](const StepBatch& batch, const Residents& live, const Capacities&) {
    std::map<std::uint32_t, BatchItem> items;
    for (const BatchItem& item : batch.items) items[item.request.value] = item;
    for (const auto& [key, positions] : live) {
      const auto it = items.find(std::get<0>(key));
      if (it == items.end() || it->second.end < it->second.prompt_tokens) continue;
      const std::uint32_t n = it->second.end;
      std::set<std::uint32_t> kept;
      for (std::uint32_t p = 0; p < n; ++p) {
        if (full.count({std::get<1>(key), std::get<2>(key)}) > 0 || p < 3 || p + 5 >= n) kept.insert(p);
      }
      EXPECT_EQ(positions, kept) << "step " << batch.step;
    }
  });
}

TEST(AllocatorReplay, CakeFollowsEntropyAndVarianceOfTheWindow) {
  RunSpec spec = base_spec();
  spec.eviction.rule = evict::H2oSum{};
  const allocate::Cake cake{1.3, 0.9, 8};
  spec.eviction.allocator = cake;
  TiltedQkv qkv(spec.model);
  const ModelShape& m = spec.model;
  std::map<std::uint32_t, Capacities> made;
  std::map<std::uint32_t, BatchItem> at_end;
  const Seen seen = replay(spec, qkv, [&](const StepBatch& batch, const Residents&, const Capacities& capacity) {
    for (const BatchItem& item : batch.items) {
      if (!item.ends_prompt()) continue;
      at_end[item.request.value] = item;
      for (const auto& [key, units] : capacity) {
        if (std::get<0>(key) == item.request.value) made[item.request.value][key] = units;
      }
    }
  });
  EXPECT_TRUE(seen.violations.empty()) << seen.violations.front();
  ASSERT_EQ(made.size(), 3U);
  for (const auto& [request, capacity] : made) {
    const std::uint32_t n = at_end[request].end, first = n - cake.window;
    const auto share = static_cast<std::uint64_t>(std::floor(static_cast<double>(at_end[request].total_tokens) / 4 + 0.5));
    std::vector<double> preference;
    for (std::uint16_t layer = 0; layer < n_layers; ++layer) {
      std::vector<float> k(std::size_t{n} * m.n_kv_heads * m.d_k), v(k.size()), q(std::size_t{cake.window} * m.n_heads * m.d_k);
      qkv.keys_values(LayerId(layer), RequestId(request), 0, n, {}, k.data(), v.data());
      qkv.queries(LayerId(layer), RequestId(request), first, n, {}, q.data());
      double entropy = 0, variance = 0;
      for (std::uint32_t h = 0; h < m.n_heads; ++h) {
        std::vector<std::vector<double>> rows;  // [window][first]
        for (std::uint32_t w = 0; w < cake.window; ++w) {
          std::vector<double> a(first + w + 1);
          double sum = 0;
          for (std::uint32_t p = 0; p < a.size(); ++p) {
            double dot = 0;
            for (std::uint32_t i = 0; i < m.d_k; ++i)
              dot += static_cast<double>(q[(std::size_t{w} * m.n_heads + h) * m.d_k + i]) *
                     static_cast<double>(k[(std::size_t{p} * m.n_kv_heads + h / m.group_size()) * m.d_k + i]);
            sum += a[p] = std::exp(dot / 4);
          }
          for (double& x : a) x /= sum;
          a.resize(first);
          for (const double x : a) entropy -= x > 0 ? x * std::log(x) : 0;
          rows.push_back(a);
        }
        for (std::uint32_t p = 0; p < first; ++p) {
          double mean = 0, squares = 0;
          for (const auto& row : rows) mean += row[p] / cake.window;
          for (const auto& row : rows) squares += (row[p] - mean) * (row[p] - mean);
          variance += squares / (cake.window - 1);
        }
      }
      preference.push_back(std::pow(entropy, 1 / cake.tau1) * std::pow(variance, 1 / cake.tau2));
    }
    const double all = preference[0] + preference[1] + preference[2], total = static_cast<double>(n_layers * n_groups * (share - 6));
    std::uint64_t sum = 0;
    for (const auto& [key, units] : capacity) {
      sum += units;
      const double wanted = preference[std::get<1>(key)] / all * total / n_groups;
      ASSERT_LT(wanted, n - 6) << "nothing overflows here";
      EXPECT_NEAR(static_cast<double>(units), wanted + 6, 1.0 + 1e-3) << "request " << request << " layer " << std::get<1>(key);
    }
    EXPECT_EQ(sum, n_layers * n_groups * share);
    EXPECT_GT(std::max({preference[0], preference[1], preference[2]}) / std::min({preference[0], preference[1], preference[2]}), 1.1);
  }
}

TEST(AllocatorReplay, FileGivesEveryListItsPart) {
  TempDir folder;
  std::ofstream(folder.file("shares.csv")) << "1 2 3 4\n4 4 4 4\n2 1 2 1\n";
  RunSpec spec = base_spec();
  spec.eviction.allocator = allocate::File{};
  spec.eviction.allocator_path = folder.file("shares.csv");
  expect_equal(spec, [&](const Oracle::Now& now, Oracle::Lists& lists) {
    const std::vector<double> parts{1, 2, 3, 4, 4, 4, 4, 4, 2, 1, 2, 1};
    std::vector<double> wanted;
    for (const double p : parts) wanted.push_back(p / 32 * 12 * static_cast<double>(now.share));
    const auto made = rounded(wanted, 12 * now.share);
    std::size_t i = 0;
    for (auto& [key, list] : lists) cut(now, list, made[i++]);
  });
}

TEST(AllocatorReplay, ListsThatCannotHoldTheirProtectionAreCounted) {
  TempDir folder;
  std::ofstream(folder.file("shares.csv")) << "0 1 1 1\n1 1 1 1\n1 1 1 1\n";
  RunSpec spec = base_spec();
  spec.eviction.allocator = allocate::File{};
  spec.eviction.allocator_path = folder.file("shares.csv");
  TiltedQkv qkv(spec.model);
  const Seen seen = replay(spec, qkv, [](const StepBatch& batch, const Residents& live, const Capacities&) {
    for (const BatchItem& item : batch.items) {
      const auto it = live.find({item.request.value, 0, 0});
      if (it == live.end() || item.end < item.prompt_tokens || item.end < 7) continue;
      EXPECT_EQ(it->second.size(), 6U) << "sinks and recent tokens stay";
    }
  });
  EXPECT_GT(seen.total.overcommit, 6 * 50);
  EXPECT_TRUE(seen.violations.empty()) << seen.violations.front();
}

}  // namespace
}  // namespace moekv
