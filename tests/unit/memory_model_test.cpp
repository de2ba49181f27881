// Page bytes that a step moves, and the time modelled from them, counted by hand.
#include <gtest/gtest.h>

#include <numeric>

#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

// One layer, 4 KV heads of 16 + 16 values in fp32, pages of 8 slots: a slot of a head takes 128 bytes.
constexpr std::int64_t heads = 4, raw_slot = 128;

struct Moved {
  std::int64_t attended = 0;
  std::vector<std::int64_t> step_ns;  // at 1 byte/ns
};

RunSpec one_rank() {
  RunSpec spec = testing::small_spec(testing::gqa_model(1));
  spec.cluster.ranks = 1;
  spec.cluster.network.memory_bandwidth_gb_s = 1;
  spec.placement.layout = Layout::local;
  spec.eviction.budget.kind = BudgetKind::unlimited;
  spec.compression.sink_tokens = 0;
  spec.probe.samples = 0;
  return spec;
}

Moved run(const RunSpec& spec, std::uint32_t output_tokens) {
  Moved moved;
  testing::RandomTrace trace(spec.model, testing::requests_of({{0, output_tokens}}), 11);
  const auto transport = make_local_transport();
  const auto backend = make_backend("host", 0);
  const RunOutcome out = testing::run_replay(spec, *transport, *backend, trace, [&](const StepBatch&, ShardedCache& cache, StepDriver&) {
    const std::vector<std::int64_t> model = cache.counters().step_model();
    moved.step_ns.push_back(model[model.size() - 2]);
  });
  EXPECT_TRUE(out.violations.empty()) << out.violations.front();
  moved.attended = testing::totals(out).attended_bytes;
  return moved;
}

TEST(MemoryModel, RawPagesOfAllHeads) {
  const Moved moved = run(one_rank(), 10);
  EXPECT_EQ(moved.attended, 55 * heads * raw_slot);  // 1 + 2 + ... + 10 slots
  ASSERT_EQ(moved.step_ns.size(), 10);
  for (std::int64_t t = 0; t < 10; ++t)
    EXPECT_EQ(moved.step_ns[static_cast<std::size_t>(t)], (t + 1 + 1) * heads * raw_slot) << t;  // read, one written
}

TEST(MemoryModel, ASealedPageIsReadAsItIsStored) {
  RunSpec spec = one_rank();
  spec.compression.k = spec.compression.v = codec::Int8Token{};
  // Of a head: 8 slots x 32 codes, 8 x 2 scales of 2 bytes, padded to 384.
  constexpr std::int64_t raw_page = 8 * raw_slot, sealed_page = 384;
  const Moved moved = run(spec, 10);
  ASSERT_EQ(moved.step_ns.size(), 10);
  EXPECT_EQ(moved.step_ns[6], (7 + 1) * heads * raw_slot);
  EXPECT_EQ(moved.step_ns[7], (8 * raw_slot + raw_slot + raw_page + sealed_page) * heads);  // read; written; sealed
  EXPECT_EQ(moved.step_ns[8], (raw_slot + sealed_page + raw_slot) * heads);
  EXPECT_EQ(moved.step_ns[9], (raw_slot + sealed_page + 2 * raw_slot) * heads);
  EXPECT_EQ(moved.attended, (36 * raw_slot + 2 * sealed_page + 3 * raw_slot) * heads);
}

TEST(MemoryModel, TheBusiestRankCounts) {
  RunSpec spec = one_rank();
  spec.cluster.ranks = 2;
  spec.placement.layout = Layout::head;
  const Moved moved = run(spec, 4);
  EXPECT_EQ(moved.attended, 10 * heads * raw_slot);
  EXPECT_EQ(moved.step_ns, (std::vector<std::int64_t>{2 * 2 * raw_slot, 3 * 2 * raw_slot, 4 * 2 * raw_slot, 5 * 2 * raw_slot}));
}

}  // namespace
}  // namespace moekv
