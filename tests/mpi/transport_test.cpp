// The MPI transport against what every process can recompute: all message sizes and contents are pure functions of (round, source, destination).
#include "comm/transport.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "core/error.hpp"
#include "core/rng.hpp"

namespace {
std::atomic<long> allocations{0};
}  // namespace

void* operator new(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = std::malloc(size == 0 ? 1 : size)) return p;
  throw std::bad_alloc();
}
// Not inlined: g++ would see a free() of what `new` returned and call it a mismatch.
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace moekv {
namespace {

/// Sizes include zero often, and a few large ones.
std::size_t message_size(int round, int source, int destination) {
  const std::uint64_t h = hash_words(7, round, source, destination);
  if (h % 3 == 0) return 0;
  return h % 11 == 0 ? 200000 + h % 1000 : h % 300;
}

std::byte content(int round, int source, int destination, std::size_t i) {
  return static_cast<std::byte>(hash_words(9, round, source, destination, i / 8) >> (8 * (i % 8)));
}

void fill(Transport& t, int round) {
  for (int p = 0; p < t.n_processes(); ++p) {
    std::vector<std::byte>& box = t.outbox(p);
    ASSERT_TRUE(box.empty());
    const std::size_t size = message_size(round, t.process(), p);
    for (std::size_t i = 0; i < size; ++i) box.push_back(content(round, t.process(), p, i));
  }
}

/// Number of wrong sizes or bytes in what arrived in `round`.
std::size_t count_wrong(const Transport& t, int round) {
  std::size_t wrong = 0;
  for (int p = 0; p < t.n_processes(); ++p) {
    const auto got = t.received(p);
    if (got.size() != message_size(round, p, t.process())) ++wrong;
    for (std::size_t i = 0; i < got.size(); ++i) wrong += got[i] != content(round, p, t.process(), i) ? 1 : 0;
  }
  return wrong;
}

TEST(MpiTransport, DeliversEveryMessageAndKeepsItWhileOutboxesAreRefilled) {
  const auto t = make_mpi_transport();
  for (int round = 0; round < 40; ++round) {
    fill(*t, round);
    if (round > 0) {
      EXPECT_EQ(count_wrong(*t, round - 1), 0u) << "round " << round - 1 << " after refilling";
    }
    t->exchange();
    EXPECT_EQ(count_wrong(*t, round), 0u) << "round " << round;
  }
  t->exchange();
  for (int p = 0; p < t->n_processes(); ++p) EXPECT_TRUE(t->received(p).empty());
}

TEST(MpiTransport, CutsLargeMessagesIntoPieces) {
  const auto t = make_mpi_transport(1000);  // the largest messages of message_size take 201 pieces
  for (int round = 0; round < 12; ++round) {
    fill(*t, round);
    t->exchange();
    EXPECT_EQ(count_wrong(*t, round), 0u) << "round " << round;
  }
  std::vector<std::byte> mine(static_cast<std::size_t>(1000 * t->process() + 1), static_cast<std::byte>(t->process()));
  const auto all = t->gather(mine);
  ASSERT_EQ(all.size(), t->process() == 0 ? static_cast<std::size_t>(t->n_processes()) : 0u);
  for (std::size_t p = 0; p < all.size(); ++p) EXPECT_EQ(all[p], std::vector<std::byte>(1000 * p + 1, static_cast<std::byte>(p)));
  std::vector<std::byte> shared;
  if (t->process() == 0) shared.assign(2500, std::byte{42});
  t->broadcast(shared);
  EXPECT_EQ(shared, std::vector<std::byte>(2500, std::byte{42}));
}

TEST(MpiTransport, AllocatesNothingOnceGrown) {
  const auto t = make_mpi_transport();
  constexpr int rounds = 10;
  for (int warmup = 0; warmup < 2; ++warmup) {  // the own box alternates between two buffers
    for (int round = 0; round < rounds + 1; ++round) {
      fill(*t, round % rounds);
      t->exchange();
    }
  }
  const std::int64_t bytes = t->buffer_bytes();
  const long before = allocations.load();
  for (int round = 0; round < rounds; ++round) {
    fill(*t, round);
    t->exchange();
  }
  EXPECT_EQ(allocations.load() - before, 0);
  EXPECT_EQ(t->buffer_bytes(), bytes);
  EXPECT_GT(bytes, 0);
}

TEST(MpiTransport, HandsOwnBytesOverWithoutCopying) {
  const auto t = make_mpi_transport();
  t->outbox(t->process()).assign(1000, std::byte{5});
  const std::byte* data = t->outbox(t->process()).data();
  t->exchange();
  EXPECT_EQ(t->received(t->process()).data(), data);
}

TEST(MpiTransport, ReducesGathersAndBroadcasts) {
  const auto t = make_mpi_transport();
  const int n = t->n_processes();
  std::vector<std::int64_t> values = {t->process(), 1, -t->process(), std::int64_t{1} << 40};
  std::vector<std::int64_t> largest = values;
  t->allreduce_sum(values);
  EXPECT_EQ(values, (std::vector<std::int64_t>{n * (n - 1) / 2, n, -n * (n - 1) / 2, n * (std::int64_t{1} << 40)}));
  t->allreduce_max(largest);
  EXPECT_EQ(largest, (std::vector<std::int64_t>{n - 1, 1, 0, std::int64_t{1} << 40}));
  t->allreduce_sum({});

  const std::vector<std::byte> mine(static_cast<std::size_t>(t->process() % 3),
                                    static_cast<std::byte>(t->process()));  // process 0 and 3 send nothing
  const auto all = t->gather(mine);
  ASSERT_EQ(all.size(), t->process() == 0 ? static_cast<std::size_t>(n) : 0u);
  for (std::size_t p = 0; p < all.size(); ++p) EXPECT_EQ(all[p], std::vector<std::byte>(p % 3, static_cast<std::byte>(p)));

  std::vector<std::byte> bytes(static_cast<std::size_t>(10 * t->process()), std::byte{1});  // process 0 has none: all end with none
  t->broadcast(bytes);
  EXPECT_TRUE(bytes.empty());
  t->barrier();
  EXPECT_FALSE(t->host_name().empty());
  EXPECT_EQ(t->name(), "mpi");
}

}  // namespace
}  // namespace moekv
