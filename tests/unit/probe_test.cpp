// Fidelity that waits for the end of a run against fidelity measured after each layer.
#include "engine/probe.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <span>

#include "core/state_stream.hpp"
#include "engine/replay.hpp"
#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

RunOutcome run(const RunSpec& spec, bool wait) {
  testing::RandomTrace trace(spec.model, testing::default_requests(), 11);
  const auto transport = make_local_transport();
  const auto device = make_backend("host", 1);
  return testing::run_replay(spec, *transport, *device, trace, [&](const StepBatch&, ShardedCache&, StepDriver& driver) {
    if (wait) driver.probe().defer();
  });
}

/// Keys and outputs of which much is dropped.
RunSpec damaging_spec(const ModelShape& model) {
  RunSpec spec = testing::small_spec(model);
  testing::use_expert_layout(spec);
  spec.eviction.rule = evict::Tova{};
  spec.eviction.budget = {BudgetKind::tokens, 12, 1, 1};
  return spec;
}

void expect_equal(std::span<const ProbeRecord> a, std::span<const ProbeRecord> b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    for_each_field(ProbeRecord::metrics, [&](const auto& m) {
      EXPECT_EQ(std::bit_cast<std::uint64_t>(a[i].*m.member), std::bit_cast<std::uint64_t>(b[i].*m.member))
          << m.name << " of request " << a[i].request << " position " << a[i].position;
    });
  }
}

TEST(Probe, MeasuresTheSameAtTheEnd) {
  for (const ModelShape& model : {testing::gqa_model(), testing::mla_model()}) {
    const RunSpec spec = damaging_spec(model);
    const RunOutcome at_once = run(spec, false), waited = run(spec, true);
    ASSERT_GT(at_once.probes.size(), 100U);
    expect_equal(at_once.probes, waited.probes);
    const auto damaged = std::count_if(waited.probes.begin(), waited.probes.end(), [](const ProbeRecord& row) { return row.attn_mass_kept < 0.99; });
    EXPECT_GT(damaged, 10) << "all fidelity is perfect";
  }
}

TEST(Probe, GoesOnWhereItsMeasuringWasInterrupted) {
  const RunSpec spec = damaging_spec(testing::gqa_model());
  const auto transport = make_local_transport();
  const auto replay_part = [&](const ReplayHooks& hooks) {
    testing::RandomTrace trace(spec.model, testing::default_requests(), 11);
    const auto device = make_backend("host", 1);
    return replay(spec, trace, *device, *transport, hooks);
  };
  const RunOutcome whole = replay_part({});
  StateBuffer state;
  std::uint64_t first_wait = 0, left = 0;
  ReplayHooks hooks;
  hooks.interrupted = [&](const Progress& p) {
    if (p.done_tokens < p.total_tokens) return false;
    if (first_wait == 0) first_wait = p.waiting_probes;  // after the last step
    left = p.waiting_probes;
    return left < first_wait / 2;
  };
  hooks.stopped = [&](const StoppedRun& stopped) { stopped.save(state); };
  EXPECT_FALSE(replay_part(hooks).completed);
  ASSERT_GT(left, 0U);
  state.rewind();
  std::uint64_t most_left = 0, steps = 0;
  ReplayHooks on;
  on.resume = &state;
  on.progress = [&](const Progress& p) {
    most_left = std::max(most_left, p.waiting_probes);
    steps = p.step;
  };
  const RunOutcome resumed = replay_part(on);
  ASSERT_TRUE(resumed.completed);
  EXPECT_TRUE(state.done());
  EXPECT_LT(most_left, left) << "what was measured is measured again";
  EXPECT_GT(steps, 0U);
  expect_equal(whole.probes, resumed.probes);
}

}  // namespace
}  // namespace moekv
