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

INSTANTIATE_TEST_SUITE_P(Backends, ReplayParity, ::testing::Values("emulated", "cuda"), [](const auto& param) { return param.param; });

}  // namespace
}  // namespace moekv::test
