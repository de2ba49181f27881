// What every codec of the catalogue inherits: its error bound, its size, determinism, that it does compress.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string_view>
#include <vector>

#include "core/rng.hpp"
#include "rules/codec/catalogue.hpp"
#include "support/codec_bounds.hpp"
#include "support/every_codec.hpp"
#include "support/test_name.hpp"

namespace moekv {
namespace {

using testing::behind_map;
using testing::CatalogueCodec;
using testing::decode;
using testing::encode;
using testing::Encoded;
using testing::error_bound;
using testing::EveryCodec;
using testing::scaled_with;

std::vector<float> gaussian_row(std::uint32_t d, std::uint32_t row, float spread = 1.0F) {
  std::vector<float> x(d);
  for (std::uint32_t i = 0; i < d; ++i) {
    const Draw4 draw = draw4(11, Stream::probe, row, i, 1);
    x[i] = spread * std::sqrt(-2.0F * std::log(uniform_open(draw.v[0]))) * std::cos(6.2831853F * uniform_float(draw.v[1]));
  }
  return x;
}

constexpr Role roles[] = {Role::k, Role::v};

INSTANTIATE_TEST_SUITE_P(Catalogue, EveryCodec, ::testing::ValuesIn(testing::every_codec()),
                         [](const auto& entry) { return testing::test_name(entry.param.name); });

std::vector<float> page_of_rows(std::uint32_t n, std::uint32_t d, std::uint32_t seed) {
  std::vector<float> page;
  for (std::uint32_t t = 0; t < n; ++t) {
    const std::uint32_t r = seed + t;
    auto row = gaussian_row(d, r, seed % 4 == 0 ? 1e-3F : 30.0F);
    if (r % 5 == 0) std::fill(row.begin(), row.end(), row[0]);
    if (r % 7 == 0) std::fill(row.begin(), row.end(), 0.0F);
    page.insert(page.end(), row.begin(), row.end());
  }
  return page;
}

TEST_P(EveryCodec, KeepsItsErrorBound) {
  for (const Role role : roles) {
    const PlaneFormat f = behind_map(GetParam().plane(role, 128));
    for (const std::uint32_t d : {1U, 2U, 31U, 64U, 96U, 128U, 576U}) {
      for (const std::uint32_t n : {1U, 32U, 40U}) {
        const auto page = page_of_rows(n, d, n + d);
        const auto back = decode(f, encode(f, page, n), d, n);
        for (std::uint32_t i = 0; i < page.size(); ++i) {
          if (is_lloyd(f.element)) break;
          ASSERT_LE(std::abs(static_cast<double>(back[i]) - page[i]), error_bound(f, scaled_with(f, page, d, i / d, i % d), page[i]))
              << "d " << d << " row " << i / d << " i " << i % d << " x " << page[i];
        }
        for (std::uint32_t t = 0; is_lloyd(f.element) && t < n; ++t) {  // a row keeps its norm
          double before = 0.0;
          double after = 0.0;
          for (std::uint32_t i = t * d; i < (t + 1) * d; ++i) {
            before += static_cast<double>(page[i]) * page[i];
            after += static_cast<double>(back[i]) * back[i];
          }
          ASSERT_NEAR(std::sqrt(after), std::sqrt(before), std::sqrt(before) * 0x1p-10 + std::sqrt(d) * 0x1p-22) << "d " << d << " row " << t;
        }
      }
    }
  }
}

/// Relative mean squared error of a standard normal in 128 channels (compression.md 4.1).
double published_error(const PlaneFormat& f) {
  const bool groups = f.scale == ScaleScheme::token_group || f.scale == ScaleScheme::channel_group;
  switch (f.element) {
    case ElementFormat::fp32:
      return 0.0;
    case ElementFormat::bf16:
      return 2.8e-6;
    case ElementFormat::fp16:
      return 4.4e-8;  // bf16 / 2^6
    case ElementFormat::fp8_e4m3:
      return groups ? 5.75e-4 : 7.0e-4;  // of groups of 32, by a loop in numpy
    case ElementFormat::fp8_e5m2:
      return 2.8e-3;
    case ElementFormat::int8:
      if (f.scale == ScaleScheme::head) return static_cast<double>(f.head_scale) * static_cast<double>(f.head_scale) / 12;
      return f.zero_point ? 3.4e-5 : 4.2e-5;
    case ElementFormat::int4:
      if (!f.zero_point) return 9.4e-3;
      return !groups ? 9.93e-3 : f.group == 64 ? 8.03e-3 : 6.11e-3;
    case ElementFormat::int3:
      return groups ? 2.8e-2 : 4.6e-2;
    case ElementFormat::int2:
      return 0.154;
    case ElementFormat::e2m1:
      return f.scale_code == ScaleCode::e8m0 ? 1.32e-2 : f.four_over_six ? 7.6e-3 : 9.0e-3;
    case ElementFormat::lloyd4:
      return 9.2e-3;
    case ElementFormat::lloyd3:
      return 3.4e-2;
    default:
      return 0.119;
  }
}

TEST_P(EveryCodec, GaussianErrorIsThePublishedOne) {
  if (GetParam().plane(Role::k, 128).map == MapKind::codebook) GTEST_SKIP() << "numbers of centroids are no Gaussians: golden/codec_table_test.cpp";
  for (const Role role : roles) {
    const PlaneFormat f = behind_map(GetParam().plane(role, 128));
    double error = 0.0;
    double power = 0.0;
    for (std::uint32_t r = 0; r < 2048; r += 32) {
      std::vector<float> page;
      for (std::uint32_t t = 0; t < 32; ++t) {
        const auto row = gaussian_row(128, r + t);
        page.insert(page.end(), row.begin(), row.end());
      }
      const auto back = decode(f, encode(f, page, 32), 128, 32);
      for (std::size_t i = 0; i < page.size(); ++i) {
        error += (static_cast<double>(back[i]) - page[i]) * (static_cast<double>(back[i]) - page[i]);
        power += static_cast<double>(page[i]) * page[i];
      }
    }
    EXPECT_NEAR(error / power, published_error(f), 0.08 * published_error(f));
  }
}

TEST_P(EveryCodec, WritesExactlyItsBytesAndIsDeterministic) {
  for (const Role role : roles) {
    const PlaneFormat f = behind_map(GetParam().plane(role, 97));
    const auto page = page_of_rows(33, 97, 3);
    const Encoded a = encode(f, page, 33);
    const Encoded b = encode(f, page, 33);
    EXPECT_EQ(a.codes, b.codes);
    EXPECT_EQ(a.meta, b.meta);
    for (std::size_t i = 33 * code_bytes(f, 97); i < a.codes.size(); ++i) EXPECT_EQ(a.codes[i], std::byte{0xAB});
    for (std::size_t i = plane_meta_bytes(f, 97, 33); i < a.meta.size(); ++i) EXPECT_EQ(a.meta[i], std::byte{0xAB});
  }
}

TEST(PqCodes, AreKeptAsTheyAre) {
  const PlaneFormat f = behind_map(codec::Pq{}.plane(Role::k, 256));
  std::vector<float> numbers(256);
  for (std::uint32_t i = 0; i < 256; ++i) numbers[i] = static_cast<float>(i);
  const Encoded e = encode(f, numbers);
  for (std::uint32_t i = 0; i < 256; ++i) EXPECT_EQ(e.codes[i], static_cast<std::byte>(i));
  EXPECT_EQ(decode(f, e, 256), numbers);
}

TEST_P(EveryCodec, CompressedOutputDiffersFromInput) {
  for (const Role role : roles) {
    const PlaneFormat f = behind_map(GetParam().plane(role, 128));
    const auto row = gaussian_row(128, 5);
    if (f.element == ElementFormat::fp32) {
      EXPECT_EQ(decode(f, encode(f, row), 128), row);
    } else {
      EXPECT_NE(decode(f, encode(f, row), 128), row);
    }
  }
}

TEST_P(EveryCodec, HostileValuesStayFinite) {
  for (const Role role : roles) {
    const PlaneFormat f = behind_map(GetParam().plane(role, 64));
    if (f.element == ElementFormat::fp32) continue;  // kept bit for bit
    constexpr float big = std::numeric_limits<float>::infinity();
    for (const float evil : {big, -big, std::numeric_limits<float>::quiet_NaN(), 3.3e38F, 1e-40F}) {
      auto row = gaussian_row(64, 9);
      row[0] = evil;
      row[17] = evil;
      row[18] = -evil;
      for (const float y : decode(f, encode(f, row), 64)) EXPECT_TRUE(std::isfinite(y)) << evil;
    }
  }
}

/// Bytes of a page of 64 tokens and one head, K and V of 128 channels, under default parameters (compression.md 4 and 8.2).
const std::map<std::string_view, std::uint64_t> published_pages = {{"fp32", 65536},
                                                                   {"bf16", 32768},
                                                                   {"fp16", 32768},
                                                                   {"fp8_e4m3.head", 16384},
                                                                   {"fp8_e4m3.token", 16640},
                                                                   {"fp8_e5m2", 16384},
                                                                   {"int8_token", 16640},
                                                                   {"int8_token.asym", 16896},
                                                                   {"int4_token", 8704},
                                                                   {"int4_g64", 9216},
                                                                   {"int4_g32", 10240},
                                                                   {"kivi4", 10240},
                                                                   {"kivi2", 6144},
                                                                   {"nvfp4", 9216},
                                                                   {"nvfp4.4over6", 9216},
                                                                   {"mxfp4", 8704},
                                                                   {"turboquant4", 8448},
                                                                   {"turboquant3", 6400},
                                                                   {"turboquant2", 4352},
                                                                   {"turboquant_k8v4", 12544},
                                                                   {"turboquant_4bit_nc", 8576},
                                                                   {"turboquant_k3v4_nc", 7552},
                                                                   {"turboquant_3bit_nc", 6528},
                                                                   {"int4_token.hadamard", 8704},
                                                                   {"int4_token.centred", 8704},
                                                                   {"int4_token.hadamard_centred", 8704},
                                                                   {"chan_prune.crop", 16384},
                                                                   {"chan_prune.magnitude", 16384},
                                                                   {"chan_prune.think", 26624},
                                                                   {"pyramid_res", 16384},
                                                                   {"lowrank.pca", 16384},
                                                                   {"lowrank.kq_svd", 16384},
                                                                   {"block_pca", 12288},
                                                                   {"pq", 4096},
                                                                   {"lora", 16384},
                                                                   {"lora++", 16384},
                                                                   {"ae_loaded", 16384},
                                                                   {"adaptive", 32768},  // the largest class
                                                                   {"parts", 8704},
                                                                   {"parts.int4_sym_channel_centred", 9728},
                                                                   {"parts.fp8_group_hadamard_centred", 17408},
                                                                   {"parts.int8_head", 16384},
                                                                   {"parts.int3_group_pca", 6144},
                                                                   {"parts.nvfp4_select_centred", 6912},
                                                                   {"parts.turboquant4_centred", 8448},
                                                                   {"parts.pool_centred", 16896},
                                                                   {"parts.int4_smooth", 8704},
                                                                   {"parts.int3_group_smooth_centred", 9216}};

TEST_P(EveryCodec, BlockBytesEqualTheFormula) {
  const CatalogueCodec& codec = GetParam();
  const BlockFormat b{
      .k = codec.plane(Role::k, 128), .v = codec.plane(Role::v, 128), .page_slots = 64, .n_kv_heads = 2, .d_k = 128, .d_v = 128, .latent = false};
  ASSERT_TRUE(published_pages.contains(codec.name)) << codec.name;
  EXPECT_EQ(b.head_bytes(), published_pages.at(codec.name));
  EXPECT_EQ(b.block_bytes(), 2 * b.head_bytes());
  EXPECT_LE(b.block_code_bytes(), b.block_bytes());
}

TEST_P(EveryCodec, IsNamedAndDescribed) {
  EXPECT_FALSE(GetParam().name.empty());
  EXPECT_GT(GetParam().doc.size(), 5U);
  EXPECT_GT(GetParam().source.size(), 2U);
}

}  // namespace
}  // namespace moekv
