// One shard, one request, given attention and accesses: what eviction tests drive rules with, without a replay around them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string_view>
#include <vector>

#include "core/rng.hpp"
#include "device/backend.hpp"
#include "engine/evictor.hpp"
#include "support/replay_fixture.hpp"
#include "support/test_name.hpp"

namespace moekv::testing {

using Set = std::set<std::uint32_t>;

/// One request of one layer in one shard: tokens come one a step, attention rows and accesses are given.
class World {
 public:
  World(const EvictRule& rule, std::uint64_t budget, ProtectSpec protect, std::uint32_t page_slots, EvictUnit unit, std::uint32_t total = 1000,
        std::uint32_t prompt = 0)
      : total_(total), prompt_(prompt) {
    spec_.model = gqa_model(1);
    spec_.model.layers[0].moe = false;
    spec_.eviction.rule = rule;
    spec_.eviction.budget = {BudgetKind::tokens, budget, 1, 1};
    spec_.eviction.protect = protect;
    spec_.eviction.unit = unit;
    spec_.eviction.access = AccessSource::dense;
    spec_.page.slots = page_slots;
    spec_.payload.element = ElementFormat::fp32;
    geometry_ = std::make_unique<Geometry>(spec_, TraceInfo{}, 1);
    payload_ = geometry_->group_reads().keys;
    backend_ = payload_ ? make_host_backend(1) : make_count_backend();
    counters_ = std::make_unique<Counters>(*geometry_, Rank(0), Rank(1));
    shard_ = std::make_unique<Shard>(*geometry_, ShardId(0), *backend_, 100000);
    evictor_ = std::make_unique<Evictor>(*geometry_, requests_, *backend_, *counters_, [](Shard&, const Group&, std::size_t) {});
    evictor_->set_shards(0, 1);
  }

  /// Stores tokens up to `end`, adds `row` (position -> attention) to the rule's state, then decides and executes.
  std::set<std::uint32_t> step(std::uint32_t end, const std::map<std::uint32_t, float>& row = {}) {
    const BatchItem item{.request = RequestId(0),
                         .home = Rank(0),
                         .begin = length_,
                         .end = end,
                         .query_begin = length_,
                         .observe_begin = length_,
                         .prompt_tokens = prompt_,
                         .total_tokens = total_};
    const StepBatch batch{step_, {item}};
    requests_.begin_step(batch);
    for (; length_ < end; ++length_) {
      EntryMeta entry;
      entry.request = RequestId(0);
      entry.position = length_;
      const auto stored = shard_->append(shard_->find_or_add(RequestId(0), 0, 0, Rank(0), total_), entry, step_);
      if (payload_) store(stored);
      if (geometry_->scores_payload()) shard_->state(shard_->at(stored.page, stored.slot)) = {payload_state(entry.position), 0};
    }
    for_each_live([&](std::uint32_t page, std::uint32_t slot, std::uint32_t position) {
      const auto it = row.find(position);
      if (it == row.end()) return;
      if (!geometry_->keeps_state()) return;
      evict::Mass& state = shard_->state(shard_->at(page, slot));
      std::visit(
          [&](const auto& rule) {
            if constexpr (requires { rule.mass(0.0F, 0.0F); }) state = {rule.mass(state.value, it->second), state.seen + 1};
          },
          spec_.eviction.rule);
    });
    if (const std::uint32_t kept = geometry_->group_reads().queries; kept > 0) {
      const std::vector<float> q = row_of(3, length_ - 1, spec_.model.n_heads);
      shard_->find(RequestId(0), 0, 0)->recent.push(length_ - 1, std::as_bytes(std::span(q)), kept);
    }
    evictor_->decide(*shard_, step_);
    const auto before = live();
    evictor_->execute(*shard_);
    step_ += 1;
    auto after = live();
    evicted_.clear();
    std::set_difference(before.begin(), before.end(), after.begin(), after.end(), std::back_inserter(evicted_));
    return after;
  }
  /// Accesses the pages that hold these positions, in ascending order of position.
  void access(const std::set<std::uint32_t>& positions) {
    std::map<std::uint32_t, std::uint32_t> pages;
    for_each_live([&](std::uint32_t page, std::uint32_t, std::uint32_t position) {
      if (positions.contains(position)) pages.emplace(position, page);
    });
    std::visit(
        [&](const auto& rule) {
          if constexpr (evict::follows_access<std::decay_t<decltype(rule)>>) {
            for (const auto& [position, page] : pages) {
              evict::Queue queue = shard_->queue_of(shard_->list_of(shard_->pages()[page]));
              shard_->touch_page(rule, queue, page, step_);
            }
          }
        },
        spec_.eviction.rule);
  }
  /// Channel c of head h of an entry's key (kind 1) or value (2), or of a step's query (3).
  static float value(std::uint32_t kind, std::uint32_t position, std::uint32_t h, std::uint32_t c) {
    return 2.0F * uniform_float(static_cast<std::uint32_t>(hash_words(41, kind, position, h, c))) - 1.0F;
  }
  static const ModelShape& model() {
    static const ModelShape shape = gqa_model(1);
    return shape;
  }
  void reduce_pages(PageReducer reducer) { spec_.eviction.page_reducer = reducer; }
  void break_ties(Ties ties) { spec_.eviction.ties = ties; }
  /// Takes and frees pages under another request, so that the next ones get other numbers than in a new shard.
  void scramble(std::uint32_t n) {
    std::vector<std::uint32_t> order;
    for (std::uint32_t i = 0; i < n; ++i) {
      EntryMeta entry;
      entry.request = RequestId(1 + i % 7);
      entry.position = i;
      order.push_back(entry.request.value);
      shard_->append(shard_->find_or_add(entry.request, 0, 0, Rank(0), total_), entry, 0);
    }
    for (const std::uint32_t r : {3U, 1U, 7U, 5U, 2U, 6U, 4U}) (void)shard_->finish(RequestId(r));
    shard_->dirty_groups().clear();
  }
  /// What a rule of keys and values would have made of an entry.
  static float payload_state(std::uint32_t position) { return uniform_float(static_cast<std::uint32_t>(hash_words(77, position))); }
  std::set<std::uint32_t> live() {
    std::set<std::uint32_t> out;
    for_each_live([&](std::uint32_t, std::uint32_t, std::uint32_t position) { out.insert(position); });
    return out;
  }
  const std::vector<std::uint32_t>& evicted() const { return evicted_; }
  StepRecord& counts() { return counters_->step; }

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

  static std::vector<float> row_of(std::uint32_t kind, std::uint32_t position, std::uint32_t n_heads) {
    std::vector<float> out;
    for (std::uint32_t h = 0; h < n_heads; ++h) {
      for (std::uint32_t c = 0; c < model().d_k; ++c) out.push_back(value(kind, position, h, c));
    }
    return out;
  }
  void store(const Shard::Stored& stored) {
    const std::vector<float> k = row_of(1, length_, spec_.model.n_kv_heads), v = row_of(2, length_, spec_.model.n_kv_heads);
    const AppendOp op{stored.block, stored.slot, std::as_bytes(std::span(k)).data(), std::as_bytes(std::span(v)).data()};
    backend_->append({&op, 1});
  }

  RunSpec spec_;
  bool payload_ = false;
  std::uint32_t total_, prompt_, length_ = 0;
  std::uint64_t step_ = 0;
  RequestTable requests_{8};
  std::unique_ptr<Geometry> geometry_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Counters> counters_;
  std::unique_ptr<Shard> shard_;
  std::unique_ptr<Evictor> evictor_;
  std::vector<std::uint32_t> evicted_;
};

inline std::map<std::uint32_t, float> random_row(std::uint64_t seed, std::uint64_t step, std::uint32_t n) {
  std::map<std::uint32_t, float> row;
  for (std::uint32_t p = 0; p < n; ++p) row[p] = uniform_float(static_cast<std::uint32_t>(hash_words(seed, step, p)));
  return row;
}

inline Set some_positions(std::uint32_t t) {
  Set out;
  for (std::uint32_t p = 0; p + 1 < t; ++p) {
    if (hash_words(3, t, p) % 4 == 0) out.insert(p);
  }
  return out;
}

/// A rule of the catalogue, and what its type says of it. Suites take it as a value: a suite by type costs a minute of compile time.
struct CatalogueRule {
  std::string_view name;
  bool chooses, has_tokens, has_own_order, needs_mass, scores_groups;  // has_own_order: a queue that accesses reorder
  EvictRule rule;
  EvictRule small;  // with windows that fit short histories
};
[[nodiscard]] const std::vector<CatalogueRule>& evict_rules();

class EveryEvictRule : public ::testing::TestWithParam<CatalogueRule> {};

}  // namespace moekv::testing
