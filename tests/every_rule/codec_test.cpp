// What every codec of the catalogue inherits: its error bound, its size, determinism, that it does compress; and the vectors of the integer ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/rng.hpp"
#include "rules/codec/catalogue.hpp"
#include "rules/codec/row.hpp"

namespace moekv {
namespace {

template <class Variant>
struct TypesOf;
template <class... T>
struct TypesOf<std::variant<T...>> {
  using type = ::testing::Types<T...>;
};

std::vector<float> gaussian_row(std::uint32_t d, std::uint32_t row, float spread = 1.0F) {
  std::vector<float> x(d);
  for (std::uint32_t i = 0; i < d; ++i) {
    const Draw4 draw = draw4(11, Stream::probe, row, i, 1);
    x[i] = spread * std::sqrt(-2.0F * std::log(uniform_open(draw.v[0]))) * std::cos(6.2831853F * uniform_float(draw.v[1]));
  }
  return x;
}

struct Encoded {
  std::vector<std::byte> codes, meta;
};

Encoded encode(const PlaneFormat& f, const std::vector<float>& x) {
  const auto d = static_cast<std::uint32_t>(x.size());
  Encoded e{std::vector<std::byte>(code_bytes(f, d) + 16, std::byte{0xAB}), std::vector<std::byte>(meta_bytes(f) + 16, std::byte{0xAB})};
  encode_row(f, x.data(), d, e.codes.data(), e.meta.data());
  return e;
}

std::vector<float> decode(const PlaneFormat& f, const Encoded& e, std::size_t d) {
  std::vector<float> y(d, std::numeric_limits<float>::quiet_NaN());
  decode_row(f, e.codes.data(), e.meta.data(), static_cast<std::uint32_t>(d), y.data());
  return y;
}

/// Largest allowed |decode(encode(x)) - x| for one value of a row (compression.md 4.1), in double, from the row itself.
double error_bound(const PlaneFormat& f, const std::vector<float>& row, float x) {
  const auto [lo, hi] = std::minmax_element(row.begin(), row.end());
  const double amax = std::max(std::abs(*lo), std::abs(*hi));
  const double half_ulp[] = {0.0, 0x1p-9, 0x1p-12, 0x1p-4, 0.0, 0.0};
  const double relative = half_ulp[static_cast<int>(f.element)] * std::abs(static_cast<double>(x));
  if (f.element == ElementFormat::bf16) return relative * 2;
  if (f.element == ElementFormat::fp16) return relative * 2 + 0x1p-25;
  if (f.element == ElementFormat::fp32) return 0.0;
  if (f.element == ElementFormat::fp8_e4m3) {
    const double scale = f.scale == ScaleScheme::head ? static_cast<double>(f.head_scale) : std::max(amax / 448.0 * (1 + 0x1p-11), 0x1p-24);
    const double subnormal_scale = f.scale == ScaleScheme::token ? 448.0 * 0x1p-25 : 0.0;  // the scale itself may be a coarse fp16
    return relative * 1.0001 + scale * 0x1p-10 * 1.0001 + subnormal_scale;
  }
  const double levels = f.zero_point ? std::exp2(element_bits(f.element)) - 1 : std::exp2(element_bits(f.element) - 1) - 1;
  const double range = f.zero_point ? static_cast<double>(*hi) - *lo : amax;
  const double scale = std::max(range / levels, 0x1p-24);
  const double rounded_meta = levels * scale * 0x1p-11 + levels * 0x1p-25 + (f.zero_point ? std::abs(static_cast<double>(*lo)) * 0x1p-11 : 0.0);
  return scale / 2 + rounded_meta + amax * 1e-6;
}

template <class T>
class EveryCodec : public ::testing::Test {};
TYPED_TEST_SUITE(EveryCodec, TypesOf<Codec>::type);

TYPED_TEST(EveryCodec, KeepsItsErrorBound) {
  const PlaneFormat f = TypeParam{}.plane();
  for (const std::uint32_t d : {1U, 2U, 31U, 64U, 96U, 128U, 576U}) {
    for (std::uint32_t r = 0; r < 40; ++r) {
      auto row = gaussian_row(d, r, r % 4 == 0 ? 1e-3F : 30.0F);
      if (r % 5 == 0) std::fill(row.begin(), row.end(), row[0]);
      if (r % 7 == 0) std::fill(row.begin(), row.end(), 0.0F);
      const auto back = decode(f, encode(f, row), d);
      for (std::uint32_t i = 0; i < d; ++i)
        ASSERT_LE(std::abs(static_cast<double>(back[i]) - row[i]), error_bound(f, row, row[i]))
            << "d " << d << " row " << r << " i " << i << " x " << row[i];
    }
  }
}

TYPED_TEST(EveryCodec, GaussianErrorIsThePublishedOne) {
  const PlaneFormat f = TypeParam{}.plane();
  double error = 0.0;
  double power = 0.0;
  for (std::uint32_t r = 0; r < 2000; ++r) {
    const auto row = gaussian_row(128, r);
    const auto back = decode(f, encode(f, row), 128);
    for (std::uint32_t i = 0; i < 128; ++i) {
      error += (static_cast<double>(back[i]) - row[i]) * (static_cast<double>(back[i]) - row[i]);
      power += static_cast<double>(row[i]) * row[i];
    }
  }
  constexpr double published[] = {0.0, 2.8e-6, 4.4e-8, 7.0e-4, 4.2e-5, 9.93e-3};  // compression.md 4.1; fp16: bf16 / 2^6
  const double expected = published[static_cast<int>(f.element)];
  EXPECT_NEAR(error / power, expected, 0.08 * expected);
}

TYPED_TEST(EveryCodec, WritesExactlyItsBytesAndIsDeterministic) {
  const PlaneFormat f = TypeParam{}.plane();
  const auto row = gaussian_row(97, 3);
  const Encoded a = encode(f, row);
  const Encoded b = encode(f, row);
  EXPECT_EQ(a.codes, b.codes);
  EXPECT_EQ(a.meta, b.meta);
  for (std::size_t i = code_bytes(f, 97); i < a.codes.size(); ++i) EXPECT_EQ(a.codes[i], std::byte{0xAB});
  for (std::size_t i = meta_bytes(f); i < a.meta.size(); ++i) EXPECT_EQ(a.meta[i], std::byte{0xAB});
}

TYPED_TEST(EveryCodec, CompressedOutputDiffersFromInput) {
  const PlaneFormat f = TypeParam{}.plane();
  const auto row = gaussian_row(128, 5);
  if (f.element == ElementFormat::fp32) {
    EXPECT_EQ(decode(f, encode(f, row), 128), row);
  } else {
    EXPECT_NE(decode(f, encode(f, row), 128), row);
  }
}

TYPED_TEST(EveryCodec, HostileValuesStayFinite) {
  const PlaneFormat f = TypeParam{}.plane();
  if (f.element == ElementFormat::fp32) GTEST_SKIP() << "raw fp32 is kept bit for bit";
  constexpr float big = std::numeric_limits<float>::infinity();
  for (const float evil : {big, -big, std::numeric_limits<float>::quiet_NaN(), 3.3e38F, 1e-40F}) {
    auto row = gaussian_row(64, 9);
    row[0] = evil;
    row[17] = evil;
    row[18] = -evil;
    for (const float y : decode(f, encode(f, row), 64)) EXPECT_TRUE(std::isfinite(y)) << evil;
  }
}

TYPED_TEST(EveryCodec, BlockBytesEqualTheFormula) {
  BlockFormat b{.k = TypeParam{}.plane(), .v = TypeParam{}.plane(), .page_slots = 64, .n_kv_heads = 2, .d_k = 128, .d_v = 128, .latent = false};
  constexpr std::uint64_t published[] = {65536, 32768, 32768, 16384, 16640, 8704};  // compression.md 8.2, per page and head
  const bool head_scale = b.k.scale == ScaleScheme::head;
  const std::uint64_t expected = b.k.element == ElementFormat::fp8_e4m3 && !head_scale ? 16640 : published[static_cast<int>(b.k.element)];
  EXPECT_EQ(b.head_bytes(), expected);
  EXPECT_EQ(b.block_bytes(), 2 * expected);
}

void expect_bytes(const std::vector<std::byte>& bytes, std::initializer_list<int> expected) {
  std::size_t i = 0;
  for (const int byte : expected) EXPECT_EQ(std::to_integer<int>(bytes[i++]), byte) << i - 1;
}

TEST(Int8Token, MatchesVector) {
  const PlaneFormat f = codec::Int8Token{}.plane();
  const Encoded e = encode(f, {.5F, -1.0F, 2.0F, -4.0F});
  expect_bytes(e.meta, {0x08, 0x28});
  expect_bytes(e.codes, {16, 256 - 32, 64, 256 - 127});
  const auto y = decode(f, e, 4);
  constexpr std::array expected = {.503906F, -1.007812F, 2.015625F, -3.999756F};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(y[i], expected[i], 1e-6F);
}

TEST(Int4Token, MatchesVector) {
  const PlaneFormat f = codec::Int4Token{}.plane();
  const Encoded e = encode(f, {-1.0F, -.5F, 0.0F, .6F, 1.1F, 1.5F, 2.75F, .25F});
  expect_bytes(e.meta, {0x00, 0x34, 0x00, 0xBC});
  expect_bytes(e.codes, {0x20, 0x64, 0xA8, 0x5F});
  EXPECT_EQ(decode(f, e, 8), (std::vector<float>{-1.0F, -.5F, 0.0F, .5F, 1.0F, 1.5F, 2.75F, .25F}));
}

TEST(Int4Token, FlatRowHasCodesZeroAndTheSmallestScale) {
  const PlaneFormat f = codec::Int4Token{}.plane();
  const Encoded e = encode(f, {1000.3F, 1000.3F, 1000.3F, 1000.3F});
  expect_bytes(e.codes, {0, 0});
  expect_bytes(e.meta, {0x01, 0x00});
  EXPECT_EQ(decode(f, e, 4)[2], 1000.5F);
}

TEST(Fp8Head, SaturatesAboveItsScale) {
  const PlaneFormat f = codec::Fp8Head{.head_scale = 2.0F}.plane();
  EXPECT_EQ(decode(f, encode(f, {1000.0F, -2.0F, 0.0F}), 3), (std::vector<float>{896.0F, -2.0F, 0.0F}));
}

}  // namespace
}  // namespace moekv
