// A slow simulation of page accesses under action demote, from the trace's rows alone: pages of (request, layer, expert), lru or fifo, budgets in
// pages.
#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "engine/geometry.hpp"
#include "engine/step_batch.hpp"

namespace moekv::testing {

/// For layout expert with key same_layer, routed reads of all copies, all prompt queries, no protection, one head group.
class TierSimulation {
 public:
  TierSimulation(const Geometry& geometry, TraceSource& trace, bool lru) : geometry_(&geometry), trace_(&trace), lru_(lru) {}

  void step(const StepBatch& batch) {
    for (const PageName& key : due_) {
      pages_.at(key).away = true;
      demoted += 1;
    }
    due_.clear();
    looked_up_.clear();
    entered_.clear();
    recalled_now_.clear();
    rows_now_.clear();
    for (const BatchItem& item : batch.items) {
      rows_[item.request.value] = item;
      rows_now_.insert(item.request.value);
      for (std::uint32_t l = 0; l < geometry_->layers().size(); ++l) store_and_read(item, l);
    }
    for (const PageName& key : looked_up_) {
      lookups += 1;
      hits += !recalled_now_.contains(key) ? 1 : 0;
    }
    for (const BatchItem& item : batch.items) {
      if (item.finishes()) forget(item.request.value);
    }
    for (const PageName& key : entered_) order_[list_of(key)];
    for (auto& [list, order] : order_) decide(list, order);
  }

  std::int64_t lookups = 0, hits = 0, recalled = 0, demoted = 0;

 private:
  using PageName = std::tuple<std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t>;  // request, layer, expert, index in the chain
  using ListName = std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>;                 // request, layer, shard; or only the shard
  struct SimPage {
    std::vector<std::uint32_t> positions;
    bool away = false;
  };

  void store_and_read(const BatchItem& item, std::uint32_t layer) {
    const std::uint32_t r = item.request.value;
    RoutingRows rows;
    trace_->read(item.request, item.begin, item.end, 0, static_cast<std::uint32_t>(geometry_->layers().size()), WantLogits::no, rows);
    const std::size_t k = geometry_->top_k(), layers = geometry_->layers().size();
    const auto expert = [&](std::uint32_t p, std::size_t i) { return rows.ids[((p - item.begin) * layers + layer) * k + i]; };
    for (std::uint32_t p = item.begin; p < item.end; ++p) {
      for (std::size_t i = 0; i < k; ++i) {
        std::uint32_t& n = chain_[{r, layer, expert(p, i)}];
        if (n == 0 || pages_.at({r, layer, expert(p, i), n - 1}).positions.size() == geometry_->page_slots()) {
          entered_.insert({r, layer, expert(p, i), n});
          pages_[{r, layer, expert(p, i), n}];
          n += 1;
        }
        const PageName key{r, layer, expert(p, i), n - 1};
        come_back(key);
        pages_[key].positions.push_back(p);
      }
    }
    for (std::uint32_t p = item.query_begin; p < item.end; ++p) {
      for (std::size_t i = 0; i < k; ++i) {
        for (std::uint32_t n = 0; n < chain_[{r, layer, expert(p, i)}]; ++n) {
          const PageName key{r, layer, expert(p, i), n};
          looked_up_.insert(key);
          if (pages_[key].positions.front() <= p) come_back(key);
        }
      }
    }
  }

  void come_back(const PageName& key) {
    if (!pages_[key].away) return;
    pages_[key].away = false;
    recalled += 1;
    recalled_now_.insert(key);
    entered_.insert(key);
  }

  void forget(std::uint32_t request) {
    const auto of_it = [&](const PageName& key) { return std::get<0>(key) == request; };
    std::erase_if(pages_, [&](const auto& p) { return of_it(p.first); });
    std::erase_if(chain_, [&](const auto& c) { return std::get<0>(c.first) == request; });
    std::erase_if(looked_up_, of_it);
    std::erase_if(entered_, of_it);
    for (auto& [list, order] : order_) std::erase_if(order, of_it);
  }

  ListName list_of(const PageName& key) const {
    const auto& [r, l, e, n] = key;
    const std::uint32_t shard = geometry_->placement().expert_shard(l, RequestId(r), 0, ExpertId(static_cast<std::uint16_t>(e))).value;
    if (geometry_->spec().eviction.scope == EvictScope::shard) return {0, 0, shard};
    return {r, l, shard};
  }

  std::uint64_t budget(const ListName& list) const {
    if (geometry_->spec().eviction.scope == EvictScope::shard) return geometry_->spec().eviction.budget.amount;
    return geometry_->request_budget(geometry_->layers()[std::get<1>(list)], ShardId(std::get<2>(list)), 0, ShardId(0));
  }

  bool pinned(const PageName& key) const {
    const BatchItem& row = rows_.at(std::get<0>(key));
    const SimPage& page = pages_.at(key);
    if (row.end < row.prompt_tokens) return true;
    if (!rows_now_.contains(std::get<0>(key))) return false;
    const bool appended = page.positions.back() >= row.begin;
    const bool partial = page.positions.size() < geometry_->page_slots();
    if (partial && (appended || looked_up_.contains(key))) return true;
    return appended && row.end != row.prompt_tokens;
  }

  /// Accesses in ascending order; a page that enters makes room first. Pages whose turn is still to come are safe.
  void decide(const ListName& list, std::vector<PageName>& order) {
    std::vector<PageName> turns;
    std::set<PageName> all = looked_up_;
    all.insert(entered_.begin(), entered_.end());
    for (const PageName& key : all) {
      const bool enters = entered_.contains(key);
      if (list_of(key) == list && !pages_[key].away && (enters || lru_)) turns.push_back(key);
    }
    std::size_t resident = order.size();
    std::set<PageName> waiting(turns.begin(), turns.end());
    const auto make_room = [&](std::size_t room) {
      while (resident > room) {
        const auto victim = std::find_if(order.begin(), order.end(), [&](const PageName& key) { return !waiting.contains(key) && !pinned(key); });
        if (victim == order.end()) return;
        due_.push_back(*victim);
        order.erase(victim);
        resident -= 1;
      }
    };
    const auto limit = static_cast<std::size_t>(budget(list));
    for (const PageName& key : turns) {
      waiting.erase(key);
      if (entered_.contains(key)) {
        make_room(limit > 0 ? limit - 1 : 0);
        resident += 1;
      } else {
        order.erase(std::find(order.begin(), order.end(), key));
      }
      order.push_back(key);
    }
    make_room(limit);
  }

  const Geometry* geometry_;
  TraceSource* trace_;
  bool lru_;
  std::map<PageName, SimPage> pages_;
  std::map<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>, std::uint32_t> chain_;
  std::map<std::uint32_t, BatchItem> rows_;
  std::set<std::uint32_t> rows_now_;
  std::set<PageName> looked_up_, entered_, recalled_now_;
  std::map<ListName, std::vector<PageName>> order_;
  std::vector<PageName> due_;
};

}  // namespace moekv::testing
