// When a request's first and last output tokens are through, by hand.
#include "engine/batcher.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"
#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

TEST(Batcher, TimePerOutputTokenIsThatOfTheStepsAfterTheFirst) {
  RunSpec spec = testing::small_spec(testing::gqa_model(1));
  spec.prefill.chunk_tokens = 4;
  const testing::RandomTrace trace(spec.model, testing::requests_of({{10, 5}, {0, 3}, {6, 0}}), 11);
  const Geometry geometry(spec, trace.info(), spec.cluster.ranks);
  Batcher batcher(geometry, trace);
  EXPECT_EQ(batcher.least_steps(), 3 + 5);
  for (std::int64_t step = 1; !batcher.done(); ++step)
    batcher.finish_step(batcher.next(), 100 * step, step);  // a step takes longer than the last one
  const std::vector<RequestRecord>& r = batcher.records();
  ASSERT_EQ(r.size(), 3U);
  EXPECT_EQ(r[0].kv_ttft_model_ns, 100 * (1 + 2 + 3 + 4)) << "three chunks of prompt, then the first output token";
  EXPECT_EQ(r[0].kv_ttft_ns, 10);
  EXPECT_EQ(r[0].e2e_model_ns - r[0].kv_ttft_model_ns, 100 * (5 + 6 + 7 + 8));
  EXPECT_EQ(r[1].kv_ttft_model_ns, 100);
  EXPECT_EQ(r[1].e2e_model_ns, 100 * (1 + 2 + 3));
  EXPECT_EQ(r[2].kv_ttft_model_ns, r[2].e2e_model_ns) << "no output: its prompt";
  EXPECT_EQ(r[0].ttst_ns, 10 + 5);
  EXPECT_EQ(r[0].ttst_model_ns, 100 * (10 + 5));
  EXPECT_EQ(r[1].ttst_ns, 1 + 2);
  EXPECT_EQ(r[2].ttst_ns, -1) << "no second output token";

  RunOutcome out;
  batcher.take_gaps(out);  // 5 6 7 8 of the first request, 2 3 of the second
  EXPECT_EQ(out.kv_itl.summary().n, 6);
  EXPECT_EQ(out.kv_itl.summary().sum, 31);
  EXPECT_EQ(out.kv_itl.percentile_of(50), 5);
  EXPECT_EQ(out.kv_itl_model.percentile_of(100), 800);
  ASSERT_EQ(out.gaps.size(), 64U);
  EXPECT_EQ(out.gaps[2].low_ns, 2);
  EXPECT_EQ(out.gaps[2].high_ns, 3);
  EXPECT_EQ(out.gaps[2].kv_itl, 2);
  std::int64_t in_model = 0;
  for (const GapRecord& g : out.gaps) in_model += g.low_ns == 512 ? g.kv_itl_model : 0;
  EXPECT_EQ(in_model, 3) << "600 to 800; 500 is in the bin before";
}

TEST(Batcher, LoadArrivalsNeedsThemAll) {
  RunSpec spec = testing::small_spec(testing::gqa_model(1));
  spec.batch.load = LoadKind::arrivals;
  std::vector<RequestInfo> requests = testing::requests_of({{0, 3}, {0, 3}, {0, 3}});
  for (RequestInfo& r : requests) r.arrival_ns = 5;
  requests[1].arrival_ns = -1;
  const testing::RandomTrace trace(spec.model, requests, 11);
  const Geometry geometry(spec, trace.info(), spec.cluster.ranks);
  try {
    Batcher batcher(geometry, trace);
    FAIL() << "accepted";
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("1 of 3 have none"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace moekv
