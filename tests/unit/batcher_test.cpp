// When a request's first and last output tokens are through, by hand.
#include "engine/batcher.hpp"

#include <gtest/gtest.h>

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
}

}  // namespace
}  // namespace moekv
