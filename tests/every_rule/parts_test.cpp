// Codecs put together from parts: named ones are their parts, bit for bit; every combination that is allowed keeps its bound, and no other is
// allowed.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/rng.hpp"
#include "device/backend.hpp"
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
  EXPECT_EQ(covered.size(), std::variant_size_v<Codec> - 3) << "all but lora++ and adaptive, which have several classes, and parts itself";
}

/// 52 ways to store a value: 3 raw; asymmetric integers by token, group, channel; symmetric ones and fp8 also by head; E2M1 so with fp16 scales,
/// and with three more codes by token and group; Lloyd-Max levels by token. 40 maps of K: none, hadamard and pool with none or three centres; crop,
/// magnitude, pca with and without centre, of three tables; think and kq_svd of two tables; loaded with and without bias.
constexpr int storages = 3 + 4 * 3 + 6 * 4 + (4 + 2 * 3) + 3;
constexpr int maps_of_v = 3 * 4 + 3 * 2 * 3 + 2, maps_of_k = maps_of_v + 2 * 2 * 2;

TEST(Parts, AreAllowedInEveryCombinationThatMeansSomething) {
  int of_k = 0, of_v = 0;
  for_each_combination([&](const Parts& parts) {
    of_k += misfits(parts, Role::k) == 0 ? 1 : 0;
    of_v += misfits(parts, Role::v) == 0 ? 1 : 0;
  });
  EXPECT_EQ(of_k, storages * maps_of_k);
  EXPECT_EQ(of_v, storages * maps_of_v);
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
  EXPECT_EQ(refused({.element = PartElement::fp16, .head_scale = 3.0F, .table = codec::PartTable::page}), "scale head_scale table");
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
