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
  constexpr std::uint16_t own = 4;
  Blockers blockers;
  std::map<std::uint32_t, std::vector<bool>> cells;  // cell -> [experts][slots]
  std::mt19937 random(units);
  const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
  std::size_t most = 0;
  std::int64_t entries_read = 0, pages_unread = 0;
  for (int round = 0; round < 600; ++round) {
    if (cells.empty() || below(10) == 0) {
      const std::uint32_t cell = blockers.take(n_experts, units, ExpertId(own));
      std::vector<bool> bits(n_experts * slots);
      std::fill_n(bits.begin() + own * slots, slots, true);
      ASSERT_TRUE(cells.emplace(cell, bits).second) << "cell " << cell << " is taken";
    }
    most = std::max(most, cells.size());
    const auto it = std::next(cells.begin(), below(static_cast<std::uint32_t>(cells.size())));
    const std::uint32_t expert = below(2) == 0 ? own : below(n_experts), slot = below(slots);
    const bool blocks = below(3) > 0;
    blockers.set(it->first, slot, static_cast<std::uint16_t>(expert), blocks);
    it->second[expert * slots + slot] = blocks;
    const std::vector<std::uint16_t> asked{static_cast<std::uint16_t>(below(n_experts)), ExpertId::invalid,
                                           static_cast<std::uint16_t>(below(n_experts)), own};
    const auto is_blocked = [&](const std::vector<bool>& bits, std::size_t n_asked, std::uint32_t s) {
      return std::any_of(asked.begin(), asked.begin() + static_cast<std::ptrdiff_t>(n_asked),
                         [&](std::uint16_t e) { return e != ExpertId::invalid && bits[e * slots + s]; });
    };
    blockers.prefetch(asked);
    Blockers::Reads expected_reads;
    for (const auto& [cell, bits] : cells) {
      for (std::uint32_t w = 0; w * 64 < slots; ++w) {
        std::uint64_t expected = 0;
        for (std::uint32_t s = w * 64; s < std::min(slots, w * 64 + 64); ++s) expected |= std::uint64_t{is_blocked(bits, 3, s) ? 1U : 0U} << (s % 64);
        ASSERT_EQ(blockers.any(cell, std::span(asked).first(3), w), expected) << "round " << round << ", cell " << cell << ", word " << w;
      }
      std::int64_t entries = 0;
      for (std::uint32_t s = 0; s < slots; ++s) entries += is_blocked(bits, 4, s) ? 0 : 1;
      expected_reads.entries += entries;
      expected_reads.pages += entries > 0 ? 1 : 0;
    }
    const Blockers::Reads reads = blockers.reads(asked);
    ASSERT_EQ(reads.entries, expected_reads.entries) << "round " << round;
    ASSERT_EQ(reads.pages, expected_reads.pages) << "round " << round;
    entries_read += reads.entries;
    pages_unread += static_cast<std::int64_t>(cells.size()) - reads.pages;
    if (cells.size() > 4 && below(15) == 0) {
      blockers.give_back(it->first);
      cells.erase(it);
    }
  }
  EXPECT_GT(most, 8U);
  EXPECT_GT(entries_read, 0);
  EXPECT_GT(pages_unread, 0);
}

TEST(Blockers, OfAChainWithoutPagesNothingIsRead) {  // as a replan may leave one: it does not know its own expert yet
  const std::uint16_t asked[] = {2, 5};
  const Blockers::Reads reads = Blockers().reads(asked);
  EXPECT_EQ(reads.entries, 0);
  EXPECT_EQ(reads.pages, 0);
}

INSTANTIATE_TEST_SUITE_P(Units, BlockersTest, ::testing::Values(1, 2, 3, 4, 5, 8));

}  // namespace
}  // namespace moekv
