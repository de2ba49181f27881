// Attention of every backend against double precision: ragged tasks, masks, empty lists, all page sizes, dimensions, groups and formats.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ostream>
#include <string>
#include <vector>

#include "rules/codec/catalogue.hpp"
#include "support/emulated_device.hpp"
#include "support/page_world.hpp"

namespace moekv::test {
namespace {

constexpr ElementFormat raw_formats[] = {ElementFormat::fp32, ElementFormat::bf16, ElementFormat::fp16};

struct Dimensions {
  std::uint32_t d_k, d_v;
  bool latent;
};

/// What a backend promises: sums in fp32; on tensor cores also weights in two 16-bit parts, and products added with less care.
double precision(std::string_view backend) { return backend == "host" ? 1e-5 : backend == "emulated" ? 4e-5 : 2e-4; }
double precision_now = 0.0;  // of the backend under test

double tolerance(std::uint64_t slots) { return precision_now * (slots > 4096 ? 2.0 : 1.0); }

/// Compares one row: maximum, denominator and output relative to their size, logits where they are kept.
void expect_row(const PageWorld& world, const AttendOutput& out, std::uint32_t task_index, std::uint32_t head, bool logits) {
  const AttendTask& task = world.tasks()[task_index];
  const OracleRow expected = world.oracle(task_index, head);
  const std::uint32_t row = task.out + head;
  const std::uint32_t d_v = world.geometry().d_v;
  const std::uint64_t slots = expected.logits.size();
  const double bound = tolerance(slots);
  if (expected.l == 0.0) {
    EXPECT_EQ(out.m[row], -std::numeric_limits<float>::infinity());
    EXPECT_EQ(out.l[row], 0.0F);
  } else {
    EXPECT_NEAR(out.m[row], expected.m, bound * std::max(1.0, std::abs(expected.m)));
    EXPECT_NEAR(out.l[row] / expected.l, 1.0, 2 * bound);
  }
  double error = 0.0;
  double size = 0.0;
  for (std::uint32_t c = 0; c < d_v; ++c) {
    const double o = expected.l == 0.0 ? 0.0 : expected.o[c] / expected.l;
    const double got =
        expected.l == 0.0 ? static_cast<double>(out.o[row * d_v + c]) : static_cast<double>(out.o[row * d_v + c]) / static_cast<double>(out.l[row]);
    error += (got - o) * (got - o);
    size += o * o;
  }
  EXPECT_TRUE(std::sqrt(error) <= bound * std::sqrt(size)) << "relative error " << std::sqrt(error / size);
  for (std::uint64_t s = 0; logits && s < slots; ++s) {
    const float logit = out.logits[task.logits + head * slots + s];
    if (std::isinf(expected.logits[s])) {
      EXPECT_EQ(logit, -std::numeric_limits<float>::infinity());
    } else {
      EXPECT_NEAR(logit, expected.logits[s], precision_now * std::max(1.0, std::abs(expected.logits[s])));
    }
  }
}

/// Rows and logits between tasks keep their poison.
void expect_guards(const PageWorld& world, const AttendOutput& out) {
  for (std::uint32_t t = 0; t < world.tasks().size(); ++t) {
    const AttendTask& task = world.tasks()[t];
    EXPECT_TRUE(std::isnan(out.m[task.out - 1]) && std::isnan(out.l[task.out - 1]));
    for (std::uint32_t c = 0; c < world.geometry().d_v; ++c) EXPECT_TRUE(std::isnan(out.o[std::size_t{task.out - 1} * world.geometry().d_v + c]));
    EXPECT_TRUE(std::isnan(out.logits[task.logits - 1]));
  }
  EXPECT_TRUE(std::isnan(out.m.back()) && std::isnan(out.o.back()) && std::isnan(out.logits.back()));
}

void expect_all(const PageWorld& world, const AttendOutput& out, bool logits) {
  for (std::uint32_t t = 0; t < world.tasks().size(); ++t) {
    for (std::uint32_t head = 0; head < world.rows_per_task(); ++head) expect_row(world, out, t, head, logits);
    if (::testing::Test::HasFailure()) return;
  }
  expect_guards(world, out);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Ragged tasks of all kinds: nothing, one slot, whole pages, masked pages.
void add_ragged_tasks(PageWorld& world) {
  world.add_task(0, 0.0F);
  world.add_task_on({1}, 1);
  world.add_task(5, 0.0F);
  world.add_task(7, 0.6F);
  world.add_task(3, 1.0F);
}

/// The backends that this build can test; each is made with a number of threads.
class AttendParity : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    precision_now = precision(GetParam());
    if (backend(1) == nullptr) GTEST_SKIP() << "no device for backend " << GetParam();
  }
  [[nodiscard]] static std::unique_ptr<Backend> backend(int n_threads = 2) { return make_test_backend(GetParam(), n_threads); }
};

TEST_P(AttendParity, EveryShapeMatchesDoublePrecision) {
  for (const std::uint32_t page_slots : {8U, 16U, 64U, 256U}) {
    for (const auto& [d_k, d_v, latent] : {Dimensions{32, 32, false}, {64, 64, false}, {128, 128, false}, {192, 128, false}, {576, 512, true}}) {
      for (const std::uint32_t group : {1U, 2U, 4U, 8U, 16U}) {
        if (page_slots == 256 && d_k > 128 && group % 8 != 0) continue;  // the oracle's time
        if (GetParam() == "emulated" && (page_slots == 16 || group == 2 || (group == 1 && d_k > 64))) continue;
        const ElementFormat payload = raw_formats[(page_slots / 8 + group) % 3];
        SCOPED_TRACE(testing::Message() << "P " << page_slots << " d " << d_k << "/" << d_v << " group " << group << " payload "
                                        << static_cast<int>(payload));
        const auto device = backend();
        PageWorld world(*device, {page_slots, latent ? 1U : 2U, group, d_k, d_v, latent, payload}, 6, page_slots + d_k + group);
        add_ragged_tasks(world);
        expect_all(world, world.attend(*device, true), true);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(AttendParity, OddDimensionsAndGroupsMatchToo) {
  for (const ElementFormat payload : raw_formats) {
    for (const auto& [d_k, d_v, latent] : {Dimensions{1, 1, false}, {7, 5, false}, {80, 96, false}, {33, 31, true}, {100, 36, false}}) {
      for (const std::uint32_t group : {3U, 5U, 7U}) {
        SCOPED_TRACE(testing::Message() << "d " << d_k << "/" << d_v << " group " << group << " payload " << static_cast<int>(payload));
        const auto device = backend();
        PageWorld world(*device, {24, 3, group, d_k, d_v, latent, payload}, 6, d_k + group);
        add_ragged_tasks(world);
        expect_all(world, world.attend(*device, true), true);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(AttendParity, EveryPairOfCodecsMatches) {
  const std::vector<Codec> codecs = {codec::Bf16{},     codec::Fp16{},      codec::Fp32{},     codec::Fp8Head{0.5F},
                                     codec::Fp8Token{}, codec::Int8Token{}, codec::Int4Token{}};
  for (const Codec& k : codecs) {
    for (const Codec& v : codecs) {
      for (const bool latent : {false, true}) {
        const auto plane = [](const auto& c) { return c.plane(Role::k, 128); };
        Geometry g{32, 2, 4, 128, 64, latent, ElementFormat::bf16, std::visit(plane, k), std::visit(plane, v), 0.6F};
        if (latent && k.index() != v.index()) continue;
        if (GetParam() == "emulated" && !latent && k.index() % 3 != v.index() % 3) continue;
        if (k.index() % 2 == 1) g.d_k = 77;  // rows that end inside a vector, and inside a byte
        SCOPED_TRACE(testing::Message() << "codecs " << k.index() << " " << v.index() << " latent " << latent);
        const auto device = backend();
        PageWorld world(*device, g, 8, static_cast<unsigned>(k.index() * 8 + v.index()));
        add_ragged_tasks(world);
        expect_all(world, world.attend(*device, true), true);
        if (HasFailure()) return;
      }
    }
  }
}

/// Shapes that tensor cores serve, with raw and sealed pages side by side in one tile.
TEST_P(AttendParity, RowScaledCodesMatchInTensorShapes) {
  const std::vector<std::pair<Codec, Codec>> pairs = {{codec::Fp8Token{}, codec::Fp8Head{0.5F}},
                                                      {codec::Int8Token{}, codec::Int4Token{}},
                                                      {codec::Int4Token{}, codec::Bf16{}},
                                                      {codec::Bf16{}, codec::Int8Token{}},
                                                      {codec::Fp8Head{0.5F}, codec::Int4Token{}}};
  for (const auto& [d_k, d_v, latent] : {Dimensions{64, 64, false}, {128, 128, false}, {576, 512, true}}) {
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      for (const std::uint32_t page_slots : {24U, 64U}) {
        const std::uint32_t group = latent ? 19 : i % 2 == 0 ? 8 : 11;
        SCOPED_TRACE(testing::Message() << "d " << d_k << "/" << d_v << " codecs " << i << " P " << page_slots);
        const auto device = backend();
        const ElementFormat payload = i == 2 || i == 3 ? ElementFormat::bf16 : i == 1 ? ElementFormat::fp16 : ElementFormat::bf16;
        PageWorld world(*device,
                        {page_slots, latent ? 1U : 2U, group, d_k, d_v, latent, payload, plane_of(pairs[i].first, Role::k, d_k),
                         plane_of(pairs[i].second, Role::v, d_v), 0.6F},
                        7, d_k + static_cast<unsigned>(i));
        add_ragged_tasks(world);
        if (i == 0 || i == 3) world.add_task(1400 / page_slots, 0.2F);  // several parts
        expect_all(world, world.attend(*device, true), true);
        if (HasFailure()) return;
      }
    }
  }
}

/// Scales far below the smallest normal fp16, alone and beside raw pages in one tile.
TEST_P(AttendParity, SmallValuesKeepTheirDigits) {
  for (const Codec& v : {Codec{codec::Int8Token{}}, Codec{codec::Fp8Token{}}, Codec{codec::Int4Token{}}}) {
    const auto device = backend();
    const Geometry g{24, 2, 8, 64, 64, false, ElementFormat::fp16, plane_of(codec::Int8Token{}, Role::k, 64), plane_of(v, Role::v, 64), 0.6F, 1e-3F};
    PageWorld world(*device, g, 12, 31);
    add_ragged_tasks(world);
    expect_all(world, world.attend(*device, true), true);
  }
}

TEST_P(AttendParity, ContextsOf128KTokensMatch) {
  const auto device = backend();
  Geometry g{64, 1, 1, 64, 64, false, ElementFormat::bf16};
  PageWorld world(*device, g, 50, 12);
  world.add_task(2048, 0.02F);
  world.add_task_on({7}, 1);
  expect_all(world, world.attend(*device, true), true);
}

TEST_P(AttendParity, EveryCodecMatchesItsStoredValues) {
  const auto check = [&](const Codec& c, std::uint32_t d_k, std::uint32_t d_v, bool latent) {
    const PlaneFormat k = plane_of(c, Role::k, d_k);
    const PlaneFormat v = plane_of(c, Role::v, d_v);
    SCOPED_TRACE(testing::Message() << std::visit([](const auto& x) { return x.name; }, c) << " d " << d_k << "/" << d_v << " latent " << latent);
    for (const std::uint32_t group : {1U, 5U}) {
      if (GetParam() == "emulated" && group != 1) continue;
      const auto device = backend();
      PageWorld world(*device, {32, latent ? 1U : 2U, group, d_k, d_v, latent, ElementFormat::bf16, k, v, 0.7F}, 8, d_k + group);
      add_ragged_tasks(world);
      world.add_task(90, 0.2F);  // several chunks
      expect_all(world, world.attend(*device, true), true);
      if (HasFailure()) return;
    }
  };
  const auto every = [&]<std::size_t... I>(std::index_sequence<I...>) {
    const auto one = [&](const Codec& c) {
      if (HasFailure()) return;
      check(c, 128, 64, false);
      check(c, 77, 45, false);
      check(c, 96, 64, true);
    };
    (one(std::variant_alternative_t<I, Codec>{}), ...);
  };
  every(std::make_index_sequence<std::variant_size_v<Codec>>{});
}

TEST_P(AttendParity, LongListsAreBitEqualForAnyNumberOfThreads) {
  for (const bool latent : {false, true}) {
    Geometry g{64, latent ? 1U : 2U, latent ? 12U : 4U, latent ? 144U : 64U, latent ? 128U : 64U, latent, ElementFormat::fp32};
    g.sealed_k = g.sealed_v = codec::Int8Token{}.plane(Role::k, 128);
    g.sealed_share = 0.3F;
    const auto one = backend(1);
    PageWorld world(*one, g, 40, 5);
    add_ragged_tasks(world);
    world.add_task(150, 0.1F);  // several chunks
    world.add_task(33, 0.0F);
    const AttendOutput first = world.attend(*one, true);
    expect_all(world, first, true);
    for (const int n_threads : {2, 3}) {
      const auto many = backend(n_threads);
      const PageWorld same(*many, g, 40, 5);
      const AttendOutput out = world.attend(*many, true);
      EXPECT_TRUE(same_bits(out.m, first.m) && same_bits(out.l, first.l) && same_bits(out.o, first.o) && same_bits(out.logits, first.logits))
          << n_threads;
    }
    const AttendOutput without = world.attend(*one, false);
    EXPECT_TRUE(same_bits(without.m, first.m) && same_bits(without.l, first.l) && same_bits(without.o, first.o));
    EXPECT_TRUE(std::all_of(without.logits.begin(), without.logits.end(), [](float x) { return std::isnan(x); }));
  }
}

TEST_P(AttendParity, TaskResultsDoNotDependOnTheirBatch) {
  const Geometry g{16, 2, 4, 64, 64, false, ElementFormat::bf16};
  const auto device = backend();
  PageWorld alone(*device, g, 30, 9);
  alone.add_task_on({3, 1, 4, 1, 5, 9, 2, 6}, 16);
  const AttendOutput first = alone.attend(*device, false);
  PageWorld crowd(*device, g, 30, 9);
  crowd.add_task_on({3, 1, 4, 1, 5, 9, 2, 6}, 16);
  add_ragged_tasks(crowd);
  const AttendOutput second = crowd.attend(*device, false);
  const std::size_t rows = alone.rows_per_task() + 1;
  EXPECT_EQ(std::memcmp(first.o.data(), second.o.data(), rows * g.d_v * sizeof(float)), 0);
}

TEST_P(AttendParity, StoredRowsReadBack) {
  Geometry g{16, 3, 2, 40, 24, false, ElementFormat::fp16, codec::Int4Token{}.plane(Role::k, 128), codec::Fp8Token{}.plane(Role::k, 128), 0.5F};
  for (const bool latent : {false, true}) {
    g.latent = latent;
    const auto device = backend();
    const PageWorld world(*device, g, 10, 3);
    std::vector<float> k(g.d_k);
    std::vector<float> v(g.d_v);
    for (std::uint32_t page = 0; page < 10; ++page) {
      for (std::uint32_t head = 0; head < g.n_kv_heads; ++head) {
        for (std::uint32_t slot = 0; slot < g.page_slots; ++slot) {
          device->read_row(world.block(page), head, slot, k.data(), v.data());
          ASSERT_EQ(std::memcmp(k.data(), world.k_row(page, head, slot), k.size() * sizeof(float)), 0) << page << " " << head << " " << slot;
          ASSERT_EQ(std::memcmp(v.data(), world.v_row(page, head, slot), v.size() * sizeof(float)), 0) << page << " " << head << " " << slot;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, AttendParity, ::testing::Values("host", "emulated", "cuda"), [](const auto& param) { return param.param; });

}  // namespace
}  // namespace moekv::test
