// A replay with key norms as scores, and a slow bookkeeping of the same lists: what tests of budget allocators compare.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/batcher.hpp"
#include "engine/laws.hpp"
#include "support/replay_fixture.hpp"

namespace moekv::testing::lists {

using ListKey = std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>;  // request, layer, head group
using Residents = std::map<ListKey, std::set<std::uint32_t>>;
using Capacities = std::map<ListKey, std::uint64_t>;

constexpr std::uint32_t n_groups = 4, n_layers = 3;
inline const std::vector<RequestInfo> lengths = requests_of({{40, 30}, {0, 45}, {57, 12}, {90, 20}});

/// Largest key norm goes; one head group per KV head; every list on the request's home rank. Norms differ by head and layer, so that heads
/// and layers win unequal parts.
class TiltedQkv : public RandomQkv {
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

inline RunSpec base_spec() {
  RunSpec spec = small_spec(gqa_model(n_layers));
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
  RandomTrace trace(spec.model, lengths, 11);
  const auto transport = make_local_transport();
  const auto backend = make_backend("host", 0);
  Geometry geometry(spec, trace.info(), spec.cluster.ranks);
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
  return {totals(out), out.allocations, check_laws(spec, out)};
}

/// The bookkeeping: lists of scored positions, evicted by a function of one request's lists once its budget is exceeded.
class Oracle {
 public:
  using List = std::map<std::uint32_t, double>;                           // position -> score, the lowest goes
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

inline bool may_go(const Oracle::Now& now, std::uint32_t position, ProtectSpec kept = protect) {
  return position >= kept.sinks && position + kept.recent < now.length && position < now.pinned_from;
}

/// Positions of a list that may go, the worst first.
inline std::vector<std::pair<double, std::uint32_t>> worst_first(const Oracle::Now& now, const Oracle::List& list, ProtectSpec kept = protect) {
  std::vector<std::pair<double, std::uint32_t>> out;
  for (const auto& [position, score] : list) {
    if (may_go(now, position, kept)) out.emplace_back(score, position);
  }
  std::sort(out.begin(), out.end());
  return out;
}

inline void cut(const Oracle::Now& now, Oracle::List& list, std::uint64_t capacity, ProtectSpec kept = protect) {
  for (const auto& [score, position] : worst_first(now, list, kept)) {
    if (list.size() <= capacity) return;
    list.erase(position);
  }
}

/// Units of each of several numbers, whole parts and the largest remainders.
inline std::vector<std::uint64_t> rounded(const std::vector<double>& wanted, std::uint64_t total) {
  std::vector<std::uint64_t> out;
  std::uint64_t given = 0;
  for (const double w : wanted) given += out.emplace_back(static_cast<std::uint64_t>(std::floor(w + 1e-9)));
  std::set<std::size_t> done;
  for (; given < total; ++given) {
    std::size_t best = 0;
    double most = -1;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const double remainder = wanted[i] - std::floor(wanted[i] + 1e-9);
      if (!done.contains(i) && remainder > most + 1e-9) most = remainder, best = i;
    }
    done.insert(best);
    out[best] += 1;
  }
  return out;
}

}  // namespace moekv::testing::lists
