// Core: fixed elementary functions against libm, the generator against its published vector, suggestions, typed ids, freed memory.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <type_traits>
#include <vector>

#include "core/error.hpp"
#include "core/heap.hpp"
#include "core/id.hpp"
#include "core/math.hpp"
#include "core/rng.hpp"

namespace moekv {
namespace {

static_assert(!std::is_convertible_v<ExpertId, ShardId>);
static_assert(std::is_trivially_copyable_v<ExpertId>);
static_assert(!ExpertId().valid());

TEST(Math, ExpMatchesLibm) {
  for (float x = -86.0F; x < 88.0F; x += 0.0137F) EXPECT_NEAR(exp_fixed(x) / std::exp(static_cast<double>(x)), 1.0, 3e-7) << x;
  EXPECT_EQ(exp_fixed(-1000.0F), 0.0F);
  EXPECT_EQ(exp_fixed(-std::numeric_limits<float>::infinity()), 0.0F);
  EXPECT_TRUE(std::isinf(exp_fixed(100.0F)));
  EXPECT_EQ(exp_fixed(0.0F), 1.0F);
}

TEST(Math, LogMatchesLibm) {
  for (float x = 1e-30F; x < 1e30F; x *= 1.0173F) {
    EXPECT_NEAR(log_fixed(x), std::log(static_cast<double>(x)), 3e-7 * std::abs(std::log(x)) + 1e-7) << x;
  }
}

TEST(Math, CosSinMatchesLibm) {
  for (int i = 0; i < 20000; ++i) {
    const float u = static_cast<float>(i) / 20000.0F;
    const auto [c, s] = cos_sin_turns(u);
    EXPECT_NEAR(c, std::cos(2 * M_PI * static_cast<double>(u)), 5e-7);
    EXPECT_NEAR(s, std::sin(2 * M_PI * static_cast<double>(u)), 5e-7);
  }
}

TEST(Math, SqrtMatchesLibm) {
  for (float x = 2e-38F; x < 1e38F; x *= 1.0173F) EXPECT_NEAR(sqrt_fixed(x) / std::sqrt(static_cast<double>(x)), 1.0, 3e-7) << x;
  EXPECT_EQ(sqrt_fixed(0.0F), 0.0F);
}

TEST(Rng, PhiloxMatchesKnownAnswer) {  // known-answer vector of Random123: all-zero counter and key, ten rounds
  const Draw4 d = draw4(0, static_cast<Stream>(0), 0, 0, 0);
  EXPECT_EQ(d.v[0], 0x6627e8d5U);
  EXPECT_EQ(d.v[1], 0xe169c58dU);
  EXPECT_EQ(d.v[2], 0xbc57ac4cU);
  EXPECT_EQ(d.v[3], 0x9b00dbd8U);
}

TEST(Suggest, FindsNearNamesOnly) {
  EXPECT_EQ(nearest_name("h20.sum", {"lru", "h2o.sum"}), "h2o.sum");
  EXPECT_EQ(nearest_name("capcity", {"capacity", "page"}), "capacity");
  EXPECT_EQ(nearest_name("zebra", {"lru", "fifo"}), "");
  EXPECT_EQ(nearest_name("LRU", {"fifo", "lru"}), "lru");
  EXPECT_EQ(nearest_name("h2o", {"lru", "h2o.sum", "h2o.max"}), "h2o.sum");
  EXPECT_EQ(nearest_name("", {"lru", ".x"}), "");
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
TEST(Heap, FreedMemoryServesTheNextBlock) {
  const auto faults = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
  };
  const auto fill = [] { return std::vector<char>(24U << 20, 'x').back(); };  // glibc would map it, and give it back
  keep_freed_memory();
  EXPECT_EQ(fill(), 'x');
  const long before = faults();
  EXPECT_EQ(fill(), 'x');
  EXPECT_LT(faults() - before, 64);
}
#endif

}  // namespace
}  // namespace moekv
