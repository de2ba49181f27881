// Blockers against a plain list of bits, while cells come, go and come again.
#include "engine/blockers.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <random>
#include <vector>

namespace moekv {
namespace {

class BlockersTest : public ::testing::TestWithParam<std::uint32_t> {};  // units of 16 slots in a page

TEST_P(BlockersTest, SaysWhatAListOfBitsSays) {
  const std::uint32_t units = GetParam(), slots = 16 * units;
  constexpr std::uint32_t n_experts = 7;
  Blockers blockers;
  std::map<std::uint32_t, std::vector<bool>> cells;  // cell -> [experts][slots]
  std::mt19937 random(units);
  const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
  std::size_t most = 0;
  for (int round = 0; round < 1500; ++round) {
    if (cells.empty() || below(20) == 0) {
      const std::uint32_t cell = blockers.take(n_experts, units);
      ASSERT_TRUE(cells.emplace(cell, std::vector<bool>(n_experts * slots)).second) << "cell " << cell << " is taken";
    }
    most = std::max(most, cells.size());
    const auto it = std::next(cells.begin(), below(static_cast<std::uint32_t>(cells.size())));
    const std::uint32_t expert = below(n_experts), slot = below(slots);
    const bool blocks = below(3) > 0;
    blockers.set(it->first, slot, static_cast<std::uint16_t>(expert), blocks);
    it->second[expert * slots + slot] = blocks;
    const std::vector<std::uint16_t> asked{static_cast<std::uint16_t>(below(n_experts)), ExpertId::invalid,
                                           static_cast<std::uint16_t>(below(n_experts))};
    blockers.prefetch(asked);
    for (const auto& [cell, bits] : cells) {
      for (std::uint32_t w = 0; w * 64 < slots; ++w) {
        std::uint64_t expected = 0;
        for (std::uint32_t s = w * 64; s < std::min(slots, w * 64 + 64); ++s) {
          expected |= std::uint64_t{bits[asked[0] * slots + s] || bits[asked[2] * slots + s] ? 1U : 0U} << (s % 64);
        }
        ASSERT_EQ(blockers.any(cell, asked, w), expected) << "round " << round << ", cell " << cell << ", word " << w;
      }
    }
    if (cells.size() > 4 && below(30) == 0) {
      blockers.give_back(it->first);
      cells.erase(it);
    }
  }
  EXPECT_GT(most, 8U);
}

INSTANTIATE_TEST_SUITE_P(Units, BlockersTest, ::testing::Values(1, 3, 4, 5));

}  // namespace
}  // namespace moekv
