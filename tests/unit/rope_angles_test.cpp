// Kept angles against those made one by one, with room for all and for none.
#include "trace/rope_angles.hpp"

#include <gtest/gtest.h>

#include "rules/generate.hpp"
#include "trace/generator_tables.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t n_pairs = 6;

void expect_angles(const RopeAngles& angles, std::uint32_t begin, std::uint32_t n) {
  std::vector<CosSin> room;
  const CosSin* const got = angles.of(begin, n, room);
  for (std::uint32_t i = 0; i < n * n_pairs; ++i) {
    const CosSin expected = generate::rope_angle(begin + i / n_pairs, angles.turns()[i % n_pairs]);
    ASSERT_EQ(got[i].cos, expected.cos) << begin << ' ' << i;
    ASSERT_EQ(got[i].sin, expected.sin) << begin << ' ' << i;
  }
}

TEST(RopeAngles, AreTheSameKeptAndMade) {
  const auto kept = std::make_shared<KeptBytes>();
  {
    RopeAngles angles(kept);
    angles.set_turns(rope_turns(1e4, 2 * n_pairs));
    expect_angles(angles, 0, 3);
    for (const std::uint32_t end : {5U, 700U, 300U, 701U}) {
      angles.keep(end);
      std::vector<CosSin> room;
      (void)angles.of(0, end, room);
      EXPECT_TRUE(room.empty()) << "angles before " << end << " were made again";
      expect_angles(angles, end - 5, 9);
      expect_angles(angles, end + 5000, 64);
    }
    EXPECT_GE(kept->used(), 701 * n_pairs * sizeof(CosSin));
  }
  EXPECT_EQ(kept->used(), 0);
}

TEST(RopeAngles, WithoutRoomAreMadeAgain) {
  const auto kept = std::make_shared<KeptBytes>(256 * n_pairs * sizeof(CosSin));
  RopeAngles angles(kept);
  angles.set_turns(rope_turns(1e4, 2 * n_pairs));
  angles.keep(100);
  angles.keep(300);
  EXPECT_EQ(kept->used(), 256 * n_pairs * sizeof(CosSin));
  expect_angles(angles, 0, 256);
  expect_angles(angles, 250, 60);
}

TEST(RopeAngles, AreKeptUpToABound) {
  const auto kept = std::make_shared<KeptBytes>();
  RopeAngles angles(kept);
  angles.set_turns(rope_turns(1e4, 2 * n_pairs));
  constexpr std::uint32_t most = (32 << 20) / (n_pairs * sizeof(CosSin)) / 256 * 256;  // positions
  angles.keep(most);
  angles.keep(most + 1);
  EXPECT_EQ(kept->used(), std::uint64_t{most} * n_pairs * sizeof(CosSin));
  expect_angles(angles, most - 5, 9);
}

}  // namespace
}  // namespace moekv
