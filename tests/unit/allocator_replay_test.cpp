// Allocators in a replay: what stays in every list is what a slow bookkeeping of scores, written apart, keeps.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <tuple>

#include "support/allocator_lists.hpp"
#include "support/temp_dir.hpp"

namespace moekv {
namespace {

using testing::lists::base_spec;
using testing::lists::Capacities;
using testing::lists::cut;
using testing::lists::n_groups;
using testing::lists::n_layers;
using testing::lists::Oracle;
using testing::lists::protect;
using testing::lists::replay;
using testing::lists::Residents;
using testing::lists::rounded;
using testing::lists::Seen;
using testing::lists::TiltedQkv;
using testing::lists::worst_first;

/// Replays, compares the residents of every list after every step, and what the run counted.
Seen expect_equal(const RunSpec& spec, const Oracle::Evict& evict) {
  TiltedQkv qkv(spec.model);
  Oracle oracle(spec, qkv, evict);
  std::size_t compared = 0;
  Seen seen = replay(spec, qkv, [&](const StepBatch& batch, const Residents& live, const Capacities&) {
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
      const bool retrieves = full.contains(key);
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
        if (full.contains({std::get<1>(key), std::get<2>(key)}) || p < 3 || p + 5 >= n) kept.insert(p);
      }
      EXPECT_EQ(positions, kept) << "step " << batch.step;
    }
  });
}

/// In layer 1 the last keys of a prompt draw attention, which an allocator that looks at what lies before its window must not see.
class LoudWindowQkv : public TiltedQkv {
 public:
  LoudWindowQkv(const ModelShape& model, std::uint32_t window) : TiltedQkv(model), row_(model.n_kv_heads * model.d_k), window_(window) {}
  void keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* k, float* v) override {
    TiltedQkv::keys_values(layer, r, begin, end, experts, k, v);
    for (std::uint32_t p = begin; layer.value == 1 && p < end; ++p) {
      if (p + window_ < testing::lists::lengths[r.value].prompt_tokens) continue;
      for (std::uint32_t i = 0; i < row_; ++i) k[std::size_t{p - begin} * row_ + i] *= 2;
    }
  }

 private:
  std::uint32_t row_, window_;
};

TEST(AllocatorReplay, CakeFollowsEntropyAndVarianceOfTheWindow) {
  RunSpec spec = base_spec();
  spec.eviction.rule = evict::H2oSum{};
  const allocate::Cake cake{1.3, 0.9, 8};
  spec.eviction.allocator = cake;
  LoudWindowQkv qkv(spec.model, cake.window);
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
    const double all = preference[0] + preference[1] + preference[2];
    const std::uint64_t total = n_layers * n_groups * (share - 6);
    std::vector<double> wanted;
    for (const auto& [key, units] : capacity) {
      wanted.push_back(preference[std::get<1>(key)] / all * static_cast<double>(total) / n_groups);
      ASSERT_LT(wanted.back(), n - 6) << "nothing overflows here";
    }
    const std::vector<std::uint64_t> expected = rounded(wanted, total);
    std::size_t i = 0;
    for (const auto& [key, units] : capacity) EXPECT_EQ(units, expected[i++] + 6) << "request " << request << " layer " << std::get<1>(key);
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
