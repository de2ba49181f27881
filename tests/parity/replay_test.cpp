// Whole replays on a device: the decisions of the host where they need no payload, and its attention outputs to rounding, with codecs, a host tier and masks.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "support/emulated_device.hpp"
#include "support/replay_fixture.hpp"

namespace moekv::test {
namespace {

using testing::RandomTrace;
using testing::small_spec;
using testing::use_expert_layout;

RunOutcome run_on(const std::string& name, const RunSpec& spec) {
  RandomTrace trace(spec.model, testing::default_requests(), 11);
  const auto transport = make_local_transport();
  const auto device = make_test_backend(name, 1);
  return testing::run_replay(spec, *transport, *device, trace);
}

class ReplayParity : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (make_test_backend(GetParam(), 1) == nullptr) GTEST_SKIP() << "no device for backend " << GetParam();
  }
  /// Runs `spec` on the host and on the device.
  void expect_alike(const RunSpec& spec, double tolerance) {
    const RunOutcome host = run_on("host", spec), device = run_on(GetParam(), spec);
    EXPECT_EQ(to_hex(device.digest), to_hex(host.digest));
    EXPECT_TRUE(device.violations.empty()) << device.violations.front();
    ASSERT_EQ(device.probes.size(), host.probes.size());
    ASSERT_FALSE(host.probes.empty());
    for (std::size_t i = 0; i < host.probes.size(); ++i) {
      const ProbeRecord &a = device.probes[i], &b = host.probes[i];
      ASSERT_EQ(a.read_tokens, b.read_tokens);
      ASSERT_NEAR(a.attn_out_err, b.attn_out_err, tolerance) << "request " << a.request << " layer " << a.layer << " position " << a.position;
    }
  }
};

TEST_P(ReplayParity, ExpertsWithoutEvictionAreDenseAttention) {
  RunSpec spec = small_spec();
  use_expert_layout(spec);
  expect_alike(spec, 1e-4);
  spec.cluster.shards_per_rank = 3;  // whose results the device merges
  expect_alike(spec, 1e-4);
}

TEST_P(ReplayParity, LatentPagesOfACodecByTokens) {
  RunSpec spec = small_spec(testing::mla_model());
  spec.placement.layout = Layout::token;
  spec.placement.map = ShardMap::block_cyclic;
  spec.payload.element = ElementFormat::bf16;
  spec.compression.k = spec.compression.v = codec::Int8Token{};
  spec.compression.sink_tokens = 2;
  expect_alike(spec, 1e-3);
}

TEST_P(ReplayParity, EvictedPagesOfACentredCodec) {
  RunSpec spec = small_spec();
  use_expert_layout(spec);
  spec.payload.element = ElementFormat::bf16;
  spec.compression.k = spec.compression.v = codec::Int4TokenHadamardCentred{};
  spec.compression.sink_tokens = 2;
  spec.eviction.rule = evict::Lru{};
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  expect_alike(spec, 1e-3);
}

TEST_P(ReplayParity, PagesThatLeaveToTheHostTierAndReturn) {
  RunSpec spec = small_spec();
  use_expert_layout(spec);
  spec.read.scope = ReadScope::routed;
  spec.eviction.rule = evict::Lru{};
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  spec.eviction.action = EvictAction::demote;
  expect_alike(spec, 1e-4);
}

/// The device sums up the attention that the rule goes by. On the emulated one no eviction was near enough to another to differ.
TEST_P(ReplayParity, EvictionsByAttentionMass) {
  for (const Reducer how : {Reducer::mean, Reducer::max}) {
    RunSpec spec = small_spec();
    use_expert_layout(spec);
    spec.eviction.rule = evict::H2oSum{};
    spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
    spec.eviction.head_reducer = how;
    const RunOutcome host = run_on("host", spec), device = run_on(GetParam(), spec);
    EXPECT_TRUE(device.violations.empty()) << device.violations.front();
    const StepRecord a = testing::totals(device), b = testing::totals(host);
    EXPECT_GT(b.evictions, 0);
    EXPECT_EQ(a.evictions, b.evictions);
    const std::string expected = GetParam() == "emulated" ? to_hex(host.digest) : to_hex(device.digest);
    EXPECT_EQ(to_hex(device.digest), expected);
  }
}

TEST_P(ReplayParity, LayersDividedByThePromptsLastQueries) {
  RunSpec spec = small_spec();
  spec.eviction.rule = evict::H2oSum{};
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  spec.eviction.allocator = allocate::Cake{};
  const RunOutcome host = run_on("host", spec), device = run_on(GetParam(), spec);
  EXPECT_GT(testing::totals(host).allocations, 0);
  EXPECT_EQ(testing::totals(device).evictions, testing::totals(host).evictions);
}

TEST_P(ReplayParity, PagesThatQueriesChoose) {
  RunSpec spec = small_spec();
  select::Quest quest;
  quest.budget_pages = 3;
  quest.dense_layers = 1;
  spec.read.select = quest;
  expect_alike(spec, 1e-4);
  EXPECT_GT(testing::totals(run_on(GetParam(), spec)).bounds_bytes_read, 0);
}

TEST_P(ReplayParity, ExpertsThatTheDeviceChooses) {
  RunSpec spec = small_spec();
  spec.model.gate.n_experts = 128;
  spec.model.gate.top_k = 4;
  spec.prefill.chunk_tokens = 128;
  spec.probe.samples = 8;
  spec.routing.rule = route::Topk{};
  use_expert_layout(spec);
  const auto run = [&](const std::string& name) {
    RandomTrace trace(spec.model, testing::requests_of({{90, 2}, {80, 1}}), 11);
    trace.add_logits();
    const auto transport = make_local_transport();
    const auto device = make_test_backend(name, 1);
    return testing::run_replay(spec, *transport, *device, trace);
  };
  const RunOutcome host = run("host"), device = run(GetParam());
  EXPECT_EQ(to_hex(device.digest), to_hex(host.digest));
  EXPECT_GT(testing::totals(host).routed_pairs, 0);
}

TEST_P(ReplayParity, GraphsAreCountedAndCanBeLeftOut) {
  const RunSpec spec = small_spec();
  RandomTrace trace(spec.model, testing::requests_of({{8, 120}}), 11);
  const auto transport = make_local_transport();
  const auto device = make_test_backend(GetParam(), 1);
  const RunOutcome with = testing::run_replay(spec, *transport, *device, trace);
  const StepRecord on = testing::totals(with);
  EXPECT_GT(on.graph_captures, 0);
  EXPECT_GT(on.graph_launches, 4 * on.graph_captures);
  EXPECT_GT(on.graph_launches, on.plain_batches);
  device->use_graphs(false);
  device->release_pools();
  const RunOutcome without = testing::run_replay(spec, *transport, *device, trace);
  EXPECT_EQ(testing::totals(without).graph_launches, 0);
  EXPECT_EQ(testing::totals(without).plain_batches, on.graph_launches + on.plain_batches);
  EXPECT_EQ(to_hex(with.digest), to_hex(without.digest));
}

INSTANTIATE_TEST_SUITE_P(Backends, ReplayParity, ::testing::Values("emulated", "cuda"), [](const auto& param) { return param.param; });

}  // namespace
}  // namespace moekv::test
