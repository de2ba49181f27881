// Same specification, same decisions: any number of processes and threads gives the digests, counters and probes of one process.
#include <gtest/gtest.h>
#include <mpi.h>

#include "support/replay_fixture.hpp"
#include "support/replay_parts.hpp"
#include "support/replay_specs.hpp"
#include "support/same_rows.hpp"

namespace moekv {
namespace {

using testing::run_replay;
using testing::small_spec;

RunOutcome run_with(Transport& transport, const RunSpec& spec, int threads) {
  testing::RandomTrace trace(spec.model, testing::default_requests(), 11);
  trace.add_logits();
  const auto backend = make_host_backend(threads);
  return run_replay(spec, transport, *backend, trace);
}

TEST(SameDecisions, ForAnyNumberOfProcessesAndThreads) {
  int launched = 0;
  MPI_Initialized(&launched);
  ASSERT_EQ(launched, 1) << "run under mpirun";
  const auto mpi = make_mpi_transport();
  for (const auto& [name, spec] : testing::varied_specs()) {
    SCOPED_TRACE(name);
    const RunOutcome together = run_with(*mpi, spec, 2);
    if (mpi->process() != 0) continue;
    const auto alone = make_local_transport();
    const RunOutcome expected = run_with(*alone, spec, 1);
    testing::expect_same(expected, together, "metadata_bytes");
    const StepRecord sum = testing::totals(expected);
    EXPECT_GT(sum.evictions, 0) << "a rule that never evicts tests nothing";
    EXPECT_GT(sum.n_req, 0);
    for (const RequestRecord& r : together.requests) EXPECT_GE(r.e2e_model_ns, r.kv_ttft_model_ns);
  }
}

TEST(SameDecisions, StoppedSavedAndGoneOnWith) {
  const auto mpi = make_mpi_transport();
  const auto all = testing::varied_specs();
  for (std::size_t i = 0; i < all.size(); i += 6) {
    SCOPED_TRACE(all[i].first);
    const RunOutcome parts = testing::replay_in_parts(all[i].second, *mpi, 9, testing::default_requests());
    if (mpi->process() != 0) continue;
    const auto alone = make_local_transport();
    const RunOutcome whole = testing::replay_in_parts(all[i].second, *alone, 0, testing::default_requests());
    testing::expect_same(whole, parts, "metadata_bytes");
    testing::expect_same_rows(whole.requests, parts.requests);
  }
}

TEST(SameDecisions, AnotherSeedIsToldApart) {
  int process = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &process);
  if (process != 0) return;
  RunSpec spec = small_spec();
  testing::use_expert_layout(spec, ShardMap::hash);
  const auto alone = make_local_transport();
  const RunOutcome a = run_with(*alone, spec, 1);
  spec.seed = 2;
  const RunOutcome b = run_with(*alone, spec, 1);
  EXPECT_NE(to_hex(a.digest), to_hex(b.digest));
}

}  // namespace
}  // namespace moekv
