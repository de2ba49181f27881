// What people and programs are shown of a run: the table, JSON, and the comparison of two runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "results/diff.hpp"
#include "results/json.hpp"
#include "results/record_table.hpp"
#include "results/summary.hpp"
#include "results/traffic_matrix.hpp"
#include "support/sample_run_file.hpp"

namespace moekv {
namespace {

using ::testing::HasSubstr;

TEST(Json, HoldsTheRun) {
  const auto json = nlohmann::json::parse(to_json(sample_run(), JsonRecords::yes));
  EXPECT_EQ(json["status"], "ok");
  EXPECT_EQ(json["digest"], "0123456789abcdeffedcba9876543210");
  EXPECT_EQ(json["metrics"]["hit_ratio"]["value"], 0.75);
  EXPECT_EQ(json["metrics"]["hit_ratio"]["numerator"], 150);
  EXPECT_TRUE(json["metrics"]["step_time_p99_9"]["value"].is_null());
  EXPECT_EQ(json["records"]["step"]["n_req"], (std::vector<int>{100, 100}));
  EXPECT_EQ(json["parameters"]["eviction.policy"], "lru");
  EXPECT_FALSE(nlohmann::json::parse(to_json(sample_run())).contains("records"));
  EXPECT_EQ(to_json(sample_run(), JsonRecords::no, -1).find('\n'), std::string::npos);
}

TEST(NcclTestsMatrix, HoldsSharesOfTheLargestPair) {
  std::vector<TrafficRecord> traffic = sample_run().outcome.traffic;
  const TrafficMatrix first = traffic_matrix(traffic, 0, "run.h5");
  EXPECT_EQ(first.bytes, (std::vector<std::int64_t>{0, 120, 80, 0}));  // 60 + 40 + 5 + 8 + 7, and 40 + 30 + 10; own bytes do not travel
  EXPECT_EQ(first.nccl_tests_csv(), "0,1\n0.666666667,0\n");
  traffic.push_back({traffic.back().first_step + 10, 1, 0, 1000});
  EXPECT_EQ(traffic_matrix(traffic, {}, "run.h5").nccl_tests_csv(), "0,0\n1,0\n");
  EXPECT_EQ(traffic_matrix(traffic, 1 << 20, "run.h5").largest(), 1000);
  EXPECT_EQ(traffic_matrix(traffic, traffic.back().first_step - 1, "run.h5").largest(), 120);
  EXPECT_THROW((void)traffic_matrix(traffic, -1, "run.h5"), UserError);
  EXPECT_THROW((void)traffic_matrix({}, {}, "run.h5"), UserError);
  for (const auto& [source, destination] : {std::pair{-1, 3}, {3, -1}, {1 << 20, 0}}) {
    const std::vector<TrafficRecord> damaged{{0, source, destination, 1000}};
    EXPECT_THROW((void)traffic_matrix(damaged, {}, "run.h5"), UserError);
  }
}

TEST(SummaryTable, NamesUnitsAndClaims) {
  const std::string text = format_summary(sample_run());
  EXPECT_THAT(text, HasSubstr("sample: ok, digest 0123456789abcdeffedcba9876543210"));
  EXPECT_THAT(text, HasSubstr("eviction lru"));
  EXPECT_THAT(text, HasSubstr("labels: acausal"));
  EXPECT_THAT(text, HasSubstr("note: 2 prompts were cut"));
  EXPECT_THAT(text, HasSubstr("latency (KV path only"));
  EXPECT_THAT(text, ::testing::ContainsRegex("hits +75.00 %  counted"));
  EXPECT_THAT(text, ::testing::ContainsRegex("peak of page blocks +1.17 KiB  counted"));
  EXPECT_THAT(text, ::testing::ContainsRegex("all steps on the configured cluster +200 ns  modelled"));
  EXPECT_THAT(text, ::testing::ContainsRegex("step, median +100 ns  measured"));
}

TEST(Diff, NamesTheFirstWindowAndTheCounters) {
  const RunFile a = sample_run();
  RunFile b = sample_run();
  EXPECT_FALSE(diff_runs(a, b).different());
  b.outcome.steps[1].t_attend += 5;  // measured: no difference of the run
  b.outcome.steps[1].buffer_bytes += 5;
  EXPECT_FALSE(diff_runs(a, b).different());
  b.outcome.steps[1].n_hit -= 1;
  b.outcome.window_digests[1].low += 1;
  b.outcome.digest.low += 1;
  b.parameters[0].text = "fifo";
  const RunDifference difference = diff_runs(a, b);
  EXPECT_TRUE(difference.different());
  ASSERT_TRUE(difference.window.has_value());
  EXPECT_EQ(difference.window->first_step, 64);
  ASSERT_EQ(difference.exact.size(), 1u);
  EXPECT_EQ(difference.exact[0].what, "record step[1] n_hit (first_step=64, n_steps=64)");
  const std::string text = format_difference(difference, a, b);
  EXPECT_THAT(text, HasSubstr("first in steps 64 to 127"));
  EXPECT_THAT(text, HasSubstr("eviction.policy: lru | fifo"));
}

TEST(Diff, SeesMissingWindowsRowsAndMetrics) {
  const RunFile a = sample_run();
  RunFile b = sample_run();
  b.outcome.window_digests.pop_back();
  EXPECT_EQ(diff_runs(a, b).window->b, "-");
  b = sample_run();
  b.outcome.loads.pop_back();
  EXPECT_EQ(diff_runs(a, b).shapes.size(), 1u);
  b = sample_run();
  b.outcome.summary.pop_back();
  EXPECT_EQ(diff_runs(b, a).shapes.size(), 1u);
  EXPECT_EQ(diff_runs(a, b).shapes.size(), 1u);
}

TEST(Diff, LooksAtRecordsOfEveryKind) {
  const RunFile a = sample_run();
  for_each_record(a.outcome, [&](const std::string& kind, const auto&) {
    RunFile b = sample_run();
    for_each_record(b.outcome, [&](const std::string& other, auto& rows) {
      if (kind == other) rows.emplace_back();
    });
    const RunDifference difference = diff_runs(a, b);
    ASSERT_EQ(difference.shapes.size(), 1u) << kind;
    EXPECT_THAT(difference.shapes[0], HasSubstr("record " + kind + ": "));
  });
}

TEST(Diff, SeesStatusViolationsAndTheStricterClaim) {
  const RunFile a = sample_run();
  RunFile b = sample_run();
  b.status = RunStatus::failed;
  b.outcome.violations = {"entries: 3 are lost"};
  EXPECT_THAT(diff_runs(a, b).shapes, ::testing::ElementsAre("status: ok | failed", "violations: - | entries: 3 are lost"));
  b = sample_run();
  ASSERT_EQ(b.outcome.summary[5].claim, ClaimClass::counted);
  b.outcome.summary[5].claim = ClaimClass::derived;
  b.outcome.summary[5].value += 1;
  EXPECT_EQ(diff_runs(a, b).exact.size(), 1u);
  EXPECT_EQ(diff_runs(b, a).exact.size(), 1u);
}

}  // namespace
}  // namespace moekv
