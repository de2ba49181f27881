// Fidelity that waits for the end of a run against fidelity measured after each layer.
#include "engine/probe.hpp"

#include <gtest/gtest.h>

#include <bit>

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

TEST(Probe, MeasuresTheSameAtTheEnd) {
  for (const ModelShape& model : {testing::gqa_model(), testing::mla_model()}) {
    RunSpec spec = testing::small_spec(model);
    testing::use_expert_layout(spec);
    spec.eviction.rule = evict::Tova{};
    spec.eviction.budget = {BudgetKind::tokens, 12, 1, 1};
    const RunOutcome at_once = run(spec, false), waited = run(spec, true);
    ASSERT_GT(at_once.probes.size(), 100U);
    ASSERT_EQ(at_once.probes.size(), waited.probes.size());
    std::size_t damaged = 0;
    for (std::size_t i = 0; i < waited.probes.size(); ++i) {
      const ProbeRecord &a = at_once.probes[i], &b = waited.probes[i];
      for_each_field(ProbeRecord::metrics, [&](const auto& m) {
        EXPECT_EQ(std::bit_cast<std::uint64_t>(a.*m.member), std::bit_cast<std::uint64_t>(b.*m.member))
            << m.name << " of request " << a.request << " position " << a.position;
      });
      damaged += b.attn_mass_kept < 0.99 ? 1 : 0;
    }
    EXPECT_GT(damaged, 10U) << "all fidelity is perfect";
  }
}

}  // namespace
}  // namespace moekv
