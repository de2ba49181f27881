// Element formats: published and hand-checked vectors, exhaustive round trips, and the nearest-value property against a search.
#include "rules/codec/element.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/rng.hpp"

namespace moekv {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

TEST(E4m3, MatchesVectors) {
  const std::pair<float, int> vectors[] = {{.1F, 0x1D},   {1.0F, 0x38},   {-2.7F, 0xC3},   {448.0F, 0x7E}, {500.0F, 0x7E},
                                           {.001F, 0x01}, {.0019F, 0x01}, {-.0009F, 0x80}, {17.0F, 0x58},  {19.0F, 0x5A}};
  for (const auto& [x, code] : vectors) EXPECT_EQ(e4m3_from_float(x), code) << x;
  EXPECT_EQ(float_from_e4m3(0x1D), .1015625F);
  EXPECT_EQ(float_from_e4m3(0xC3), -2.75F);
  EXPECT_EQ(float_from_e4m3(0x01), 0x1p-9F);
  EXPECT_EQ(float_from_e4m3(0x58), 16.0F);
  EXPECT_TRUE(std::isnan(float_from_e4m3(0x7F)));
}

TEST(E5m2, MatchesVectors) {
  const std::pair<float, int> vectors[] = {{.1F, 0x2E}, {1.0F, 0x3C}, {-2.7F, 0xC1}, {448.0F, 0x5F}, {60000.0F, 0x7B}, {.001F, 0x14}};
  for (const auto& [x, code] : vectors) EXPECT_EQ(e5m2_from_float(x), code) << x;
  EXPECT_EQ(float_from_e5m2(0x2E), .09375F);
  EXPECT_EQ(float_from_e5m2(0x7B), 57344.0F);
}

TEST(E2m1, RoundsTiesToEven) {
  const std::pair<float, float> vectors[] = {{.25F, 0}, {.26F, .5F}, {.75F, 1}, {1.25F, 1}, {1.75F, 2}, {2.5F, 2},
                                             {3.5F, 4}, {5.0F, 4},   {5.1F, 6}, {100, 6},   {-3, -3},   {-.2F, 0}};
  for (const auto& [x, value] : vectors) EXPECT_EQ(float_from_e2m1(e2m1_from_float(x)), value) << x;
}

TEST(Bf16, RoundsToEvenAndSaturates) {
  EXPECT_EQ(bf16_from_float(1.0F), 0x3F80);
  EXPECT_EQ(bf16_from_float(1.00390625F), 0x3F80);  // 1 + 2^-8: tie, down to even
  EXPECT_EQ(bf16_from_float(1.01171875F), 0x3F82);  // 1 + 3 * 2^-8: tie, up to even
  EXPECT_EQ(bf16_from_float(3.4e38F), 0x7F7F);
  EXPECT_EQ(bf16_from_float(-infinity), 0xFF7F);
}

TEST(Fp16, MatchesKnownValues) {
  EXPECT_EQ(fp16_from_float(1.0F), 0x3C00);
  EXPECT_EQ(fp16_from_float(4.0F / 127.0F), 0x2808);
  EXPECT_EQ(fp16_from_float(65504.0F), 0x7BFF);
  EXPECT_EQ(fp16_from_float(65519.9F), 0x7BFF);
  EXPECT_EQ(fp16_from_float(1e9F), 0x7BFF);
  EXPECT_EQ(fp16_from_float(-infinity), 0xFBFF);
  EXPECT_EQ(fp16_from_float(0x1p-24F), 0x0001);
  EXPECT_EQ(fp16_from_float(0x1p-25F), 0x0000);  // tie, to even
  EXPECT_EQ(fp16_from_float(0x1.8p-24F), 0x0002);
  EXPECT_EQ(fp16_from_float(-0x1p-14F), 0x8400);
  EXPECT_TRUE(std::isinf(float_from_fp16(0x7C00)));
  EXPECT_TRUE(std::isnan(float_from_fp16(0x7C01)));
}

TEST(Elements, NanBecomesZero) {
  EXPECT_EQ(bf16_from_float(not_a_number), 0);
  EXPECT_EQ(fp16_from_float(not_a_number), 0);
  EXPECT_EQ(e4m3_from_float(not_a_number), 0);
  EXPECT_EQ(e5m2_from_float(not_a_number), 0);
  EXPECT_EQ(e2m1_from_float(not_a_number), 0);
}

TEST(Elements, EveryFiniteCodeSurvivesTheRoundTrip) {
  for (std::uint32_t c = 0; c < 65536; ++c) {
    const auto code = static_cast<std::uint16_t>(c);
    if ((c >> 7 & 255U) != 255U) {
      EXPECT_EQ(bf16_from_float(float_from_bf16(code)), code);
    }
    if ((c >> 10 & 31U) != 31U) {
      EXPECT_EQ(fp16_from_float(float_from_fp16(code)), code);
    }
    if (c < 256 && (c & 127U) != 127U) {
      EXPECT_EQ(e4m3_from_float(float_from_e4m3(static_cast<std::uint8_t>(c))), c);
    }
    if (c < 256 && (c & 127U) < 0x7CU) {
      EXPECT_EQ(e5m2_from_float(float_from_e5m2(static_cast<std::uint8_t>(c))), c);
    }
    if (c < 16 && c != 8) {  // -0 is stored as 0
      EXPECT_EQ(e2m1_from_float(float_from_e2m1(static_cast<std::uint8_t>(c))), c);
    }
  }
}

/// The code in [0, n) whose value is nearest to x, ties to the even code: by trying all.
template <class Decode>
std::uint32_t nearest_code(double x, std::uint32_t n, Decode decode) {
  std::uint32_t best = 0;
  for (std::uint32_t c = 1; c < n; ++c) {
    const double now = std::abs(static_cast<double>(decode(c)) - x);
    const double before = std::abs(static_cast<double>(decode(best)) - x);
    if (now < before || (now == before && c % 2 == 0)) best = c;
  }
  return best;
}

TEST(Elements, EncodeToTheNearestValue) {
  for (std::uint32_t i = 0; i < 2000; ++i) {
    const Draw4 draw = draw4(7, Stream::probe, i, 0, 0);
    const float wide = std::ldexp(1.0F + uniform_float(draw.v[0]), static_cast<int>(draw.v[1] % 24) - 14);
    EXPECT_EQ(e4m3_from_float(wide), nearest_code(wide, 0x7F, [](std::uint32_t c) { return float_from_e4m3(static_cast<std::uint8_t>(c)); })) << wide;
    EXPECT_EQ(e5m2_from_float(wide), nearest_code(wide, 0x7C, [](std::uint32_t c) { return float_from_e5m2(static_cast<std::uint8_t>(c)); })) << wide;
    if (i % 40 == 0) {
      EXPECT_EQ(fp16_from_float(wide * 0x1p-8F),
                nearest_code(wide * 0x1p-8, 0x7C00, [](std::uint32_t c) { return float_from_fp16(static_cast<std::uint16_t>(c)); }));
      EXPECT_EQ(bf16_from_float(wide), nearest_code(wide, 0x7F80, [](std::uint32_t c) { return float_from_bf16(static_cast<std::uint16_t>(c)); }));
    }
  }
}

TEST(Elements, RoundEvenMatchesRint) {
  for (float x = -300.0F; x <= 300.0F; x += 0.125F) EXPECT_EQ(round_even(x), std::rint(x));
}

}  // namespace
}  // namespace moekv
