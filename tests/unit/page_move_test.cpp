// What a page takes along when it moves: its bytes and tables, attention state, place in the queues, shadow of the history, and room at its target.
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <array>
#include <map>

#include "support/replan_fixture.hpp"

namespace moekv {
namespace {

using testing::Entry;
using testing::for_each_entry;
using testing::replan_spec;

TEST(PageMove, SealedPagesMoveWithTheirTables) {
  const std::vector<std::pair<const char*, Codec>> codecs{
      {"int8_token", codec::Int8Token{}}, {"kivi4", codec::Kivi4{}}, {"lowrank.pca", codec::LowrankPca{}}, {"chan_prune.think", codec::PruneThink{}}};
  for (const auto& [name, codec] : codecs) {
    SCOPED_TRACE(name);
    RunSpec spec = replan_spec(3);
    spec.page.slots = 32;
    spec.compression.k = spec.compression.v = codec;
    spec.payload.element = ElementFormat::bf16;
    const auto requests = testing::requests_of({{160, 40}, {90, 30}});
    const auto worst = [&](const RunSpec& s, std::int64_t& sealed_moves) {
      testing::RandomTrace trace(s.model, requests, 11);
      const auto transport = make_local_transport();
      const auto device = make_backend("host", 0);
      const RunOutcome out = testing::run_replay(s, *transport, *device, trace);
      EXPECT_TRUE(out.violations.empty()) << out.violations.front();
      const StepRecord sum = testing::totals(out);
      sealed_moves = sum.pages_moved;
      EXPECT_GT(sum.sealed_entries, 0);
      double mean = 0;
      for (const ProbeRecord& p : out.probes) mean += p.attn_out_err / static_cast<double>(out.probes.size());
      return mean;
    };
    std::int64_t moved = 0, none = 0;
    const double with = worst(spec, moved);
    spec.placement.replan_every_steps = 0;
    const double without = worst(spec, none);
    EXPECT_GT(moved, 20);
    EXPECT_EQ(none, 0);
    EXPECT_LT(with, 1.15 * without + 1e-3) << "moved pages decode worse than those that stayed";
  }
}

TEST(PageMove, EvictionUnderEveryKindOfBudget) {
  std::int64_t room = 0, cold = 0;
  for (const EvictRule& rule : std::vector<EvictRule>{evict::Lru{}, evict::Fifo{}, evict::Sieve{}, evict::Slru{}, evict::Lfu{}, evict::H2oSum{},
                                                      evict::Random{}, evict::Streaming{}}) {
    for (const EvictScope scope : {EvictScope::request, EvictScope::shard}) {
      for (const BudgetKind kind : {BudgetKind::tokens, BudgetKind::pages}) {
        RunSpec spec = replan_spec(3);
        spec.page.slots = 8;
        spec.read.scope = ReadScope::routed;
        spec.eviction.rule = rule;
        spec.eviction.scope = scope;
        const bool pages = kind == BudgetKind::pages;
        const std::uint64_t amount = scope == EvictScope::shard ? (pages ? 55 : 220) : (pages ? 20 : 24);
        spec.eviction.budget = {kind, amount, 1, 1};
        const std::string_view name = std::visit([](const auto& r) { return r.name; }, rule);
        SCOPED_TRACE(fmt::format("{} scope {} kind {}", name, static_cast<int>(scope), static_cast<int>(kind)));
        const RunOutcome out = testing::run_replanned(spec);
        EXPECT_TRUE(out.violations.empty()) << out.violations.front();
        const StepRecord sum = testing::totals(out);
        EXPECT_GT(sum.evictions, 0);
        EXPECT_GT(sum.pages_moved, 0);
        room += sum.replan_evictions;
        cold += sum.cold_misses;
      }
    }
  }
  EXPECT_GT(room, 0);
  EXPECT_GT(cold, 0);
}

/// Attention state of every entry, run with and without moves.
TEST(PageMove, AttentionStateMovesAlong) {
  const auto states = [](std::uint32_t every) {
    RunSpec spec = replan_spec(every);
    if (every == 0) spec.placement.load = LoadSource::trace;
    spec.eviction.rule = evict::H2oSum{};
    spec.eviction.budget = {BudgetKind::tokens, 100000, 1, 1};
    spec.probe.samples = 0;
    std::vector<std::map<Entry, evict::Mass>> steps;
    testing::run_replanned(spec, [&](const StepBatch&, ShardedCache& cache, StepDriver&) {
      steps.emplace_back();
      for_each_entry(cache, [&](const Shard& shard, std::uint32_t, std::size_t i, const Entry& e) { steps.back()[e] = const_cast<Shard&>(shard).state(i); });
    });
    return steps;
  };
  const auto fixed = states(0), moving = states(2);
  ASSERT_EQ(fixed.size(), moving.size());
  for (std::size_t s = 0; s < fixed.size(); ++s) {
    ASSERT_EQ(fixed[s].size(), moving[s].size());
    for (const auto& [entry, mass] : fixed[s]) {
      ASSERT_NEAR(moving[s].at(entry).value, mass.value, 1e-4F) << "step " << s;
      ASSERT_EQ(moving[s].at(entry).seen, mass.seen);
    }
  }
}

/// Two shards by themselves: the order and marks of queues, the shadow of the history, budgets.
TEST(PageMove, QueuesAndHistoryMoveAlong) {
  RunSpec spec = replan_spec(1);
  spec.eviction.rule = evict::Sieve{};
  spec.eviction.budget = {BudgetKind::pages, 400, 1, 1};
  testing::RandomTrace trace(spec.model, testing::default_requests(), 11);
  const auto transport = make_local_transport();
  const Geometry geometry(spec, trace.info(), 4, plan_experts(spec, trace, 4, *transport));
  const auto backend = make_count_backend();
  Shard from(geometry, ShardId(0), *backend, 100), to(geometry, ShardId(1), *backend, 100);
  const auto fill = [&](Shard& shard, std::uint16_t expert, std::uint32_t first, std::uint32_t n) {
    Group& group = shard.find_or_add(RequestId(2), 1, 0, Rank(2), 58);
    for (std::uint32_t i = 0; i < n; ++i) {
      const std::array<std::uint16_t, 3> experts{expert, 7, 8};
      const std::array<std::uint8_t, 3> copies{0, 1, 2};
      EntryMeta meta;
      meta.request = RequestId(2);
      meta.position = first + i;
      meta.expert = ExpertId(expert);
      meta.n_copies = 3;
      meta.experts = experts;
      meta.copy_of = copies;
      (void)shard.append(group, meta, i / 8);
    }
    return &group;
  };
  fill(from, 3, 0, 27);  // pages of 8, 8, 8, 3
  fill(from, 4, 40, 9);
  fill(to, 3, 27, 10);
  Group& group = *from.find(RequestId(2), 1, 0);
  Chain& chain = *Shard::chain_of(group, ExpertId(3), false);
  const std::vector<std::uint32_t> pages = chain.pages;
  evict::Queue left = from.queue_of(from.list_of(from.pages()[pages[1]]));
  from.touch_page(evict::Sieve{}, left, pages[1], 5);
  for (std::uint32_t slot = 0; slot < 8; ++slot) (void)from.kill(pages[0], slot);  // the history keeps the page that went
  ASSERT_EQ(chain.pages.size(), 3U);
  std::vector<std::byte> wire;
  WireWriter out(wire);
  const auto g = static_cast<std::uint32_t>(&group - from.groups().data());
  const auto c = static_cast<std::uint32_t>(&chain - group.chains.data());
  const ChainMove head = from.describe_chain(g, c, ShardId(1));
  EXPECT_EQ(head.n_pages, 3U);
  EXPECT_EQ(head.n_shadow, 4U);
  from.pack_chain(g, c, out);
  from.remove_chain(g, c);
  from.close_gaps();
  EXPECT_EQ(from.live_entries(), 9);
  ASSERT_NE(from.find(RequestId(2), 1, 0), nullptr);
  EXPECT_EQ(from.find(RequestId(2), 1, 0)->list.pages, 2U);
  WireReader in(wire);
  std::vector<std::uint32_t> landed;
  to.unpack_chain(head, 58, in, landed);
  EXPECT_TRUE(in.done());
  to.settle(RequestTable(8));
  EXPECT_EQ(to.live_entries(), 10 + 19);
  Group& joined = *to.find(RequestId(2), 1, 0);
  const Chain& now = *Shard::chain_of(joined, ExpertId(3), false);
  EXPECT_EQ(now.pages.size(), 5U);
  EXPECT_EQ(now.shadow_live.size(), 6U);
  EXPECT_EQ(now.shadow_hits, 5U) << "the page that was evicted before is missed here too";
  EXPECT_EQ(now.written, 37);
  EXPECT_EQ(now.alive, 29);
  // The queue: the two pages that were here, then the three that came, in their order and with their marks.
  evict::Queue queue = to.queue_of(joined.list);
  std::vector<std::uint32_t> order;
  std::vector<int> marks;
  for (std::uint32_t u = queue.list(0).head; u != evict::no_unit; u = queue.node(u).next) {
    order.push_back(to.pages()[u].min_position);
    marks.push_back(queue.node(u).mark);
  }
  EXPECT_EQ(order, (std::vector<std::uint32_t>{27, 35, 8, 16, 24}));
  EXPECT_EQ(marks, (std::vector<int>{0, 0, 1, 0, 0}));
  // The open page of the target stays open; the last group to leave frees its place.
  EXPECT_EQ(to.pages()[now.open].min_position, 35U);
  const std::uint32_t second = group.order.front();
  from.remove_chain(g, second);
  EXPECT_EQ(from.find(RequestId(2), 1, 0), nullptr);
  EXPECT_EQ(from.block_bytes(), 0);
}

}  // namespace
}  // namespace moekv
