// What kernels are made of, alone: exact 16-bit forms of codes, single values of rows and maps, the cut of tasks, shared memory of all shapes.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "attend_plan.hpp"
#include "rules/codec/catalogue.hpp"
#include "rules/codec/map.hpp"
#include "rules/codec/narrow.hpp"
#include "rules/codec/plane.hpp"
#include "support/emulated_block.hpp"
#include "tensor_shapes.hpp"

namespace moekv::kernels {
namespace {

template <ElementFormat wide>
float wide_value(std::uint32_t pair, unsigned half) {
  const auto bits = static_cast<std::uint16_t>(pair >> (16 * half));
  return wide == ElementFormat::bf16 ? float_from_bf16(bits) : float_from_fp16(bits);
}

template <ElementFormat wide>
void expect_exact_codes() {
  const PlaneFormat int8{ElementFormat::int8, ScaleScheme::token}, int4{ElementFormat::int4, ScaleScheme::token, true};
  for (std::uint32_t code = 0; code < 256; ++code) {
    std::uint32_t pairs[4];
    const std::uint32_t word = code << 24 | (255 - code) << 16 | (code ^ 0x55U) << 8 | code;
    narrow_bytes<wide>(ElementFormat::int8, word, pairs);
    for (unsigned i = 0; i < 4; ++i) EXPECT_EQ(wide_value<wide>(pairs[i / 2], i % 2), code_value(int8, word >> (8 * i) & 0xFFU));
    narrow_nibbles<wide>(word, pairs);
    for (unsigned i = 0; i < 8; ++i) EXPECT_EQ(wide_value<wide>(pairs[i / 2], i % 2), code_value(int4, word >> (4 * i) & 0xFU));
    for (unsigned i = 0; i < 4; ++i) {
      const std::uint32_t pair = narrow_byte_pair<test::EmulatedBlock, ElementFormat::int8, wide>(word, i, 3 - i);
      for (unsigned half = 0; half < 2; ++half)
        EXPECT_EQ(wide_value<wide>(pair, half), code_value(int8, word >> (8 * (half == 0 ? i : 3 - i)) & 0xFFU));
      const std::uint32_t nibbles = narrow_nibble_pair<test::EmulatedBlock, wide>(word >> (4 * i));
      for (unsigned half = 0; half < 2; ++half) EXPECT_EQ(wide_value<wide>(nibbles, half), code_value(int4, word >> (4 * i + 16 * half) & 0xFU));
    }
    if ((code & 0x7FU) == 0x7FU) continue;  // NaN, which no encoder writes
    const std::uint32_t pair = narrow_byte_pair<test::EmulatedBlock, ElementFormat::fp8_e4m3, wide>(code << 16, 2, 0);
    EXPECT_EQ(wide_value<wide>(pair, 0), float_from_e4m3(static_cast<std::uint8_t>(code)));
    EXPECT_EQ(pair >> 16, 0U);
    narrow_bytes<wide>(ElementFormat::fp8_e4m3, code * 0x01010101U, pairs);
    for (unsigned i = 0; i < 4; ++i) EXPECT_EQ(wide_value<wide>(pairs[i / 2], i % 2), float_from_e4m3(static_cast<std::uint8_t>(code)));
  }
}

TEST(NarrowCodes, AreTheirValuesExactly) {
  expect_exact_codes<ElementFormat::bf16>();
  expect_exact_codes<ElementFormat::fp16>();
}

TEST(NarrowFormats, AreThoseWhoseRowsHaveOneScale) {
  EXPECT_TRUE(narrows_to(codec::Bf16{}.plane(Role::k, 64), ElementFormat::bf16));
  EXPECT_FALSE(narrows_to(codec::Bf16{}.plane(Role::k, 64), ElementFormat::fp16));
  EXPECT_FALSE(narrows_to(codec::Fp32{}.plane(Role::k, 64), ElementFormat::fp32));
  EXPECT_TRUE(narrows_to(codec::Int8Token{}.plane(Role::k, 64), ElementFormat::bf16));
  EXPECT_TRUE(narrows_to(codec::Int4Token{}.plane(Role::k, 64), ElementFormat::fp16));
  EXPECT_TRUE(narrows_to(codec::Fp8Head{}.plane(Role::k, 64), ElementFormat::bf16));
  EXPECT_FALSE(narrows_to(codec::Int4TokenHadamard{}.plane(Role::k, 64), ElementFormat::bf16));
  EXPECT_FALSE(narrows_to(codec::Kivi4{}.plane(Role::k, 64), ElementFormat::bf16));
}

TEST(DecodeValue, IsTheValueOfTheRow) {
  std::mt19937 random(2);
  const auto check = [&](const auto& codec, std::uint32_t d) {
    for (const Role role : {Role::k, Role::v}) {
      PlaneFormat f = codec.plane(role, d);
      f.map = MapKind::identity;
      f.centre = false;
      f.width = 0;
      std::vector<float> x(32 * d);
      for (float& value : x) value = std::normal_distribution<float>(0.2F, 2.0F)(random);
      std::vector<std::byte> codes(32 * code_bytes(f, d) + 8), meta(plane_meta_bytes(f, d, 32) + 8);
      encode_plane(f, x.data(), 32, d, codes.data(), meta.data());
      std::vector<float> row(d);
      for (std::uint32_t slot = 0; slot < 32; ++slot) {
        decode_slot(f, codes.data(), meta.data(), slot, d, row.data());
        for (std::uint32_t c = 0; c < d; ++c) ASSERT_EQ(decode_value(f, codes.data(), meta.data(), slot, d, c), row[c]) << codec.name << " " << c;
      }
    }
  };
  const auto every = [&]<std::size_t... I>(std::index_sequence<I...>) {
    const auto one = [&](const auto& codec) {
      check(codec, 64);
      check(codec, 45);
    };
    (one(std::variant_alternative_t<I, Codec>{}), ...);
  };
  every(std::make_index_sequence<std::variant_size_v<Codec>>{});
}

TEST(MapBackValue, IsTheChannelOfMapBack) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  for (const PlaneFormat& f :
       {codec::LowrankPca{.rank = 12}.plane(Role::k, 40), codec::LowrankKqSvd{.rank = 12}.plane(Role::k, 40),
        codec::PruneMagnitude{}.plane(Role::k, 40), codec::PyramidRes{}.plane(Role::k, 40), codec::Pq{.subvectors = 12}.plane(Role::k, 40),
        codec::AeLoaded{.rank = 12}.plane(Role::k, 40), codec::Int4TokenCentred{}.plane(Role::k, 40),
        codec::Parts{.map = codec::PartMap::diag, .centre = codec::PartCentre::mean}.plane(Role::k, 40)}) {
    std::vector<std::byte> table(table_bytes(f, 40));
    for (std::size_t i = 0; i < table.size(); i += 2) store_u16(&table[i], fp16_from_float(normal(random)));
    const std::size_t data = f.centre ? 80 : 0;
    for (std::uint32_t i = 0; f.map == MapKind::select && i < f.width; ++i) store_u16(&table[data + 2 * i], static_cast<std::uint16_t>(i + 7));
    const MapView map = map_view(f, 40, table.data());
    std::vector<float> z(map.width), o(40), expected;
    for (float& value : z) value = f.map == MapKind::codebook ? static_cast<float>(random() % n_centroids) : normal(random);
    for (float& value : o) value = normal(random);
    expected = o;
    std::vector<float> spent = z;
    map_back(map, spent.data(), 0.7F, expected.data(), 40);
    for (std::uint32_t c = 0; c < 40; ++c)
      EXPECT_EQ(map_back_value(map, z.data(), 0.7F, o[c], c), expected[c]) << static_cast<int>(f.map) << " " << c;
  }
}

TEST(PartsOfTasks, AreEnoughForADeviceAndFewEnoughToMerge) {
  EXPECT_EQ(part_slots(1, true), 512U);
  EXPECT_EQ(part_slots(4096, true), 512U);
  EXPECT_EQ(part_slots(4097, true), 1024U);
  EXPECT_EQ(part_slots(4097, false), 512U);
  EXPECT_EQ(part_slots(128 * 1024, true), 1024U);
  EXPECT_EQ(part_slots(256 * 1024, true), 2048U);
  for (const std::uint64_t slots : {std::uint64_t{700}, std::uint64_t{100000}, std::uint64_t{1} << 24})
    EXPECT_LE((slots + part_slots(slots, true) - 1) / part_slots(slots, true), 128U);
}

TEST(TensorShapes, FitTheSharedMemoryOfTheirDevices) {
  const auto bytes = [](std::uint32_t d_k, std::uint32_t d_v, bool latent, const Codec& c) {
    BlockFormat f{plane_of(c, Role::k, d_k), plane_of(c, Role::v, d_v)};
    f.d_k = d_k;
    f.d_v = d_v;
    f.latent = latent;
    return tensor_bytes(pool_layout(f));
  };
  for (const std::uint32_t d : {64U, 128U}) EXPECT_LE(bytes(d, d, false, codec::Bf16{}), 99U << 10);  // every device of compute capability 8
  EXPECT_LE(bytes(128, 128, false, codec::Bf16{}), 75U << 10);                                        // three blocks on 9.0
  EXPECT_LE(bytes(128, 128, false, codec::Int8Token{}), 56U << 10);                                   // four
  EXPECT_LE(bytes(576, 512, true, codec::Fp16{}), 99U << 10);
  EXPECT_EQ(tensor_heads(ElementFormat::bf16, 128, 128, false), 8U);
  EXPECT_EQ(tensor_heads(ElementFormat::fp32, 128, 128, false), 0U);
  EXPECT_EQ(tensor_heads(ElementFormat::bf16, 96, 96, false), 0U);
}

}  // namespace
}  // namespace moekv::kernels
