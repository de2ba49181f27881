// Every rule of every catalogue in a replay that is stopped every few steps, saved, torn down and gone on with: nothing tells it from one that ran
// through.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/batcher.hpp"
#include "support/evict_world.hpp"
#include "support/replan_fixture.hpp"
#include "support/replay_parts.hpp"
#include "support/replay_specs.hpp"
#include "support/same_rows.hpp"

namespace moekv {
namespace {

using testing::default_requests;
using testing::EveryEvictRule;
using testing::small_spec;

/// Compares a run in one part with one in parts of `steps` steps. Returns the former.
RunOutcome expect_no_trace(const RunSpec& spec, std::uint64_t steps, const std::string& backend = "host",
                           const std::vector<RequestInfo>& requests = default_requests()) {
  const auto transport = make_local_transport();
  const auto run = [&](std::uint64_t part) { return testing::replay_in_parts(spec, *transport, part, requests, backend); };
  RunOutcome whole = run(0);
  const RunOutcome parts = run(steps);
  testing::expect_same(whole, parts);
  testing::expect_same_rows(whole.requests, parts.requests);
  EXPECT_EQ(whole.labels, parts.labels);
  EXPECT_EQ(whole.notes.size() + 1, parts.notes.size());
  EXPECT_NE(parts.notes.empty() ? std::string::npos : parts.notes.back().find("resumed at step"), std::string::npos);
  EXPECT_EQ(whole.summary.size(), parts.summary.size());
  for (std::size_t i = 0; i < std::min(whole.summary.size(), parts.summary.size()); ++i) {
    const Summary &a = whole.summary[i], &b = parts.summary[i];
    if (a.claim == ClaimClass::counted || a.claim == ClaimClass::modelled) {
      EXPECT_TRUE(a.value == b.value || (std::isnan(a.value) && std::isnan(b.value))) << a.name << ": " << a.value << " against " << b.value;
    }
  }
  return whole;
}

TEST_P(EveryEvictRule, LeavesNoTrace) {
  RunSpec spec = small_spec(testing::gqa_model(2));
  testing::use_expert_layout(spec);
  spec.eviction.rule = GetParam().small;
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 3};
  if (std::holds_alternative<evict::FlexgenStatic>(spec.eviction.rule)) spec.eviction.action = EvictAction::demote;
  spec.probe.samples = 16;
  const RunOutcome out = expect_no_trace(spec, 4);
  EXPECT_EQ(testing::totals(out).evictions > 0, GetParam().chooses);
}

TEST(Checkpoint, QueuesOfTokensAndOfShards) {
  for (const testing::CatalogueRule& rule : testing::evict_rules()) {
    if (!rule.has_own_order && rule.name != "fifo" && rule.name != "threshold_adaptive") continue;
    SCOPED_TRACE(rule.name);
    RunSpec spec = small_spec();
    testing::use_expert_layout(spec);
    spec.eviction.rule = rule.small;
    spec.eviction.action = EvictAction::demote;
    spec.eviction.scope = EvictScope::shard;
    spec.eviction.budget = {BudgetKind::pages, 24, 1, 1};
    EXPECT_GT(testing::totals(expect_no_trace(spec, 3, "count")).recalls, 0);
    if (!rule.has_tokens) continue;
    spec.eviction.action = EvictAction::drop;
    spec.eviction.unit = EvictUnit::token;
    spec.eviction.budget = {BudgetKind::tokens, 150, 1, 1};
    EXPECT_GT(testing::totals(expect_no_trace(spec, 3, "count")).evictions, 0);
  }
}

TEST(Checkpoint, EveryRouter) {
  const std::vector<RouteRule> rules = []<class... R>(std::variant<R...>*) {
    return std::vector<RouteRule>{R{}...};
  }(static_cast<RouteRule*>(nullptr));
  for (const RouteRule& rule : rules) {
    SCOPED_TRACE(std::visit([](const auto& r) { return std::string(r.name); }, rule));
    RunSpec spec = small_spec();
    testing::use_expert_layout(spec);
    spec.routing.rule = rule;
    spec.routing.key = RoutingKey::previous_token;
    spec.eviction.rule = evict::Lru{};
    spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
    spec.read.scope = ReadScope::routed;
    (void)expect_no_trace(spec, 3, "count");
  }
}

TEST(Checkpoint, WhateverAReplayCanDo) {
  for (auto& [name, spec] : testing::varied_specs()) {
    SCOPED_TRACE(name);
    spec.probe.samples = 16;
    EXPECT_GT(testing::totals(expect_no_trace(spec, 7)).evictions, 0);
  }
}

/// Pages that no token of the last chunk went to wait for the end of the prompt to be sealed.
TEST(Checkpoint, PagesThatWaitToBeSealed) {
  RunSpec spec = small_spec(testing::gqa_model(2));
  testing::use_expert_layout(spec);
  spec.page.slots = 32;
  spec.prefill.chunk_tokens = 4;
  spec.compression.k = spec.compression.v = codec::Int8Token{};
  spec.probe.samples = 16;
  std::int64_t sealed_pages = 0;
  for (const CodecRecord& row : expect_no_trace(spec, 1, "host", testing::requests_of({{90, 3}})).codecs) sealed_pages += row.sealed_pages;
  EXPECT_GT(sealed_pages, 0);
}

/// Long answers evict at every step: tokens in the order of a queue, and pages below a threshold that follows the hits of many steps.
TEST(Checkpoint, EvictionsThatGoOn) {
  const auto requests = testing::requests_of({{24, 60}, {9, 50}, {1, 70}});
  RunSpec spec = small_spec();
  spec.eviction.rule = evict::Fifo{};
  spec.eviction.unit = EvictUnit::token;
  spec.eviction.budget = {BudgetKind::tokens, 20, 1, 1};
  for (const EvictScope scope : {EvictScope::request, EvictScope::shard}) {
    spec.eviction.scope = scope;
    EXPECT_GT(testing::totals(expect_no_trace(spec, 7, "count", requests)).evictions, 200);
  }
  spec.eviction.unit = EvictUnit::automatic;
  spec.eviction.rule = evict::ThresholdAdaptive{.theta = 0.3F, .gamma = 0.2F, .eta_target = 0.5F, .delta = 3};
  spec.eviction.budget = {BudgetKind::tokens, 48, 1, 1};
  testing::use_expert_layout(spec);
  for (const EvictScope scope : {EvictScope::request, EvictScope::shard}) {
    spec.eviction.scope = scope;
    EXPECT_GT(testing::totals(expect_no_trace(spec, 7, "host", requests)).evictions, 50);
  }
}

TEST(Checkpoint, RequestsThatWaitForMemory) {
  RunSpec spec = small_spec();
  const testing::RandomTrace trace(spec.model, default_requests(), 11);
  spec.memory.shard_bytes = planned_bytes(Geometry(spec, trace.info(), spec.cluster.ranks), 58);  // the longest one runs alone
  EXPECT_GT(expect_no_trace(spec, 3, "count").requests.at(2).first_step, 0);
}

/// Exact attention over generated keys that tell their experts needs the experts of all earlier tokens.
TEST(Checkpoint, ProbesOfKeysThatTellTheirExperts) {
  RunSpec spec = small_spec();
  testing::use_expert_layout(spec);
  spec.payload.generator.expert_affinity = 0.5;
  spec.read.scope = ReadScope::routed;
  EXPECT_FALSE(expect_no_trace(spec, 7).probes.empty());
}

/// Tables that came with pages of other shards have numbers there, and a later plan brings more.
TEST(Checkpoint, TablesThatMove) {
  RunSpec spec = testing::replan_spec(3);
  spec.placement.replicas = 20;
  spec.compression.k = spec.compression.v = codec::LowrankPca{.rank = 4};
  spec.probe.samples = 64;
  const RunOutcome out = expect_no_trace(spec, 4, "host", testing::requests_of({{40, 60}, {30, 50}, {20, 40}}));
  EXPECT_GT(testing::totals(out).pages_moved, 0);
}

TEST(Checkpoint, IsRefusedWhereItWouldNotBeWhole) {
  RunSpec spec = small_spec();
  EXPECT_EQ(checkpoint_refusal(spec, *make_host_backend(1)), nullptr);
  EXPECT_EQ(checkpoint_refusal(spec, *make_count_backend()), nullptr);
  spec.model.path = "model.h5";
  EXPECT_NE(checkpoint_refusal(spec, *make_host_backend(1)), nullptr);
}

TEST(Checkpoint, AWrongStateIsToldApart) {
  StateBuffer state;
  std::uint64_t number = 7;
  state(number);
  state.mark(1);
  state.rewind();
  state(number);
  EXPECT_THROW(state.mark(2), SystemError);
  EXPECT_THROW(state(number), SystemError);
}

}  // namespace
}  // namespace moekv
