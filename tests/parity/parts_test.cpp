// Combinations of codec parts on every backend: pages sealed by a device are the host's, and attention from them is that of double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "support/emulated_device.hpp"
#include "support/page_world.hpp"
#include "support/parts_codecs.hpp"

namespace moekv::test {
namespace {

using codec::PartCentre;
using codec::PartMap;
using codec::Parts;

/// One combination for K and V, in which V has a map of its own where K's is for keys alone.
struct Planes {
  Parts k, v;
};
Planes planes_of(const Parts& parts) {
  Planes p{parts, parts};
  if (moekv::testing::misfits(parts, Role::v) > 0) p.v.map = PartMap::pca;
  return p;
}

/// Every way to store a value, without a map and behind a centred rotation; every map before two of these ways.
std::vector<Planes> chosen_combinations() {
  std::vector<Planes> all;
  moekv::testing::for_each_combination([&](Parts parts) {
    if (moekv::testing::misfits(parts, Role::k) > 0) return;
    const bool plain = parts.map == PartMap::none && parts.centre == PartCentre::none;
    const bool rotated = parts.map == PartMap::hadamard && parts.centre == PartCentre::mean && parts.table == codec::PartTable::sequence;
    const bool usual = (parts.element == codec::PartElement::int8_asym && parts.scale == codec::PartScale::token) ||
                       (parts.element == codec::PartElement::int4_sym && parts.scale == codec::PartScale::group);
    if (!plain && !rotated && !usual) return;
    const bool random_channels = parts.map >= PartMap::crop && parts.map <= PartMap::think && parts.table == codec::PartTable::offline;
    if (random_channels) return;  // the world draws tables of a run at random, and channel numbers are no random bits
    if (parts.scale == codec::PartScale::group) parts.group = 16;
    if (parts.scale == codec::PartScale::head) parts.head_scale = 0.25F;
    if (parts.map == PartMap::pca || parts.map == PartMap::kq_svd || parts.map == PartMap::loaded) parts.rank = 20;
    if (parts.map != PartMap::none || parts.scale != codec::PartScale::none) all.push_back(planes_of(parts));
  });
  return all;
}

double relative_error(const PageWorld& world, const AttendOutput& out) {
  double error = 0, size = 0;
  const std::uint32_t d_v = world.geometry().d_v;
  for (std::uint32_t t = 0; t < world.tasks().size(); ++t) {
    for (std::uint32_t head = 0; head < world.rows_per_task(); ++head) {
      const OracleRow expected = world.oracle(t, head);
      if (expected.l == 0) continue;
      const std::uint32_t row = world.tasks()[t].out + head;
      for (std::uint32_t c = 0; c < d_v; ++c) {
        const double o = expected.o[c] / expected.l, got = static_cast<double>(out.o[row * d_v + c]) / static_cast<double>(out.l[row]);
        error += (got - o) * (got - o);
        size += o * o;
      }
    }
  }
  return std::sqrt(error / size);
}

std::vector<std::byte> bytes_of(Backend& backend, const PageWorld& world, const BlockFormat& format, std::uint32_t page) {
  std::vector<std::byte> block(format.block_bytes()), tables(format.shared_bytes());
  const BlockOut out{world.block(page), block.data(), tables.empty() ? nullptr : tables.data()};
  backend.read_blocks({&out, 1});
  backend.sync();
  block.insert(block.end(), tables.begin(), tables.end());
  return block;
}

class PartsParity : public ::testing::TestWithParam<std::string> {};

TEST_P(PartsParity, SealedPagesAreTheHostsAndAttentionReadsThem) {
  if (make_test_backend(GetParam(), 1) == nullptr) GTEST_SKIP() << "no device for backend " << GetParam();
  constexpr std::uint32_t n_pages = 2, slots = 32;
  const std::vector<Planes> all = chosen_combinations();
  EXPECT_GT(all.size(), 150U);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Parts& p = all[i].k;
    SCOPED_TRACE(::testing::Message() << "element " << enum_names(p.element)[static_cast<std::size_t>(p.element)] << " scale "
                                      << enum_names(p.scale)[static_cast<std::size_t>(p.scale)] << " map "
                                      << enum_names(p.map)[static_cast<std::size_t>(p.map)] << " centre " << static_cast<int>(p.centre) << " table "
                                      << static_cast<int>(p.table) << " code " << static_cast<int>(p.scale_code));
    const bool tensor_shape = p.map == PartMap::none, latent = i % 8 == 7;
    const std::uint32_t d_k = tensor_shape ? 64 : 45, d_v = tensor_shape ? 64 : 40;
    const Geometry g{slots, 1, 3, d_k, d_v, latent, ElementFormat::bf16, all[i].k.plane(Role::k, d_k), all[i].v.plane(Role::v, d_v), 1.0F};
    const auto device = make_test_backend(GetParam(), 1), host = make_host_backend(1);
    PageWorld world(*device, g, n_pages, static_cast<unsigned>(i));
    const PageWorld twin(*host, g, n_pages, static_cast<unsigned>(i));
    const BlockFormat format{g.sealed_k, g.sealed_v, slots, 1, d_k, d_v, latent};
    for (std::uint32_t page = 0; page < n_pages; ++page)
      ASSERT_EQ(bytes_of(*device, world, format, page), bytes_of(*host, twin, format, page)) << "page " << page;
    world.add_task_on({0, 1}, slots);
    world.add_task(2, 0.5F);
    ASSERT_LE(relative_error(world, world.attend(*device, false)), GetParam() == "host" ? 1e-5 : GetParam() == "emulated" ? 4e-5 : 2e-4);
  }
}

/// Smoothed rows of a raw type are exact, so logits and outputs are those of the rows before smoothing, in double precision.
TEST_P(PartsParity, SmoothingOfRawNumbersIsUndoneByItsDuals) {
  if (make_test_backend(GetParam(), 1) == nullptr) GTEST_SKIP() << "no device for backend " << GetParam();
  constexpr std::uint32_t slots = 32;
  const Parts raw{.element = codec::PartElement::fp32, .scale = codec::PartScale::none};
  for (const bool latent : {false, true}) {
    for (const codec::PartTable table : {codec::PartTable::sequence, codec::PartTable::page}) {
      Parts smooth = raw;
      smooth.map = PartMap::diag;
      smooth.table = table;
      const auto world_of = [&](Backend& backend, const Parts& parts) {
        const Geometry g{slots, 2, 3, 48, 40, latent, ElementFormat::fp32, parts.plane(Role::k, 48), parts.plane(Role::v, 40), 1.0F};
        auto world = std::make_unique<PageWorld>(backend, g, 3, 7U);
        world->add_task_on({0, 1, 2}, slots);
        world->add_task(2, 0.5F);
        return world;
      };
      const auto device = make_test_backend(GetParam(), 1), plain = make_host_backend(1);
      const auto smoothed = world_of(*device, smooth), exact = world_of(*plain, raw);
      const AttendOutput out = smoothed->attend(*device, true);
      ASSERT_LE(relative_error(*exact, out), 2e-6);
      for (std::uint32_t head = 0; head < exact->rows_per_task(); ++head) {
        const OracleRow expected = exact->oracle(0, head);
        for (std::size_t slot = 0; slot < expected.logits.size(); ++slot)
          ASSERT_NEAR(out.logits[exact->tasks()[0].logits + head * expected.logits.size() + slot], expected.logits[slot], 2e-5) << slot;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, PartsParity, ::testing::Values("host", "emulated", "cuda"), [](const auto& param) { return param.param; });

}  // namespace
}  // namespace moekv::test
