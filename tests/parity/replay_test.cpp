// Whole replays on a device: the decisions of the host where they need no payload, and its attention outputs to rounding, with codecs, a host tier and masks.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "device_backend.hpp"
#include "engine/replay.hpp"
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

RunSpec gate_spec() {
  RunSpec spec = small_spec();
  spec.model.gate.n_experts = 128;
  spec.model.gate.top_k = 4;
  spec.prefill.chunk_tokens = 128;
  spec.probe.samples = 8;
  spec.routing.rule = route::Topk{};
  use_expert_layout(spec);
  return spec;
}

RunOutcome run_gate(const RunSpec& spec, Backend& backend) {
  RandomTrace trace(spec.model, testing::requests_of({{90, 2}, {80, 1}}), 11);
  trace.add_logits();
  const auto transport = make_local_transport();
  return testing::run_replay(spec, *transport, backend, trace);
}

TEST_P(ReplayParity, ExpertsThatTheDeviceChooses) {
  const RunSpec spec = gate_spec();
  const RunOutcome host = run_gate(spec, *make_backend("host", 1)), device = run_gate(spec, *make_test_backend(GetParam(), 1));
  EXPECT_EQ(to_hex(device.digest), to_hex(host.digest));
  EXPECT_GT(testing::totals(host).routed_pairs, 0);
}

/// An emulated device that tells what it ran.
class SpiedDevice {
 public:
  SpiedDevice() {
    auto device = std::make_unique<EmulatedDevice>();
    device_ = device.get();
    backend_ = std::make_unique<kernels::DeviceBackend>(std::move(device));
  }
  [[nodiscard]] Backend& backend() { return *backend_; }
  template <class Work>
  [[nodiscard]] std::uint64_t blocks_run() const {
    return device_->blocks_run<Work>();
  }

 private:
  EmulatedDevice* device_;
  std::unique_ptr<Backend> backend_;
};

TEST(DevicePaths, RouterTopkChoosesOnTheDeviceFrom8192LogitsOn) {
  const RunSpec spec = gate_spec();
  SpiedDevice device;
  EXPECT_EQ(to_hex(run_gate(spec, device.backend()).digest), to_hex(run_gate(spec, *make_backend("host", 1)).digest));
  EXPECT_EQ(device.blocks_run<kernels::GateLaunch>(), 3U * (90 + 80)) << "three layers of the step with both prompts; of 128 experts, 64 tokens are enough";
}

/// Budgets of two requests with three layers each, whose lists are chosen from together.
RunSpec large_lists() {
  RunSpec spec = small_spec();
  spec.cluster.ranks = 1;
  spec.prefill.queries = PrefillQueries::none;
  spec.prefill.chunk_tokens = 3000;
  spec.batch.concurrency = 2;
  spec.batch.max_num_batched_tokens = 3000;
  spec.probe.samples = 0;
  spec.eviction.rule = evict::Knorm{};
  spec.eviction.unit = EvictUnit::token;
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  return spec;
}

TEST(DevicePaths, VictimsOfLongListsAreChosenOnTheDevice) {
  for (const Ties ties : {Ties::newest, Ties::oldest}) {
    RunSpec spec = large_lists();
    spec.eviction.ties = ties;
    RandomTrace trace(spec.model, testing::requests_of({{1500, 3}, {1490, 2}}), 11);
    const auto transport = make_local_transport();
    SpiedDevice device;
    const RunOutcome there = testing::run_replay(spec, *transport, device.backend(), trace);
    const RunOutcome here = testing::run_replay(spec, *transport, *make_backend("host", 1), trace);
    EXPECT_EQ(to_hex(there.digest), to_hex(here.digest));
    EXPECT_GT(testing::totals(here).evictions, 4000);
    EXPECT_EQ(device.blocks_run<kernels::SelectLaunch>(), 6U) << "a list of each request and layer, when the prompts have ended";
  }
}

/// q, k and v of the generator, as a run without a recording has them.
RunOutcome run_generated(const RunSpec& spec, Backend& backend) {
  RandomTrace trace(spec.model, testing::requests_of({{40, 6}, {33, 1}}), 11);
  const auto transport = make_local_transport();
  return replay(spec, trace, backend, *transport);
}

TEST(DevicePaths, QueriesKeysAndValuesAreMadeOnTheDevice) {
  for (const ModelShape& model : {testing::gqa_model(), testing::mla_model()}) {
    RunSpec spec = small_spec(model);
    use_expert_layout(spec);
    spec.prefill.chunk_tokens = 32;
    SpiedDevice device;
    const RunOutcome there = run_generated(spec, device.backend()), here = run_generated(spec, *make_backend("host", 1));
    EXPECT_EQ(to_hex(there.digest), to_hex(here.digest));
    EXPECT_GT(device.blocks_run<kernels::GenerateLaunch>(), 100U);
    ASSERT_EQ(there.probes.size(), here.probes.size());
    ASSERT_FALSE(here.probes.empty());
    for (std::size_t i = 0; i < here.probes.size(); ++i) ASSERT_NEAR(there.probes[i].attn_out_err, here.probes[i].attn_out_err, 1e-4);
  }
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
