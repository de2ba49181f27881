// Plans of experts that change under a run: entries follow their replicas, attention does not notice, and what it cost is counted.
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <array>
#include <map>
#include <set>

#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

using Entry = std::array<std::uint32_t, 5>;  // request, layer, position, copy, head group

RunSpec replan_spec(std::uint32_t every, ModelShape model = testing::gqa_model()) {
  RunSpec spec = testing::small_spec(std::move(model));
  testing::use_expert_layout(spec, ShardMap::eplb);
  spec.placement.load = LoadSource::window;
  spec.placement.replan_every_steps = every;
  spec.placement.replicas = 24;
  spec.cluster.network.ranks_per_node = 2;
  return spec;
}

RunOutcome run(const RunSpec& spec, const testing::AfterStep& after_step = {}, const char* backend = "host") {
  testing::RandomTrace trace(spec.model, testing::requests_of({{40, 9}, {0, 25}, {57, 1}, {13, 20}, {1, 1}}), 11);
  const auto transport = make_local_transport();
  const auto device = make_backend(backend, 0);
  return testing::run_replay(spec, *transport, *device, trace, after_step);
}

template <class F>
void for_each_live(const ShardedCache& cache, F&& f) {
  for (const Shard& shard : cache.shards()) {
    for (std::uint32_t p = 0; p < shard.pages().size(); ++p) {
      if (shard.pages()[p].group == no_index) continue;
      const Group& group = shard.groups()[shard.pages()[p].group];
      for (std::uint32_t slot = 0; slot < shard.pages()[p].used; ++slot) {
        if (!shard.live(p, slot)) continue;
        const std::size_t i = shard.at(p, slot);
        f(shard, p, i, Entry{group.request.value, group.layer, shard.position(i), shard.copy(i), group.head_group});
      }
    }
  }
}

void expect_dense(const RunOutcome& out, double tolerance = 1e-5) {
  ASSERT_FALSE(out.probes.empty());
  for (const ProbeRecord& p : out.probes) {
    ASSERT_EQ(p.read_tokens, p.history_tokens) << "request " << p.request << " layer " << p.layer << " position " << p.position;
    ASSERT_LE(p.attn_out_err, tolerance) << "request " << p.request << " layer " << p.layer << " position " << p.position;
  }
  EXPECT_TRUE(out.violations.empty()) << out.violations.front();
}

TEST(Replan, AttentionStaysDense) {
  ModelShape mixed = testing::gqa_model(4);
  mixed.layers[0].moe = false;
  mixed.layers[1].attention = AttentionKind::window;
  mixed.layers[1].window_tokens = 10;
  mixed.layers[2].sinks = true;
  for (const ModelShape& shape : {testing::gqa_model(), mixed, testing::mla_model()}) {
    for (const std::uint32_t every : {1U, 3U, 7U}) {
      for (const std::uint32_t replicas : {12U, 24U}) {
        for (const ShadowRule shadow : {ShadowRule::none, ShadowRule::fastermoe}) {
          RunSpec spec = replan_spec(every, shape);
          spec.placement.replicas = replicas;
          spec.placement.shadow = shadow;
          spec.placement.shadow_tflops = 1e-6;  // a busy expert costs more than copies of it
          spec.cluster.shards_per_rank = every == 3 ? 3 : 1;
          spec.page.head_groups = shape.mla() ? 1 : every == 7 ? 2 : 1;
          spec.read.copies = every == 3 ? CopyRule::hash : CopyRule::surviving;
          SCOPED_TRACE(fmt::format("{} every {} replicas {} shadow {}", shape.name, every, replicas, static_cast<int>(shadow)));
          const RunOutcome out = run(spec);
          expect_dense(out);
          if (HasFatalFailure()) return;
          const StepRecord sum = testing::totals(out);
          EXPECT_GT(sum.replans, 2);
          EXPECT_GT(sum.pages_moved, 0);
          EXPECT_GT(sum.wire_pages, 0);
          EXPECT_GT(sum.t_replan_model, 0);
          EXPECT_LE(sum.t_replan_model, sum.t_network_model + sum.t_replan_model);
          EXPECT_EQ(sum.shadow_stores > 0, shadow != ShadowRule::none);
        }
      }
    }
  }
}

TEST(Replan, EveryEntryIsThereOnceAndWhereThePlanSays) {
  RunSpec fixed = replan_spec(0);
  fixed.placement.load = LoadSource::trace;
  std::vector<std::set<Entry>> expected;
  run(fixed, [&](const StepBatch&, ShardedCache& cache, StepDriver&) {
    expected.emplace_back();
    for_each_live(cache, [&](const Shard&, std::uint32_t, std::size_t, const Entry& e) { expected.back().insert(e); });
  });
  std::size_t step = 0, moved = 0;
  std::map<Entry, std::uint32_t> before;
  run(replan_spec(2), [&](const StepBatch& batch, ShardedCache& cache, StepDriver& driver) {
    std::map<Entry, std::uint32_t> now;
    const Geometry& geometry = driver.geometry();
    for_each_live(cache, [&](const Shard& shard, std::uint32_t page, std::size_t i, const Entry& e) {
      EXPECT_TRUE(now.emplace(e, shard.id().value).second) << "an entry lies twice";
      const Group& group = shard.groups()[shard.pages()[page].group];
      const ExpertId expert = group.chains[shard.pages()[page].chain].expert;
      ASSERT_TRUE(expert.valid());
      bool holds = false;
      geometry.for_each_home_of(geometry.layers()[group.layer], expert, [&](ShardId s) { holds = holds || s == shard.id(); });
      EXPECT_TRUE(holds) << "shard " << shard.id().value << " holds no replica of expert " << expert.value;
      EXPECT_NE(std::find(shard.experts(i).begin(), shard.experts(i).end(), expert.value), shard.experts(i).end());
    });
    std::set<Entry> entries;
    for (const auto& [entry, shard] : now) {
      entries.insert(entry);
      if (const auto it = before.find(entry); it != before.end() && it->second != shard) {
        moved += 1;
        EXPECT_EQ(batch.step % 2, 0U) << "an entry moved without a new plan";
      }
    }
    EXPECT_EQ(entries, expected[step]) << "step " << step;
    before = now;
    step += 1;
  });
  EXPECT_GT(moved, 100U);
}

TEST(Replan, CountAndHostDecideAlike) {
  for (const ShadowRule shadow : {ShadowRule::none, ShadowRule::fastermoe}) {
    RunSpec spec = replan_spec(3);
    spec.placement.shadow = shadow;
    spec.placement.shadow_tflops = 1e-6;
    spec.read.scope = ReadScope::routed;
    spec.eviction.rule = evict::Lru{};
    spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
    const RunOutcome host = run(spec), counted = run(spec, {}, "count");
    EXPECT_EQ(to_hex(host.digest), to_hex(counted.digest));
    const StepRecord a = testing::totals(host), b = testing::totals(counted);
    for_each_field(StepRecord::metrics, [&](const auto& m) {
      if (m.claim == ClaimClass::counted && m.name != "metadata_bytes") EXPECT_EQ(a.*m.member, b.*m.member) << m.name;
    });
    EXPECT_TRUE(counted.violations.empty()) << counted.violations.front();
  }
}

TEST(Replan, WindowHoldsTheChoicesOfTheStepsBefore) {
  for (const std::uint32_t window : {2U, 4U, 0U, 9U}) {
    RunSpec spec = replan_spec(4);
    spec.placement.window_steps = window;
    spec.metrics.window_steps = 1;
    const std::size_t length = window > 0 ? window : 4;
    std::vector<std::int64_t> tokens;
    const RunOutcome out = run(spec, [&](const StepBatch& batch, ShardedCache&, StepDriver&) {
      std::int64_t n = 0;
      for (const BatchItem& item : batch.items) n += item.end - item.begin;
      tokens.push_back(n);
    });
    std::int64_t seen = 0;
    for (const StepRecord& s : out.steps) {
      if (s.replans == 0) continue;
      std::int64_t choices = 0;
      for (std::size_t i = 0; i < std::min<std::size_t>(length, static_cast<std::size_t>(s.first_step)); ++i)
        choices += tokens[static_cast<std::size_t>(s.first_step) - 1 - i] * 3;
      EXPECT_EQ(s.plan_load_mean, 3 * std::llround(static_cast<double>(choices) / 4)) << "window " << window << " step " << s.first_step;
      EXPECT_LE(s.plan_load_max_after, s.plan_load_max_before + 3);
      seen += 1;
    }
    EXPECT_GE(seen, 5);
    const StepRecord sum = testing::totals(out);
    EXPECT_LT(sum.plan_load_max_after, sum.plan_load_max_before);
  }
}

TEST(Replan, SealedPagesMoveWithTheirTables) {
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

TEST(Replan, EvictionUnderEveryKindOfBudget) {
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
        const std::uint64_t amount = scope == EvictScope::shard ? 220 : pages ? 240 : 24;
        spec.eviction.budget = {kind, pages ? amount / 4 : amount, 1, 1};
        SCOPED_TRACE(fmt::format("{} scope {} kind {}", std::visit([](const auto& r) { return r.name; }, rule), static_cast<int>(scope), static_cast<int>(kind)));
        const RunOutcome out = run(spec);
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
TEST(Replan, AttentionStateMovesAlong) {
  const auto states = [](std::uint32_t every) {
    RunSpec spec = replan_spec(every);
    if (every == 0) spec.placement.load = LoadSource::trace;
    spec.eviction.rule = evict::H2oSum{};
    spec.eviction.budget = {BudgetKind::tokens, 100000, 1, 1};
    spec.probe.samples = 0;
    std::vector<std::map<Entry, evict::Mass>> steps;
    run(spec, [&](const StepBatch&, ShardedCache& cache, StepDriver&) {
      steps.emplace_back();
      for_each_live(cache, [&](const Shard& shard, std::uint32_t, std::size_t i, const Entry& e) { steps.back()[e] = const_cast<Shard&>(shard).state(i); });
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

TEST(Replan, ShadowsSaveTraffic) {
  RunSpec spec = replan_spec(4);
  spec.read.scope = ReadScope::routed;
  const StepRecord plain = testing::totals(run(spec));
  spec.placement.shadow = ShadowRule::fastermoe;
  spec.placement.shadow_tflops = 1e-6;
  const StepRecord shadowed = testing::totals(run(spec));
  EXPECT_EQ(plain.shadow_plans, 0);
  EXPECT_GT(shadowed.shadow_plans, 0);
  EXPECT_EQ(shadowed.shadow_weight_bytes % (3 * 2 * 2 * 64 * 64 * 4), 0) << "three other ranks, two matrices of 64 x 128 fp32";
  EXPECT_GT(shadowed.shadow_weight_bytes, 0);
  EXPECT_LT(shadowed.wire_kv, plain.wire_kv);
  EXPECT_LT(shadowed.query_ranks, plain.query_ranks);
  EXPECT_EQ(plain.stored_copies, shadowed.stored_copies);
  // Every expert shadowed from the first plan on: what layout local does.
  spec.placement.load = LoadSource::trace;
  spec.placement.replan_every_steps = 0;
  spec.cluster.network.intra_node.bandwidth_gb_s = spec.cluster.network.inter_node.bandwidth_gb_s = 1e6;
  const RunOutcome all = run(spec);
  const StepRecord sum = testing::totals(all);
  EXPECT_EQ(sum.shadow_plans, 3 * 12);
  EXPECT_EQ(sum.wire_kv + sum.wire_q + sum.wire_partial, 0);
  EXPECT_EQ(sum.shadow_stores, sum.stored_copies);
  EXPECT_GT(sum.shadow_saved_bytes, 0);
  EXPECT_EQ(sum.query_ranks, sum.queries);
}

TEST(Replan, NodesOfATokenFollowTheGroupsOfTheGate) {
  ModelShape model = testing::gqa_model();
  model.gate.n_experts = 16;
  model.gate.top_k = 4;
  model.gate.n_group = 4;
  model.gate.topk_group = 2;
  RunSpec spec = testing::small_spec(model);
  testing::use_expert_layout(spec, ShardMap::eplb);
  spec.cluster.ranks = 8;
  spec.cluster.network.ranks_per_node = 2;
  spec.placement.replicas = 24;
  spec.placement.load = LoadSource::window;
  spec.placement.replan_every_steps = 3;
  spec.routing.rule = route::Dsv3{};
  spec.routing.key = RoutingKey::same_layer;
  spec.read.scope = ReadScope::routed;
  const auto replay = [&] {
    testing::RandomTrace trace(spec.model, testing::default_requests(), 11);
    trace.add_logits();
    const auto transport = make_local_transport();
    const auto device = make_backend("count", 0);
    const RunOutcome out = testing::run_replay(spec, *transport, *device, trace);
    EXPECT_TRUE(out.violations.empty()) << out.violations.front();
    return testing::totals(out);
  };
  const StepRecord limited = replay();
  EXPECT_LE(limited.store_nodes, 2 * limited.distinct_insertions) << "two groups, each on one node";
  EXPECT_GT(limited.store_nodes, limited.distinct_insertions);
  EXPECT_LE(limited.query_nodes, 2 * limited.queries);
  EXPECT_GT(limited.query_ranks, limited.query_nodes);
  EXPECT_GT(limited.pages_moved, 0);
  spec.placement = {};
  testing::use_expert_layout(spec, ShardMap::hash);
  EXPECT_GT(replay().store_nodes, limited.store_nodes);
  spec.cluster.network.ranks_per_node = 1;
  const StepRecord alone = replay();
  EXPECT_EQ(alone.store_nodes, alone.store_ranks);
  EXPECT_EQ(alone.query_nodes, alone.query_ranks);
}

/// Two shards by themselves: the order and marks of queues, the shadow of the history, budgets.
TEST(Replan, QueuesAndHistoryMoveAlong) {
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
  from.touch_page(evict::Sieve{}, pages[1], 5);
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
