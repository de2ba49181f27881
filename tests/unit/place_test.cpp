// Known faults of the paper's map s(t, e) = (t mod N_tok) xor (e mod N_exp), shown by counting: it leaves its range, and keeps no neighbours
// together.
#include "rules/place.hpp"

#include <gtest/gtest.h>

#include <set>

namespace moekv {
namespace {

Placement xor_map(std::uint32_t n, bool fold) {
  Placement p{Layout::expert, ShardMap::pikv_xor};
  p.n_shards = p.n_tok = p.n_exp = n;
  p.n_experts = 64;
  p.fold = fold;
  return p;
}

std::uint32_t shard_of(const Placement& p, std::uint32_t position, std::uint16_t expert) {
  return p.expert_shard(0, RequestId(0), position, ExpertId(expert)).value;
}

TEST(PikvXor, LeavesItsRangeUnlessModuliArePowersOfTwo) {
  for (std::uint32_t n = 1; n <= 64; ++n) {
    std::uint32_t outside = 0;
    for (std::uint32_t t = 0; t < n; ++t) {
      for (std::uint32_t expert = 0; expert < n; ++expert) {
        const auto e = static_cast<std::uint16_t>(expert);
        outside += shard_of(xor_map(n, false), t, e) >= n ? 1 : 0;
        EXPECT_LT(shard_of(xor_map(n, true), t, e), n);
      }
    }
    EXPECT_EQ(outside == 0, (n & (n - 1)) == 0) << n;
    if (n == 6) {
      EXPECT_EQ(outside, 8U) << "of 36: 6 and 7 are no shards";
    }
  }
}

TEST(PikvXor, ScattersEveryExpertOverEveryShard) {
  const Placement paper = xor_map(8, false);
  Placement affine = paper;
  affine.map = ShardMap::expert_affine;
  for (std::uint16_t e = 0; e < 64; ++e) {
    std::set<std::uint32_t> shards, homes;
    for (std::uint32_t t = 0; t < 64; ++t) {
      EXPECT_NE(shard_of(paper, t, e), shard_of(paper, t + 1, e)) << "neighbours of one expert never share a shard";
      shards.insert(shard_of(paper, t, e));
      homes.insert(shard_of(affine, t, e));
    }
    EXPECT_EQ(shards.size(), 8U) << "so a read of one expert's history goes to all shards";
    EXPECT_EQ(homes.size(), 1U);
  }
}

TEST(PikvXor, TwoExpertsOfATokenMeetOnOneShard) {
  const Placement paper = xor_map(8, false);
  for (std::uint32_t t = 0; t < 100; ++t)
    EXPECT_EQ(shard_of(paper, t, 3), shard_of(paper, t, 11)) << "experts alike modulo N_exp collide at every position";
}

}  // namespace
}  // namespace moekv
