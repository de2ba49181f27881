// Every conservation law notices when one counter is off by one.
#include "engine/laws.hpp"

#include <gtest/gtest.h>

#include "support/sample_run.hpp"

namespace moekv {
namespace {

TEST(Laws, HoldForTheSampleAndForNothing) {
  EXPECT_EQ(check_laws(sample_spec(), sample_outcome()), std::vector<std::string>{});
  EXPECT_EQ(check_laws(sample_spec(), RunOutcome{}), std::vector<std::string>{});
}

/// Counters that some law ties to others, so that adding one must be noticed.
TEST(Laws, NoticeOneWrongCounter) {
  using S = StepRecord;
  const std::pair<const char*, std::int64_t S::*> tied[] = {{"tokens", &S::tokens},
                                                            {"n_req", &S::n_req},
                                                            {"n_hit", &S::n_hit},
                                                            {"n_miss", &S::n_miss},
                                                            {"hit_node", &S::hit_node},
                                                            {"first_lookups", &S::first_lookups},
                                                            {"wire_intra", &S::wire_intra},
                                                            {"queries", &S::queries},
                                                            {"insertions", &S::insertions},
                                                            {"evictions", &S::evictions},
                                                            {"finished_entries", &S::finished_entries},
                                                            {"chosen_experts", &S::chosen_experts},
                                                            {"dedup_merged", &S::dedup_merged},
                                                            {"stored_copies", &S::stored_copies},
                                                            {"bytes_logical", &S::bytes_logical},
                                                            {"bytes_received", &S::bytes_received},
                                                            {"bytes_self", &S::bytes_self},
                                                            {"wire_kv", &S::wire_kv},
                                                            {"wire_q", &S::wire_q},
                                                            {"wire_partial", &S::wire_partial},
                                                            {"wire_lse", &S::wire_lse},
                                                            {"wire_notices", &S::wire_notices},
                                                            {"wire_headers", &S::wire_headers},
                                                            {"wire_messages", &S::wire_messages},
                                                            {"entries_scanned", &S::entries_scanned},
                                                            {"entries_wanted", &S::entries_wanted},
                                                            {"resident_entries", &S::resident_entries},
                                                            {"kv_bytes_stored", &S::kv_bytes_stored},
                                                            {"budget_excess", &S::budget_excess},
                                                            {"demotions", &S::demotions},
                                                            {"recalls", &S::recalls},
                                                            {"hit_host", &S::hit_host},
                                                            {"host_entries", &S::host_entries},
                                                            {"host_finished_entries", &S::host_finished_entries},
                                                            {"recalled_pages", &S::recalled_pages},
                                                            {"premature_evictions", &S::premature_evictions}};
  for (const auto& [name, field] : tied) {
    RunOutcome out = sample_outcome();
    out.steps[1].*field += 1;
    EXPECT_FALSE(check_laws(sample_spec(), out).empty()) << name;
  }
}

TEST(Laws, NoticeWrongOrder) {
  const auto broken = [](auto change) {
    RunOutcome out = sample_outcome();
    change(out);
    return check_laws(sample_spec(), out);
  };
  EXPECT_EQ(broken([](RunOutcome& o) { o.steps[0].missed_bytes = 6401; }).size(), 1u);
  EXPECT_EQ(broken([](RunOutcome& o) { o.steps[0].empty_reads = 11; }).size(), 1u);
  EXPECT_EQ(broken([](RunOutcome& o) { o.steps[0].distinct_insertions = 21; }).size(), 1u);
  EXPECT_EQ(broken([](RunOutcome& o) { o.steps[0].resident_distinct = 16; }).size(), 1u);
  EXPECT_EQ(broken([](RunOutcome& o) { o.steps[0].sealed_entries = 16; }).size(), 1u);
  EXPECT_EQ(broken([](RunOutcome& o) { o.steps[0].evictable_entries = 16; }).size(), 1u);
  EXPECT_EQ(broken([](RunOutcome& o) { o.steps[0].written_distinct = 8; }).size(), 1u);
  EXPECT_EQ(broken([](RunOutcome& o) { o.steps[0].cross_shard_switches = 21; }).size(), 1u);
  EXPECT_EQ(broken([](RunOutcome& o) { o.histograms[1].count += 1; }).size(), 1u) << "reuse_distance";
  EXPECT_EQ(broken([](RunOutcome& o) { o.layer_loads[0].load += 1; }).size(), 1u);
  EXPECT_EQ(broken([](RunOutcome& o) { o.steps[0].kv_peak_bytes = 999; }).size(), 1u);
  EXPECT_EQ(broken([](RunOutcome& o) { o.steps[0].used_slots = 49; }).size(), 1u);
  EXPECT_EQ(broken([](RunOutcome& o) { o.loads[4].peak_bytes = 4097; }).size(), 1u);
}

TEST(Laws, TheHostTierIsAccountedFor) {
  RunSpec spec = sample_spec();
  spec.eviction.action = EvictAction::demote;
  RunOutcome out = sample_outcome();
  for (StepRecord& s : out.steps) {
    s.demotions = s.evictions, s.demoted_pages = 1;
    s.hit_host = s.n_miss;
  }
  StepRecord &first = out.steps[0], &second = out.steps[1];
  first.recalls = 2, first.recalled_pages = 1, first.host_entries = 3, first.host_bytes = 300;
  first.resident_entries += 2, first.used_slots += 2;
  second.finished_entries += 2 + 8, second.host_finished_entries = 8;
  EXPECT_EQ(check_laws(spec, out), std::vector<std::string>{});
  second.host_finished_entries = 7;
  EXPECT_EQ(check_laws(spec, out).size(), 2U);
}

TEST(Laws, SayWhichWindowAndWhatNumbers) {
  RunOutcome out = sample_outcome();
  out.steps[1].n_miss += 2;
  const auto violations = check_laws(sample_spec(), out);
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0], "window of step 64: law n_req = n_hit + n_miss does not hold: 100 against 102");
}

TEST(Laws, SayHowManyMore) {
  RunOutcome out;
  for (std::int64_t i = 0; i < 30; ++i) out.steps.push_back(StepRecord{.first_step = i, .n_req = 1});
  const auto violations = check_laws(sample_spec(), out);
  EXPECT_EQ(violations.size(), most_violations + 1);
  EXPECT_EQ(violations.back(), "... and 10 more");
}

}  // namespace
}  // namespace moekv
