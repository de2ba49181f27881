// Joining: plans by hand, and joined files row by row against the recordings they were made of.
#include "trace/join.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "core/error.hpp"
#include "support/archives.hpp"
#include "support/temp_dir.hpp"
#include "trace/importers.hpp"

namespace moekv {
namespace {

using moekv::testing::write_bytes;
using ::testing::HasSubstr;

TEST(JoinPlan, PrefersExactThenLongerThenSeveral) {
  const std::vector<std::uint32_t> lengths{10, 20, 20, 35};
  std::set<std::uint32_t> seen;
  for (std::uint32_t r = 0; r < 50; ++r) {
    const auto exact = fill_request(lengths, 20, 1, r);
    ASSERT_EQ(exact.size(), 1U);
    seen.insert(exact[0].donor);
    const auto cut = fill_request(lengths, 30, 1, r);
    ASSERT_EQ(cut.size(), 1U);
    EXPECT_EQ(cut[0].donor, 3U);
    EXPECT_EQ(cut[0].n_tokens, 30U);
    std::uint32_t total = 0;
    const auto several = fill_request(lengths, 100, 1, r);
    for (std::size_t i = 0; i < several.size(); ++i) {
      total += several[i].n_tokens;
      if (i + 1 < several.size()) {
        EXPECT_EQ(several[i].n_tokens, lengths[several[i].donor]);
      }
    }
    EXPECT_EQ(total, 100U);
  }
  EXPECT_EQ(seen, (std::set<std::uint32_t>{1, 2}));
}

TEST(JoinPlan, ConcatenationUsesEveryRecordingBeforeAnyAgain) {
  const std::vector<std::uint32_t> lengths{10, 10, 10, 10, 10, 10};
  const auto plan = concatenate(lengths, 4, 30, 7);
  std::map<std::uint32_t, int> uses;
  for (std::size_t s = 0; s < 4; ++s) {
    ASSERT_EQ(plan[s].size(), 3U);
    for (const Piece& p : plan[s]) ++uses[p.donor];
    if (s % 2 == 0) continue;
    for (std::uint32_t d = 0; d < 6; ++d) EXPECT_EQ(uses[d], static_cast<int>(s + 1) / 2);
  }
  const auto again = concatenate(lengths, 4, 30, 7), other = concatenate(lengths, 4, 30, 8);
  const auto donors = [](const auto& p) {
    std::vector<std::uint32_t> all;
    for (const auto& pieces : p) {
      for (const Piece& piece : pieces) all.push_back(piece.donor);
    }
    return all;
  };
  EXPECT_EQ(donors(plan), donors(again));
  EXPECT_NE(donors(plan), donors(other));
}

class Join : public ::testing::Test {
 protected:
  /// Four decode-only-like recordings: token t of recording r chooses experts (r * 8 + t % 8).
  void SetUp() override {
    std::string text;
    for (int r = 0; r < 4; ++r) {
      for (int t = 0; t < 5 + 5 * r; ++t) {
        text += std::string(R"({"req_id": ")") + std::to_string(r) + R"(", "token_idx": )" + std::to_string(t) + R"(, "layer": 0, "topk_ids": [)" +
                std::to_string(r * 8 + t % 8) + "], \"topk_weights\": [1.0]}\n";
      }
    }
    write_bytes(dir_.file("log.jsonl"), text);
    ImportOptions options;
    options.inputs = {dir_.file("log.jsonl")};
    options.n_experts = 32;
    options.prompt_share = 0.0;
    import_trace(options, recordings_ = dir_.file("rec.moekv.h5"));
  }
  std::vector<std::uint16_t> ids(TraceSource& trace, std::uint32_t r) {
    RoutingRows rows;
    trace.read(RequestId(r), 0, trace.request(RequestId(r)).total_tokens(), 0, 1, WantLogits::no, rows);
    return rows.ids;
  }
  static std::vector<std::uint16_t> expected(const std::vector<Piece>& pieces) {
    std::vector<std::uint16_t> all;
    for (const Piece& p : pieces) {
      for (std::uint32_t t = 0; t < p.n_tokens; ++t) all.push_back(static_cast<std::uint16_t>(p.donor * 8 + t % 8));
    }
    return all;
  }

  TempDir dir_;
  std::string recordings_;
  const std::vector<std::uint32_t> lengths_{5, 10, 15, 20};
};

TEST_F(Join, RequestsKeepTheirArrivalsAndGetRecordedRows) {
  write_bytes(dir_.file("req.csv"), "arrival_ms,prompt_tokens,output_tokens\n0,3,2\n7,9,9\n8,30,20\n");
  JoinOptions options;
  options.routing = recordings_;
  options.requests = dir_.file("req.csv");
  options.seed = 3;
  const std::string out = dir_.file("joined.moekv.h5");
  const JoinReport report = join_requests(options, out);
  EXPECT_EQ(report.exact, 1U);
  EXPECT_EQ(report.cut, 1U);
  EXPECT_EQ(report.continued, 1U);
  const auto trace = open_native_trace(out);
  EXPECT_TRUE(trace->info().joined);
  ASSERT_EQ(trace->n_requests(), 3U);
  EXPECT_EQ(trace->request(RequestId(1)).arrival_ns, 7'000'000);
  EXPECT_EQ(trace->request(RequestId(2)).prompt_tokens, 30U);
  for (std::uint32_t r = 0; r < 3; ++r) {
    EXPECT_EQ(ids(*trace, r), expected(fill_request(lengths_, trace->request(RequestId(r)).total_tokens(), 3, r)));
  }
}

TEST_F(Join, HashesOfTheRequestTraceAreKept) {
  write_bytes(dir_.file("req.jsonl"), R"({"timestamp": 0, "input_length": 4, "output_length": 1, "hash_ids": [7]})"
                                      "\n");
  JoinOptions options;
  options.routing = recordings_;
  options.requests = dir_.file("req.jsonl");
  join_requests(options, dir_.file("joined.moekv.h5"));
  ImportOptions again;
  again.inputs = {dir_.file("joined.moekv.h5")};
  import_trace(again, dir_.file("copy.moekv.h5"));
  EXPECT_EQ(ids(*open_native_trace(dir_.file("copy.moekv.h5")), 0), ids(*open_native_trace(dir_.file("joined.moekv.h5")), 0));
}

TEST_F(Join, ConcatenationMakesLongSequences) {
  JoinOptions options;
  options.routing = recordings_;
  options.n_requests = 3;
  options.n_tokens = 33;
  const std::string out = dir_.file("long.moekv.h5");
  concat_recordings(options, out);
  auto trace = open_native_trace(out);
  EXPECT_TRUE(trace->info().joined);
  const auto plan = concatenate(lengths_, 3, 33, 1);
  for (std::uint32_t r = 0; r < 3; ++r) {
    EXPECT_EQ(trace->request(RequestId(r)).prompt_tokens, 0U);
    EXPECT_EQ(trace->request(RequestId(r)).output_tokens, 33U);
    EXPECT_EQ(ids(*trace, r), expected(plan[r]));
  }
  options.prompt_share = 0.5;
  concat_recordings(options, out);
  EXPECT_EQ(open_native_trace(out)->request(RequestId(0)).prompt_tokens, 17U);
}

TEST_F(Join, BadInputIsRefused) {
  write_bytes(dir_.file("req.csv"), "arrival_ms,prompt_tokens,output_tokens\n0,3,2\n");
  ImportOptions requests;
  requests.inputs = {dir_.file("req.csv")};
  import_trace(requests, dir_.file("req.moekv.h5"));
  JoinOptions options;
  options.routing = dir_.file("req.moekv.h5");
  options.requests = dir_.file("req.csv");
  try {
    join_requests(options, dir_.file("x.moekv.h5"));
    FAIL();
  } catch (const UserError& e) {
    EXPECT_THAT(e.what(), HasSubstr("is a request trace: it has no routing rows"));
  }
  EXPECT_THROW(concat_recordings(options, dir_.file("x.moekv.h5")), UserError);
  EXPECT_FALSE(std::filesystem::exists(dir_.file("x.moekv.h5")));
}

}  // namespace
}  // namespace moekv
