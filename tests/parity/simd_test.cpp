// The host kernel on every instruction set of this machine, the scalar one included: each matches double precision, so they match each other.
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "device/seal.hpp"
#include "rules/codec/catalogue.hpp"
#include "support/page_world.hpp"

namespace moekv::test {
namespace {

/// Makes the host kernel use one instruction set while it lives.
class OnlyTarget {
 public:
  explicit OnlyTarget(std::int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  ~OnlyTarget() {
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  OnlyTarget(const OnlyTarget&) = delete;
  OnlyTarget& operator=(const OnlyTarget&) = delete;
};

std::vector<std::int64_t> machine_targets() {
  std::vector<std::int64_t> targets;
  for (std::int64_t rest = hwy::SupportedTargets(); rest != 0; rest &= rest - 1) targets.push_back(rest & -rest);
  return targets;
}

/// Largest relative error of the outputs of all rows.
double worst_error(const PageWorld& world, const AttendOutput& out) {
  double worst = 0.0;
  const std::uint32_t d_v = world.geometry().d_v;
  for (std::uint32_t t = 0; t < world.tasks().size(); ++t) {
    for (std::uint32_t head = 0; head < world.rows_per_task(); ++head) {
      const OracleRow expected = world.oracle(t, head);
      const std::size_t row = world.tasks()[t].out + head;
      double error = 0.0;
      double size = 0.0;
      for (std::uint32_t c = 0; c < d_v; ++c) {
        const double o = expected.o[c] / expected.l;
        const double difference = static_cast<double>(out.o[row * d_v + c] / out.l[row]) - o;
        error += difference * difference;
        size += o * o;
      }
      worst = std::max(worst, std::isnan(error) ? 1.0 : std::sqrt(error / size));
    }
  }
  return worst;
}

TEST(HostKernel, EveryInstructionSetMatchesDoublePrecision) {
  const std::vector<Codec> codecs = {codec::Bf16{}, codec::Fp16{}, codec::Fp32{}, codec::Fp8Token{}, codec::Int8Token{}, codec::Int4Token{}};
  for (const std::int64_t target : machine_targets()) {
    const OnlyTarget only(target);
    for (const Codec& c : codecs) {
      for (const std::uint32_t group : {1U, 3U, 4U, 7U}) {
        const PlaneFormat plane = std::visit([](const auto& x) { return x.plane(Role::k, 128); }, c);
        const auto backend = make_host_backend(1);
        PageWorld world(*backend, {16, 1, group, 128, 96, false, ElementFormat::fp16, plane, plane, 0.8F}, 12, group);
        world.add_task(9, 0.0F);
        world.add_task(1, 0.0F);
        world.add_task_on({1, 2, 3, 4}, 7);
        EXPECT_LE(worst_error(world, world.attend(*backend, false)), 1e-5) << hwy::TargetName(target) << " codec " << c.index() << " group " << group;
      }
    }
  }
}

/// Rows that try an encoder: spreads from subnormal to beyond fp16, signed zeros, ties, infinities, NaN, flat rows.
std::vector<float> hard_row(std::uint32_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, std::ldexp(1.0F, static_cast<int>(seed % 40) - 24));
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  if (seed % 6 == 1) std::fill(x.begin(), x.end(), seed % 12 == 1 ? -0.0F : x[0]);
  if (seed % 6 == 2) x[random() % n] = std::nanf("");
  if (seed % 6 == 3) x[random() % n] = seed % 12 == 3 ? INFINITY : -INFINITY;
  if (seed % 6 == 4) std::transform(x.begin(), x.end(), x.begin(), [](float y) { return std::round(y * 4.0F) / 2.0F; });
  if (seed % 6 == 5) std::transform(x.begin(), x.end(), x.begin(), [](float y) { return y < 0 ? -0.0F : y; });
  return x;
}

TEST(HostKernel, EveryInstructionSetEncodesTheSameBytes) {
  const std::vector<Codec> codecs = {codec::Fp8Head{0.3F}, codec::Fp8Token{}, codec::Int8Token{}, codec::Int4Token{}, codec::Fp16{}};
  for (const std::int64_t target : machine_targets()) {
    const OnlyTarget only(target);
    for (const Codec& c : codecs) {
      const PlaneFormat plane = std::visit([](const auto& x) { return x.plane(Role::k, 128); }, c);
      for (const ElementFormat raw : {ElementFormat::fp32, ElementFormat::bf16, ElementFormat::fp16}) {
        for (unsigned seed = 0; seed < 240; ++seed) {
          const std::uint32_t d = seed % 5 == 0 ? 77 : 192;
          std::vector<float> x = hard_row(d, seed);
          std::vector<std::byte> stored(code_bytes({raw}, d));
          for (std::uint32_t i = 0; i < d; ++i) store_raw(raw, stored.data(), i, x[i]);
          for (std::uint32_t i = 0; i < d; ++i) x[i] = load_raw(raw, stored.data(), i);
          std::vector<std::byte> codes(code_bytes(plane, d));
          std::vector<std::byte> meta(meta_bytes(plane, d) + 1);
          std::vector<std::byte> expected_codes = codes;
          std::vector<std::byte> expected_meta = meta;
          encode_row(plane, x.data(), d, expected_codes.data(), expected_meta.data());
          encode_rows({{raw}, stored.data(), nullptr}, {plane, codes.data(), meta.data()}, d, 1);
          ASSERT_TRUE(codes == expected_codes && meta == expected_meta)
              << hwy::TargetName(target) << " codec " << c.index() << " from " << static_cast<int>(raw) << " seed " << seed;
        }
      }
    }
  }
}

TEST(HostKernel, SubnormalScalesAndElementsSurviveFlushing) {  // fp16 subnormals in metadata and payload are not fp32 subnormals
  for (const std::int64_t target : machine_targets()) {
    const OnlyTarget only(target);
    const auto backend = make_host_backend(1);
    const PlaneFormat int8 = codec::Int8Token{}.plane(Role::k, 128);
    const BlockFormat raw{{ElementFormat::fp16}, {ElementFormat::fp16}, 16, 1, 64, 64, false};
    BlockFormat packed = raw;
    packed.k = packed.v = int8;
    const BlockRef from{backend->create_pool(raw, 1), 0};
    const BlockRef to{backend->create_pool(packed, 1), 0};
    std::vector<float> v(64);
    for (std::uint32_t c = 0; c < 64; ++c) v[c] = static_cast<float>(c + 1) * 0x1p-22F;
    std::vector<std::byte> row(128);
    encode_row({ElementFormat::fp16}, v.data(), 64, row.data(), nullptr);
    for (std::uint32_t slot = 0; slot < 16; ++slot) {
      const AppendOp op{from, slot, row.data(), row.data()};
      backend->append({&op, 1});
    }
    const SealOp seal{from, to, 16};
    backend->seal({&seal, 1});
    for (const BlockRef block : {from, to}) {
      const AttendTask task{0, 1, 0, 0, 1, 1, 0, 0};
      const PageRead page{block, 16, PageRead::all_slots};
      float m = 0.0F;
      float l = 0.0F;
      std::vector<float> o(64);
      backend->attend({{&task, 1}, {&page, 1}, {}, row.data(), ElementFormat::fp16, 1, 64, 64, 1.0F, &m, &l, o.data(), nullptr});
      std::vector<float> k(64);
      std::vector<float> stored(64);
      backend->read_row(block, 0, 0, k.data(), stored.data());
      for (std::uint32_t c = 0; c < 64; ++c) EXPECT_NEAR(o[c] / l, stored[c], 1e-5F * stored[c]) << hwy::TargetName(target) << " channel " << c;
      EXPECT_GT(stored[63], 0.9F * v[63]);
    }
  }
}

TEST(HostKernel, UnreadSlotsMayHoldAnything) {
  const auto backend = make_host_backend(1);
  const BlockFormat f{{ElementFormat::fp32}, {ElementFormat::fp32}, 16, 1, 64, 64, false};
  const BlockRef block{backend->create_pool(f, 1), 0};
  for (std::uint32_t slot = 0; slot < 16; ++slot) {
    const std::vector<float> row(64, slot % 3 == 0 ? 1.0F : std::nanf(""));
    const AppendOp op{block, slot, reinterpret_cast<const std::byte*>(row.data()), reinterpret_cast<const std::byte*>(row.data())};
    backend->append({&op, 1});
  }
  const std::uint64_t mask = 0x1249;  // slots 0, 3, 6, 9, 12
  const AttendTask task{0, 1, 0, 0, 1, 1, 0, 0};
  const PageRead page{block, 15, 0};
  const std::vector<float> q(64, 0.25F);
  float m = 0.0F;
  float l = 0.0F;
  std::vector<float> o(64);
  std::vector<float> logits(15);
  backend->attend({{&task, 1},
                   {&page, 1},
                   {&mask, 1},
                   reinterpret_cast<const std::byte*>(q.data()),
                   ElementFormat::fp32,
                   1,
                   64,
                   64,
                   1.0F,
                   &m,
                   &l,
                   o.data(),
                   logits.data()});
  EXPECT_EQ(m, 16.0F);
  EXPECT_EQ(l, 5.0F);
  for (const float x : o) EXPECT_EQ(x, 5.0F);
  for (std::uint32_t slot = 0; slot < 15; ++slot) EXPECT_EQ(logits[slot], slot % 3 == 0 ? 16.0F : -std::numeric_limits<float>::infinity());
}

}  // namespace
}  // namespace moekv::test
