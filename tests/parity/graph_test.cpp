// Batches that come back run as graphs: with the same results as piece by piece, of sizes that share a graph, and where the device makes none.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "device_backend.hpp"
#include "rules/codec/catalogue.hpp"
#include "support/emulated_device.hpp"
#include "support/page_world.hpp"

namespace moekv::test {
namespace {

TEST(RoundedUp, IsCloseAndNeverBelow) {
  std::uint64_t last = 0;
  for (std::uint64_t n = 1; n < 3000; ++n) {
    const std::uint64_t r = kernels::rounded_up(n);
    EXPECT_GE(r, std::max<std::uint64_t>(n, 8));
    EXPECT_LE(r, std::max<std::uint64_t>(n + n / 4, 8));
    EXPECT_GE(r, last);
    EXPECT_EQ(kernels::rounded_up(r), r);
    last = r;
  }
}

/// Attention over pages of a codec, the same tasks each time, after other pages were written: results of all rounds, one after another.
std::vector<float> run_rounds(kernels::DeviceBackend& backend, std::uint32_t rounds) {
  std::vector<float> all;
  for (std::uint32_t round = 0; round < rounds; ++round) {
    Geometry g;
    g.sealed_k = g.sealed_v = codec::Int8Token{}.plane(Role::k, 64);
    g.sealed_share = 0.5F;
    PageWorld world(backend, g, 40, 100 + round);
    for (std::uint32_t t = 0; t < 2 + round % 3; ++t) world.add_task(9 + t, 0.2F);
    world.add_task(30 + round % 2, 0.2F);
    for (int again = 0; again < 4; ++again) {
      const AttendOutput out = world.attend(backend, true);
      for (const auto* v : {&out.m, &out.l, &out.o, &out.logits}) all.insert(all.end(), v->begin(), v->end());
    }
  }
  return all;
}

TEST(Graphs, ChangeNoResult) {
  kernels::DeviceBackend with(std::make_unique<EmulatedDevice>()), without(std::make_unique<EmulatedDevice>());
  without.use_graphs(false);
  const std::vector<float> a = run_rounds(with, 5), b = run_rounds(without, 5);
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0);
  EXPECT_GT(with.take_work().graph_launches, 5);
  const BackendWork off = without.take_work();
  EXPECT_EQ(off.graph_launches + off.graph_captures, 0);
  EXPECT_GT(off.plain_batches, 0);
}

/// One page pool and entries that go to it, n at a time.
struct Entries {
  explicit Entries(Backend& b) : backend(b), pool(b.create_pool(format, 1000)) {}
  /// Writes value `v` to the first n blocks, and reads them back.
  void write_and_check(std::uint32_t n, float v) {
    std::vector<std::byte> row(32);
    for (std::uint32_t c = 0; c < 16; ++c) store_raw(ElementFormat::bf16, row.data(), c, v);
    std::vector<AppendOp> ops;
    for (std::uint32_t i = 0; i < n; ++i) ops.push_back({{pool, i}, 3, row.data(), row.data(), true});
    backend.append(ops);
    backend.sync();
    for (const std::uint32_t i : {0U, n - 1, n}) {
      float k[16], value[16];
      backend.read_row({pool, i}, 0, 3, k, value);
      EXPECT_EQ(k[5], i < n ? v : last) << "block " << i << " of " << n;
    }
  }
  BlockFormat format{{ElementFormat::bf16}, {ElementFormat::bf16}, 8, 1, 16, 16};
  Backend& backend;
  PoolId pool;
  float last = 0.0F;  // what blocks beyond hold
};

TEST(Graphs, ServeNearbySizesAndStopAtTheirOwn) {
  kernels::DeviceBackend backend(std::make_unique<EmulatedDevice>());
  Entries entries(backend);
  std::vector<std::byte> row(32);
  const AppendOp last{{entries.pool, 900}, 0, row.data(), row.data(), true};
  backend.append({&last, 1});  // makes all blocks
  backend.sync();
  (void)backend.take_work();
  float v = 1.0F;
  for (const std::uint32_t n : {100U, 100U, 100U, 100U}) entries.write_and_check(n, v++);
  BackendWork work = backend.take_work();
  EXPECT_EQ(work.graph_captures, 1);
  EXPECT_EQ(work.graph_launches, 3);
  EXPECT_EQ(work.plain_batches, 1);
  entries.last = v - 1;
  entries.write_and_check(99, v++);
  entries.last = 0.0F;
  entries.write_and_check(110, v++);
  work = backend.take_work();
  EXPECT_EQ(work.graph_captures, 0);
  EXPECT_EQ(work.graph_launches, 2);
  entries.write_and_check(400, v++);  // buffers grow
  entries.write_and_check(400, v++);
  entries.write_and_check(400, v++);
  work = backend.take_work();
  EXPECT_EQ(work.graph_captures, 1);
  EXPECT_EQ(work.graph_launches, 2);
}

TEST(Graphs, ThatAreRefusedRunPieceByPiece) {
  auto device = std::make_unique<EmulatedDevice>();
  device->refuse_graphs();
  kernels::DeviceBackend backend(std::move(device));
  Entries entries(backend);
  for (int i = 0; i < 6; ++i) entries.write_and_check(50, static_cast<float>(i));
  const BackendWork work = backend.take_work();
  EXPECT_EQ(work.graph_launches + work.graph_captures, 0);
  EXPECT_EQ(work.plain_batches, 6);
}

TEST(Graphs, OfMoreBatchesThanAreKeptAreForgotten) {
  EmulatedDevice device;
  kernels::GraphCache cache(device);
  std::byte* memory = device.allocate(1 << 16);
  std::byte* pinned = device.allocate_pinned(1 << 16);
  std::memset(pinned, 7, 1 << 16);
  const kernels::PoolLayout layout = kernels::pool_layout({{ElementFormat::bf16}, {ElementFormat::bf16}, 8, 1, 16, 16});
  const kernels::AppendItem item{memory + 1024, memory, memory, 0, 0};
  const auto batch = [&](std::uint64_t bytes) { return kernels::DeviceBatch{memory, pinned, bytes, {kernels::AppendLaunch{&layout, &item, 1}}}; };
  constexpr std::uint64_t n = kernels::GraphCache::most_graphs + 10;
  for (int round = 0; round < 2; ++round) {
    for (std::uint64_t i = 0; i < n; ++i) cache.run(batch(64 + i));
  }
  BackendWork work = cache.take_work();
  EXPECT_EQ(work.plain_batches, static_cast<std::int64_t>(2 * n)) << "each was forgotten before it came back";
  for (int round = 0; round < 2; ++round) cache.run(batch(64 + n - 1));
  work = cache.take_work();
  EXPECT_EQ(work.graph_captures, 1);
  EXPECT_EQ(work.graph_launches, 2);
  cache.enable(false);
  cache.run(batch(64 + n - 1));
  EXPECT_EQ(cache.take_work().plain_batches, 1);
  cache.clear();
  device.release(memory);
  device.release_pinned(pinned);
}

}  // namespace
}  // namespace moekv::test
