// Codecs put together from parts: named ones are their parts, bit for bit; every combination that is allowed keeps its bound, and no other is
// allowed.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/rng.hpp"
#include "device/backend.hpp"
#include "device/fit_table.hpp"
#include "support/codec_bounds.hpp"
#include "support/parts_codecs.hpp"

namespace moekv {
namespace {

using codec::PartElement;
using codec::Parts;
using testing::for_each_combination;
using testing::misfits;
using testing::NamedParts;

constexpr std::uint32_t page_slots = 32;

/// What a host backend stores of one page of two heads, and gives back of it.
struct StoredPage {
  std::vector<std::byte> block, tables;
  std::vector<float> k, v;
  friend bool operator==(const StoredPage&, const StoredPage&) = default;
};

std::vector<float> values(std::size_t n, std::uint64_t seed) {
  std::vector<float> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = 6.0F * uniform_float(static_cast<std::uint32_t>(hash_words(3, seed, i))) - 2.0F;
  return x;
}

StoredPage store(const PlaneFormat& k, const PlaneFormat& v, std::uint32_t d) {
  const auto backend = make_host_backend(1);
  const BlockFormat raw{{ElementFormat::fp32}, {ElementFormat::fp32}, page_slots, 2, d, d, false};
  BlockFormat format = raw;
  format.k = k;
  format.v = v;
  const PoolId from = backend->create_pool(raw, 1), to = backend->create_pool(format, 1);
  StoredPage page{std::vector<std::byte>(format.block_bytes()), std::vector<std::byte>(format.shared_bytes()), {}, {}};
  if ((k.has_table() && k.scope == TableScope::run) || (v.has_table() && v.scope == TableScope::run)) {
    const auto data = values(format.shared_bytes() / 2, 5);
    std::vector<std::byte> tables(format.shared_bytes());
    for (std::size_t i = 0; i < data.size(); ++i) store_u16(&tables[2 * i], fp16_from_float(data[i]));
    backend->set_tables(to, 0, tables);
  }
  for (std::uint32_t t = 0; t < page_slots; ++t) {
    const auto row_k = values(2 * d, 2 * t), row_v = values(2 * d, 2 * t + 1);
    const AppendOp op{{from, 0}, t, reinterpret_cast<const std::byte*>(row_k.data()), reinterpret_cast<const std::byte*>(row_v.data())};
    backend->append({&op, 1});
  }
  const auto q = values(2 * d, 1000);
  const SealOp seal{{from, 0}, {to, 0}, page_slots, 0, reinterpret_cast<const std::byte*>(q.data()), 2 * d * sizeof(float), 1, 1};
  backend->seal({&seal, 1});
  const BlockOut out{{to, 0}, page.block.data(), page.tables.empty() ? nullptr : page.tables.data()};
  backend->read_blocks({&out, 1});
  for (std::uint32_t head = 0; head < 2; ++head) {
    for (std::uint32_t t = 0; t < page_slots; ++t) {
      std::vector<float> row_k(d), row_v(d);
      backend->read_row({to, 0}, head, t, row_k.data(), row_v.data());
      page.k.insert(page.k.end(), row_k.begin(), row_k.end());
      page.v.insert(page.v.end(), row_v.begin(), row_v.end());
    }
  }
  return page;
}

TEST(Parts, OfNamedCodecsStoreTheSameBytesAndGiveTheSameValues) {
  std::set<std::size_t> covered;
  for (const NamedParts& parts : testing::named_parts()) {
    const std::string name(class_name(parts.named, 0));
    covered.insert(parts.named.index());
    EXPECT_EQ(misfits(parts.k, Role::k), 0) << name;
    EXPECT_EQ(misfits(parts.v, Role::v), 0) << name;
    for (const std::uint32_t d : {64U, 45U}) {
      const PlaneFormat k = parts.k.plane(Role::k, d), v = parts.v.plane(Role::v, d);
      EXPECT_EQ(k, plane_of(parts.named, Role::k, d)) << name;
      EXPECT_EQ(v, plane_of(parts.named, Role::v, d)) << name;
      EXPECT_EQ(store(k, v, d), store(plane_of(parts.named, Role::k, d), plane_of(parts.named, Role::v, d), d)) << name << " d " << d;
    }
  }
  EXPECT_EQ(covered.size(), std::variant_size_v<Codec> - 4) << "all but lora++ and adaptive, which have several classes, pq, and parts itself";
}

/// 52 ways to store a value: 3 raw; asymmetric integers by token, group, channel; symmetric ones and fp8 also by head; E2M1 so with fp16 scales,
/// and with three more codes by token and group; Lloyd-Max levels by token. 40 maps of K: none, hadamard and pool with none or three centres; crop,
/// magnitude, pca with and without centre, of three tables; think and kq_svd of two tables; loaded with and without bias. Beside them diag, with and
/// without centre, of three tables, before all storages but the 11 that scale channels.
constexpr int storages = 3 + 4 * 3 + 6 * 4 + (4 + 2 * 3) + 3;
constexpr int maps_of_v = 3 * 4 + 3 * 2 * 3 + 2, maps_of_k = maps_of_v + 2 * 2 * 2;
constexpr int smoothed = 2 * 3 * (storages - (4 + 6 + 1));

TEST(Parts, AreAllowedInEveryCombinationThatMeansSomething) {
  int of_k = 0, of_v = 0;
  for_each_combination([&](const Parts& parts) {
    of_k += misfits(parts, Role::k) == 0 ? 1 : 0;
    of_v += misfits(parts, Role::v) == 0 ? 1 : 0;
  });
  EXPECT_EQ(of_k, storages * maps_of_k + smoothed);
  EXPECT_EQ(of_v, storages * maps_of_v + smoothed);
}

TEST(Parts, ThatMeanNothingAreRefused) {
  using enum codec::PartScale;
  const auto refused = [](const Parts& parts, Role role = Role::k) {
    std::string names;
    parts.check(role, [&](std::string_view parameter, std::string_view what, std::string_view advice) {
      EXPECT_TRUE(what.size() > 10 && advice.size() > 10) << parameter;
      names += std::string(names.empty() ? "" : " ") + std::string(parameter);
    });
    return names;
  };
  EXPECT_EQ(refused({}), "");
  EXPECT_EQ(refused({.group = 64}), "group");
  EXPECT_EQ(refused({.scale = group, .group = 12}), "group");
  EXPECT_EQ(refused({.head_scale = 2.0F}), "head_scale");
  EXPECT_EQ(refused({.pruned = 0.25F, .level = 2, .rank = 8}), "pruned level rank");
  EXPECT_EQ(refused({.map = codec::PartMap::kq_svd}, Role::v), "map");
  EXPECT_EQ(refused({.alpha = 0.25F}), "alpha");
  EXPECT_EQ(refused({.map = codec::PartMap::diag, .alpha = 0.0F}), "alpha");
  EXPECT_EQ(refused({.scale = channel, .map = codec::PartMap::diag, .alpha = 0.25F}), "map");
  EXPECT_EQ(refused({.element = PartElement::fp16, .head_scale = 3.0F, .table = codec::PartTable::page}), "scale head_scale table");
}

/// Divisors of four channels whose largest |values| are 16, 3, 4 and 81.
std::vector<float> divisors(const PlaneFormat& f, std::uint32_t first_rotated = 0) {
  const std::vector<float> rows = {16, -3, 1, 9, -8, 2, -4, -81};
  std::vector<std::byte> table(table_bytes(f, 4));
  fit_table(f, 4, {rows.data(), 2, nullptr, 0, first_rotated}, table.data());
  std::vector<float> out;
  for (std::size_t i = 0; i < table.size(); i += 2) out.push_back(float_from_fp16(load_u16(&table[i])));
  return out;
}

TEST(SmoothFit, TakesTheLargestValueToThePowerAndTheLargerOfRotaryPartners) {
  const auto smooth = [](float alpha) { return Parts{.map = codec::PartMap::diag, .alpha = alpha}; };
  const float root3 = float_from_fp16(fp16_from_float(std::sqrt(3.0F)));
  EXPECT_EQ(divisors(smooth(0.5F).plane(Role::k, 4)), (std::vector<float>{4, 9, 4, 9}));
  EXPECT_EQ(divisors(smooth(0.5F).plane(Role::v, 4)), (std::vector<float>{4, root3, 2, 9})) << "values meet no rotary embedding";
  EXPECT_EQ(divisors(smooth(1.0F).plane(Role::v, 4)), (std::vector<float>{16, 3, 4, 81}));
  EXPECT_EQ(divisors(smooth(1.0F).plane(Role::k, 4), 2), (std::vector<float>{16, 3, 81, 81}))
      << "the rotated part of a latent row has partners alone";
  EXPECT_EQ(divisors(smooth(1.0F).plane(Role::k, 4), 1), (std::vector<float>{16, 4, 4, 81})) << "an odd channel has none";
  Parts centred = smooth(1.0F);
  centred.centre = codec::PartCentre::mean;  // (4, -0.5, -1.5, -36): what is left is at most 12, 2.5, 2.5, 45
  EXPECT_EQ(divisors(centred.plane(Role::v, 4)), (std::vector<float>{4, -0.5F, -1.5F, -36, 12, 2.5F, 2.5F, 45}));
}

TEST(SmoothFit, StaysWithinItsTypeAndLeavesChannelsOfZerosAlone) {
  const PlaneFormat f = Parts{.map = codec::PartMap::diag, .alpha = 1.0F}.plane(Role::v, 4);
  const std::vector<float> rows = {0, 1e-20F, 1e20F, std::numeric_limits<float>::infinity()};
  std::vector<std::byte> table(table_bytes(f, 4));
  fit_table(f, 4, {rows.data(), 1, nullptr, 0}, table.data());
  constexpr float expected[] = {1, 0x1p-14F, 65504, 1};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(float_from_fp16(load_u16(&table[2 * i])), expected[i]) << i;
}

TEST(SmoothFit, OfLatentPagesPairsTheRotatedChannelsAlone) {
  constexpr std::uint32_t d = 12, d_v = 8;
  for (const codec::PartTable scope : {codec::PartTable::sequence, codec::PartTable::page}) {
    const auto backend = make_host_backend(1);
    const BlockFormat raw{{ElementFormat::fp32}, {ElementFormat::fp32}, 8, 1, d, d_v, true};
    BlockFormat sealed = raw;
    sealed.k = Parts{.map = codec::PartMap::diag, .alpha = 1.0F, .table = scope}.plane(Role::k, d);
    const PoolId from = backend->create_pool(raw, 1), to = backend->create_pool(sealed, 1);
    std::vector<float> rows;
    for (std::uint32_t t = 0; t < 8; ++t) {
      const auto row = values(d, t);
      rows.insert(rows.end(), row.begin(), row.end());
      const AppendOp op{{from, 0}, t, reinterpret_cast<const std::byte*>(row.data()), nullptr};
      backend->append({&op, 1});
    }
    const SealOp seal{{from, 0}, {to, 0}, 8, 0};
    backend->seal({&seal, 1});
    std::vector<std::byte> block(sealed.block_bytes()), table(sealed.shared_bytes()), expected(table_bytes(sealed.k, d));
    const BlockOut out{{to, 0}, block.data(), table.empty() ? nullptr : table.data()};
    backend->read_blocks({&out, 1});
    if (scope == codec::PartTable::page) table.assign(&block[sealed.k_table()], &block[sealed.k_table()] + table_bytes(sealed.k, d));
    fit_table(sealed.k, d, {rows.data(), 8, nullptr, 0, d_v}, expected.data());
    EXPECT_EQ(table, expected) << static_cast<int>(scope);
  }
}

/// Rows of a page as the tests of every codec have them: ordinary, flat, zero.
std::vector<float> page_of(std::uint32_t n, std::uint32_t d) {
  std::vector<float> page = values(std::size_t{n} * d, 9);
  for (std::uint32_t t = 0; t < n; ++t) {
    for (std::uint32_t c = 0; c < d && t % 5 == 0; ++c) page[t * d + c] = t % 2 == 0 ? 0.7F : 0.0F;
  }
  return page;
}

TEST(Parts, OfEveryWayToStoreAValueKeepTheirBound) {
  int tried = 0;
  for_each_combination([&](Parts parts) {
    if (parts.map != codec::PartMap::none || parts.centre != codec::PartCentre::none || misfits(parts, Role::k) > 0) return;
    ++tried;
    parts.head_scale = parts.scale == codec::PartScale::head ? 0.03F : 1.0F;
    for (const std::uint32_t d : {1U, 45U, 64U}) {
      const PlaneFormat f = parts.plane(Role::k, d);
      const auto page = page_of(40, d);
      const auto stored = testing::encode(f, page, 40);
      const auto back = testing::decode(f, stored, d, 40);
      EXPECT_TRUE(stored.codes[40 * code_bytes(f, d)] == std::byte{0xAB} && stored.meta[plane_meta_bytes(f, d, 40)] == std::byte{0xAB});
      double error = 0, size = 0;
      for (std::uint32_t i = 0; i < page.size(); ++i) {
        const double off = std::abs(static_cast<double>(back[i]) - static_cast<double>(page[i]));
        error += off * off;
        size += static_cast<double>(page[i]) * static_cast<double>(page[i]);
        if (is_lloyd(f.element)) continue;
        ASSERT_LE(off, testing::error_bound(f, testing::scaled_with(f, page, d, i / d, i % d), page[i]))
            << "element " << enum_names(parts.element)[static_cast<std::size_t>(parts.element)] << " scale " << static_cast<int>(parts.scale)
            << " code " << static_cast<int>(parts.scale_code) << " d " << d << " i " << i;
      }
      EXPECT_LT(error, (is_lloyd(f.element) ? 0.5 : 1.1) * size);
    }
  });
  EXPECT_EQ(tried, storages);
}

}  // namespace
}  // namespace moekv
