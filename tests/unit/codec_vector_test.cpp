// Codecs worked out by hand: integer and FP4 rows, rotations, channel groups, budgets of layers and chunks (compression.md section 5).
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <initializer_list>
#include <vector>

#include "rules/codec/catalogue.hpp"
#include "rules/codec/map.hpp"
#include "rules/codec/plane.hpp"

namespace moekv {
namespace {

struct Encoded {
  std::vector<std::byte> codes, meta;
};

Encoded encode(const PlaneFormat& f, const std::vector<float>& x, std::uint32_t n = 1) {
  const auto d = static_cast<std::uint32_t>(x.size()) / n;
  Encoded e{std::vector<std::byte>(n * code_bytes(f, d)), std::vector<std::byte>(plane_meta_bytes(f, d, n))};
  encode_plane(f, x.data(), n, d, e.codes.data(), e.meta.data());
  return e;
}

std::vector<float> decode(const PlaneFormat& f, const Encoded& e, std::uint32_t d, std::uint32_t slot = 0) {
  std::vector<float> y(d);
  decode_slot(f, e.codes.data(), e.meta.data(), slot, d, y.data());
  return y;
}

void expect_bytes(const std::vector<std::byte>& bytes, std::initializer_list<int> expected) {
  std::size_t i = 0;
  for (const int byte : expected) EXPECT_EQ(std::to_integer<int>(bytes[i++]), byte) << i - 1;
}

TEST(Int8Token, MatchesVector) {
  const PlaneFormat f = codec::Int8Token{}.plane(Role::k, 128);
  const Encoded e = encode(f, {.5F, -1.0F, 2.0F, -4.0F});
  expect_bytes(e.meta, {0x08, 0x28});
  expect_bytes(e.codes, {16, 256 - 32, 64, 256 - 127});
  const auto y = decode(f, e, 4);
  constexpr std::array expected = {.503906F, -1.007812F, 2.015625F, -3.999756F};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(y[i], expected[i], 1e-6F);
}

TEST(Int4Token, MatchesVector) {
  const PlaneFormat f = codec::Int4Token{}.plane(Role::k, 128);
  const Encoded e = encode(f, {-1.0F, -.5F, 0.0F, .6F, 1.1F, 1.5F, 2.75F, .25F});
  expect_bytes(e.meta, {0x00, 0x34, 0x00, 0xBC});
  expect_bytes(e.codes, {0x20, 0x64, 0xA8, 0x5F});
  EXPECT_EQ(decode(f, e, 8), (std::vector<float>{-1.0F, -.5F, 0.0F, .5F, 1.0F, 1.5F, 2.75F, .25F}));
}

TEST(Int4Token, FlatRowHasCodesZeroAndTheSmallestScale) {
  const PlaneFormat f = codec::Int4Token{}.plane(Role::k, 128);
  const Encoded e = encode(f, {1000.3F, 1000.3F, 1000.3F, 1000.3F});
  expect_bytes(e.codes, {0, 0});
  expect_bytes(e.meta, {0x01, 0x00});
  EXPECT_EQ(decode(f, e, 4)[2], 1000.5F);
}

TEST(Fp8Head, SaturatesAboveItsScale) {
  const PlaneFormat f = codec::Fp8Head{.head_scale = 2.0F}.plane(Role::k, 128);
  EXPECT_EQ(decode(f, encode(f, {1000.0F, -2.0F, 0.0F}), 3), (std::vector<float>{896.0F, -2.0F, 0.0F}));
}

TEST(Nvfp4, MatchesVector) {
  const PlaneFormat f = codec::Nvfp4{}.plane(Role::k, 16);
  const Encoded e = encode(f, {.1F, .3F, -.6F, .9F, 1.2F, -1.4F, 1.6F, 2, -2.6F, 3.1F, 0, 0, 4.4F, -5.1F, 5.9F, 6});
  expect_bytes(e.meta, {0x38});
  expect_bytes(e.codes, {0x10, 0x29, 0xB2, 0x43, 0x5D, 0x00, 0xF6, 0x77});
  EXPECT_EQ(decode(f, e, 16)[8], -3.0F);
}

TEST(Nvfp4, FourOverSixTakesTheBetterScale) {  // 4 and 3 are levels under scale 1, where 6 would need 4 / 6 and put 3 on 2 or 4
  const std::vector<float> x = {4, 3, -3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  const PlaneFormat better = codec::Nvfp4FourOverSix{}.plane(Role::k, 16);
  EXPECT_EQ(decode(better, encode(better, x), 16), x);
  const PlaneFormat six = codec::Nvfp4{}.plane(Role::k, 16);
  EXPECT_NE(decode(six, encode(six, x), 16), x);
}

TEST(Mxfp4, ClipsAboveSixQuarters) {  // amax 7: scale 2^(2 - 2) = 1
  const PlaneFormat f = codec::Mxfp4{}.plane(Role::k, 32);
  std::vector<float> x(32);
  x[0] = 7.0F;
  x[1] = -1.5F;
  const Encoded e = encode(f, x);
  expect_bytes(e.meta, {127});
  EXPECT_EQ(decode(f, e, 32)[0], 6.0F);
  EXPECT_EQ(decode(f, e, 32)[1], -1.5F);
}

TEST(Kivi4, ScalesEveryChannelOfKOverTokens) {
  PlaneFormat f = codec::Kivi4{}.plane(Role::k, 2);
  f.group = 2;
  const Encoded e = encode(f, {0, 100, 15, 130, 1, 1}, 3);  // two tokens, then one in a group of its own
  expect_bytes(e.codes, {0x00, 0xFF, 0x00});
  expect_bytes(e.meta, {0x00, 0x3C, 0x00, 0x00, 0x00, 0x40, 0x40, 0x56, 0x01, 0x00, 0x00, 0x3C, 0x01, 0x00, 0x00, 0x3C});
  EXPECT_EQ(decode(f, e, 2, 1), (std::vector<float>{15, 130}));
  EXPECT_EQ(decode(f, e, 2, 2), (std::vector<float>{1, 1}));
}

TEST(Packing, PutsElementZeroInTheLowestBits) {
  std::vector<std::byte> codes(3);
  for (const std::uint32_t i : {0U, 1U, 2U, 3U, 4U, 5U, 6U, 7U}) put_code(codes.data(), i, 3, i);
  expect_bytes(codes, {0x88, 0xC6, 0xFA});
  for (const std::uint32_t i : {0U, 1U, 2U, 3U, 4U, 5U, 6U, 7U}) EXPECT_EQ(take_code(codes.data(), i, 3), i);
}

TEST(Lloyd, LevelsAreCentroidsOfTheirThresholds) {  // each threshold lies halfway between two levels, to the digits given
  for (const std::uint32_t bits : {2U, 3U, 4U}) {
    for (std::uint32_t code = 0; code + 1 < (1U << bits); ++code) {
      const float middle = (lloyd_level(code, bits) + lloyd_level(code + 1, bits)) / 2;
      EXPECT_EQ(lloyd_code(middle - 2e-4F, bits), code);
      EXPECT_EQ(lloyd_code(middle + 2e-4F, bits), code + 1);
    }
  }
}

TEST(Hadamard, MatchesVector) {
  std::vector<float> x = {1, 2, 3, 4};
  hadamard(x.data(), 4);
  EXPECT_EQ(x, (std::vector<float>{5, -1, -2, 0}));
  hadamard(x.data(), 4);
  EXPECT_EQ(x, (std::vector<float>{1, 2, 3, 4}));
}

TEST(Hadamard, GoesByBlocksWhereTheLengthIsNoPowerOfTwo) {
  std::vector<float> x = {1, 1, 2, 0, 0, 3};
  hadamard(x.data(), 6);
  const float root = std::sqrt(0.5F);
  const std::vector<float> expected = {2 * root, 0, 2 * root, 2 * root, 3 * root, -3 * root};
  for (std::size_t i = 0; i < 6; ++i) EXPECT_NEAR(x[i], expected[i], 1e-6F);
}

TEST(Smooth, MatchesVector) {  // divisors (4, 1): k = (8, 1) is stored as (2, 1), q = (1, 2) meets it as (4, 2), and 4 * 2 + 2 * 1 is q . k
  const PlaneFormat f = codec::Parts{.map = codec::PartMap::diag}.plane(Role::k, 2);
  std::vector<std::byte> table(table_bytes(f, 2));
  ASSERT_EQ(table.size(), 4U);
  store_u16(table.data(), fp16_from_float(4));
  store_u16(table.data() + 2, fp16_from_float(1));
  const MapView m = map_view(f, 2, table.data());
  std::vector<float> k = {8, 1}, z(2), folded(2), back = {100, 200};
  map_forward(m, k.data(), z.data());
  EXPECT_EQ(z, (std::vector<float>{2, 1}));
  const std::vector<float> q = {1, 2};
  map_query(m, q.data(), folded.data());
  EXPECT_EQ(folded, (std::vector<float>{4, 2}));
  map_back(m, z.data(), 1.0F, back.data(), 2);
  EXPECT_EQ(back, (std::vector<float>{108, 201}));
}

TEST(Pq, MatchesVector) {  // sub-vectors are channels 0, 1 and 2, 3, 4 of 5
  const PlaneFormat f = codec::Pq{.subvectors = 2}.plane(Role::k, 5);
  ASSERT_EQ(code_bytes(f, 5), 2U);
  std::vector<std::byte> table(table_bytes(f, 5));
  ASSERT_EQ(table.size(), 2U * 256 * 5);
  const auto centroid = [&](std::uint32_t k, std::uint32_t first, const std::vector<float>& x) {
    for (std::uint32_t c = 0; c < x.size(); ++c) store_u16(&table[2 * centroid_index(first + c, k)], fp16_from_float(x[c]));
  };
  for (std::uint32_t k = 0; k < 256; ++k) centroid(k, 0, {9, 9, 9, 9, 9});
  centroid(200, 0, {1, 1});   // 0 + 1 from (1, 2)
  centroid(255, 0, {2, 2});   // 1 + 0: as near, and later
  centroid(7, 2, {3, 4, 6});  // 1 from (3, 4, 5)
  centroid(8, 2, {2, 5, 5});  // 2
  const MapView m = map_view(f, 5, table.data());
  std::vector<float> x = {1, 2, 3, 4, 5}, z(2), number(2);
  map_forward(m, x.data(), z.data());
  EXPECT_EQ(z, (std::vector<float>{200, 7}));
  PlaneFormat behind = f;
  behind.map = MapKind::identity;
  behind.width = 0;
  const Encoded e = encode(behind, z);
  expect_bytes(e.codes, {200, 7});
  decode_slot(f, e.codes.data(), nullptr, 0, 2, number.data());
  std::vector<float> back = {10, 20, 30, 40, 50};
  map_back(m, number.data(), 1.0F, back.data(), 5);
  EXPECT_EQ(back, (std::vector<float>{11, 21, 33, 44, 56}));
  for (std::uint32_t c = 0; c < 5; ++c) EXPECT_EQ(codebook_value(m, e.codes.data(), c), back[c] - 10 * static_cast<float>(c + 1));
}

TEST(Pq, CutsRowsIntoAllTheirChannels) {
  for (std::uint32_t d = 1; d < 70; ++d) {
    for (std::uint32_t m = 1; m <= d; ++m) {
      EXPECT_EQ(subvector_begin(m, d, m), d);
      for (std::uint32_t i = 0; i < m; ++i) {
        ASSERT_LT(subvector_begin(i, d, m), subvector_begin(i + 1, d, m));
        for (std::uint32_t c = subvector_begin(i, d, m); c < subvector_begin(i + 1, d, m); ++c) ASSERT_EQ(subvector_of(c, d, m), i) << d << " " << m;
      }
    }
  }
}

TEST(Pq, HostileValuesHaveANearestCentroid) {
  const PlaneFormat f = codec::Pq{.subvectors = 1}.plane(Role::k, 2);
  std::vector<std::byte> table(table_bytes(f, 2));
  store_u16(&table[2 * centroid_index(0, 3)], fp16_from_float(60000));
  store_u16(&table[2 * centroid_index(1, 4)], fp16_from_float(-60000));
  const MapView m = map_view(f, 2, table.data());
  constexpr float infinite = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const auto nearest = [&](float a, float b) {
    std::vector<float> x = {a, b}, z(1);
    map_forward(m, x.data(), z.data());
    return z[0];
  };
  EXPECT_EQ(nearest(infinite, 0), 3);
  EXPECT_EQ(nearest(3e38F, nan), 3);
  EXPECT_EQ(nearest(nan, -infinite), 4);
  EXPECT_EQ(nearest(nan, nan), 0);
}

TEST(PyramidRes, KeepsMeansAndRepeatsThem) {
  PlaneFormat f = codec::PyramidRes{.level = 1}.plane(Role::k, 5);
  const MapView m = map_view(f, 5, nullptr);
  ASSERT_EQ(m.width, 3U);
  std::vector<float> x = {1, 3, 5, 7, 9};
  std::vector<float> z(3);
  map_forward(m, x.data(), z.data());
  EXPECT_EQ(z, (std::vector<float>{2, 6, 9}));
  std::vector<float> back(5);
  std::vector<float> kept = z;
  map_back(m, kept.data(), 1.0F, back.data(), 5);
  EXPECT_EQ(back, (std::vector<float>{2, 2, 6, 6, 9}));
  const std::vector<float> q = {1, 2, 3, 4, 5};
  std::vector<float> folded(3);
  map_query(m, q.data(), folded.data());
  EXPECT_EQ(folded, (std::vector<float>{3, 7, 5}));  // q . back = 3 * 2 + 7 * 6 + 5 * 9
}

}  // namespace
}  // namespace moekv
