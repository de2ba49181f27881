// The order that lru and mru keep of pages, against lists in which every page of every accessed chain moves by itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

using PageList = std::vector<std::uint32_t>;  // oldest first

PageList in_order(Shard& shard, EvictList& list) {
  evict::Queue queue = shard.queue_of(list);
  PageList pages;
  for (std::uint32_t u = queue.list(0).head; u != evict::no_unit; u = queue.node(u).next) pages.push_back(u);
  return pages;
}

/// Groups that the step queried, in the order in which its accesses apply.
std::vector<Group*> queried_in(Shard& shard, std::uint64_t step) {
  std::vector<Group*> groups;
  for (Group& group : shard.groups()) {
    if (group.in_use && group.queried_step == step) groups.push_back(&group);
  }
  std::sort(groups.begin(), groups.end(),
            [](const Group* a, const Group* b) { return std::tie(a->request, a->layer) < std::tie(b->request, b->layer); });
  return groups;
}

void move_to_end(PageList& list, const PageList& pages) {
  for (const std::uint32_t p : pages) {
    std::erase(list, p);
    list.push_back(p);
  }
}

class RecencyOrder : public ::testing::TestWithParam<std::tuple<bool, EvictScope, std::uint32_t>> {};  // lru, scope, sinks

TEST_P(RecencyOrder, IsThatOfPagesThatMoveOneByOne) {
  const bool lru = std::get<0>(GetParam());
  const EvictScope scope = std::get<1>(GetParam());
  const std::uint32_t sinks = std::get<2>(GetParam());
  ModelShape model = testing::gqa_model(2);
  model.gate.n_experts = 7;
  RunSpec spec = testing::small_spec(std::move(model));
  testing::use_expert_layout(spec);
  spec.cluster.ranks = 2;  // several chains of a shard share a budget
  spec.page.slots = 4;
  spec.read.scope = ReadScope::routed;
  spec.probe.samples = 0;
  if (lru) spec.eviction.rule = evict::Lru{};
  if (!lru) spec.eviction.rule = evict::Mru{};
  spec.eviction.scope = scope;
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  if (scope == EvictScope::shard) spec.eviction.budget = {BudgetKind::pages, 40, 1, 1};
  spec.eviction.protect = {sinks, 2};
  testing::RandomTrace trace(spec.model, testing::requests_of({{30, 60}, {0, 90}, {50, 1}, {7, 70}, {0, 40}}), 5);
  using ListKey = std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>;  // shard, and under scope request: request, layer
  std::map<ListKey, PageList> expected;
  std::size_t reordered = 0;
  const auto check = [&](const StepBatch& batch, ShardedCache& cache, StepDriver&) {
    for (const Shard& held : cache.shards()) {
      auto& shard = const_cast<Shard&>(held);
      std::map<ListKey, EvictList*> lists;
      for (Group* group : queried_in(shard, batch.step)) {
        const bool one = scope == EvictScope::shard;
        const ListKey key{shard.id().value, one ? 0 : group->request.value, one ? 0 : group->layer};
        lists[key] = one ? &shard.shard_list() : &group->list;
        for (const std::uint32_t c : group->order) {
          const Chain& chain = group->chains[c];
          if ((group->query_experts[0] >> chain.expert.value & 1U) != 0) move_to_end(expected[key], chain.pages);
        }
      }
      for (const auto& [key, list] : lists) {
        const PageList pages = in_order(shard, *list);
        PageList& naive = expected[key];
        std::erase_if(naive, [&](std::uint32_t p) { return std::find(pages.begin(), pages.end(), p) == pages.end(); });  // victims and sinks
        ASSERT_EQ(pages, naive) << "step " << batch.step;
        reordered += std::is_sorted(pages.begin(), pages.end()) ? 0 : 1;
      }
    }
  };
  const auto transport = make_local_transport();
  const auto backend = make_backend("count", 0);
  const RunOutcome out = run_replay(spec, *transport, *backend, trace, check);
  EXPECT_TRUE(out.violations.empty()) << out.violations.front();
  EXPECT_GT(testing::totals(out).evictions, 100);
  EXPECT_GT(reordered, 100U);
}

INSTANTIATE_TEST_SUITE_P(Rules, RecencyOrder,
                         ::testing::Combine(::testing::Bool(), ::testing::Values(EvictScope::request, EvictScope::shard), ::testing::Values(0U, 9U)));

}  // namespace
}  // namespace moekv
