// A byte budget counts all that a page takes: codes, their metadata, and what the rule keeps beside it. Every number here is worked out by hand.
#include <gtest/gtest.h>

#include <algorithm>

#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

constexpr std::uint64_t page_heads = 4, page_width = 32, page_slots = 32;
constexpr std::uint64_t raw_page = page_heads * 2 * page_width * page_slots * 4;  // fp32
// K and V: 4-bit codes; a scale and a zero of 2 bytes each for 32 tokens (int4_token, V of kivi4) or 32 channels (K of kivi4).
constexpr std::uint64_t sealed_page = page_heads * 2 * (page_width * page_slots / 2 + 32 * 4);

struct ByteCase {
  const char* name;
  Codec codec;
  EvictRule rule;
  std::uint64_t beside;  // of a page
};

/// Bytes of the pages of a list that no decision has doomed, and how many they are.
struct Kept {
  std::uint64_t bytes = 0, pages = 0;
};
Kept kept_of(const Shard& shard, const Group& group, std::uint64_t beside) {
  Kept kept;
  for (const Chain& chain : group.chains) {
    for (const std::uint32_t p : chain.pages) {
      const Page& page = shard.pages()[p];
      if (page.doomed) continue;
      kept.bytes += (page.sealed ? sealed_page : raw_page) + beside;
      kept.pages += 1;
    }
  }
  return kept;
}

class ByteBudget : public ::testing::TestWithParam<ByteCase> {};

TEST_P(ByteBudget, HoldsCodesMetadataAndStateOfTheRule) {
  const ByteCase& given = GetParam();
  const std::uint64_t beside = given.beside;
  RunSpec spec = testing::small_spec();
  spec.model.d_k = spec.model.d_v = page_width;
  spec.page.slots = page_slots;
  spec.compression.k = spec.compression.v = given.codec;
  spec.compression.sink_tokens = 0;
  spec.eviction.rule = given.rule;
  spec.eviction.protect = {0, 4};
  // One byte less than a raw tail and five sealed pages: four of them fit, and five would if anything were left out.
  spec.eviction.budget = {BudgetKind::bytes, raw_page + beside + 5 * (sealed_page + beside) - 1, 1, 1};
  testing::RandomTrace trace(spec.model, testing::requests_of({{210, 100}}), 5);
  const auto transport = make_local_transport();
  const auto backend = make_host_backend(0);
  std::uint64_t most = 0, sealed = 0;
  const auto check = [&](const StepBatch& batch, ShardedCache& cache, StepDriver&) {
    for (const Shard& shard : cache.shards()) {
      std::uint64_t allocated = 0;
      for (const Page& page : shard.pages()) {
        if (page.group == no_index) continue;
        allocated += page.sealed ? sealed_page : raw_page;
        sealed += page.sealed ? 1 : 0;
      }
      EXPECT_EQ(static_cast<std::uint64_t>(shard.usage().bytes), allocated) << "step " << batch.step;
      if (batch.items.front().prefill()) continue;
      for (const Group& group : shard.groups()) {
        if (!group.in_use) continue;
        const Kept kept = kept_of(shard, group, beside);
        EXPECT_LE(kept.bytes, spec.eviction.budget.amount) << "step " << batch.step;
        most = std::max(most, kept.pages);
      }
    }
  };
  const RunOutcome out = testing::run_replay(spec, *transport, *backend, trace, check);
  EXPECT_EQ(most, 5U);
  EXPECT_GT(sealed, 0U);
  EXPECT_GT(testing::totals(out).evictions, 0);
}

INSTANTIATE_TEST_SUITE_P(Codecs, ByteBudget,
                         ::testing::Values(ByteCase{"int4_token_lru", codec::Int4Token{}, evict::Lru{}, 12},  // links and marks of its queue
                                           ByteCase{"int4_token_h2o", codec::Int4Token{}, evict::H2oSum{}, 8 * page_slots},
                                           ByteCase{"kivi4_lfu", codec::Kivi4{}, evict::Lfu{}, 16},
                                           ByteCase{"kivi4_h2o", codec::Kivi4{}, evict::H2oSum{}, 8 * page_slots}),
                         [](const auto& one) { return std::string(one.param.name); });

}  // namespace
}  // namespace moekv
