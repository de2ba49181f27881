// A device stores what the host stores, bit for bit: entries, sealed pages of every codec with their tables, bounds and scores; blocks come and go
// unharmed.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "device_backend.hpp"
#include "rules/codec/catalogue.hpp"
#include "support/emulated_device.hpp"

namespace moekv::test {
namespace {

struct Shape {
  std::uint32_t heads, d_k, d_v, slots;
  bool latent = false;
  bool nans = false;  // some
};

BlockFormat raw_format(const Shape& s, ElementFormat payload, bool bounds = false) {
  BlockFormat f{{payload}, {payload}, s.slots, s.heads, s.d_k, s.d_v, s.latent};
  f.bounds = bounds;
  f.bounds_element = payload;
  return f;
}

/// A backend under test and the host side by side: everything is done to both.
class Twins {
 public:
  explicit Twins(const std::string& name) : device(make_test_backend(name, 1)), host(make_host_backend(1)) {}

  PoolId create_pool(const BlockFormat& f, std::uint32_t n) const {
    device->create_pool(f, n);
    return host->create_pool(f, n);
  }
  void append(std::span<const AppendOp> ops) const {
    device->append(ops);
    host->append(ops);
  }
  void seal(std::span<const SealOp> ops) const {
    device->seal(ops);
    host->seal(ops);
  }
  void expect_equal(const BlockRef& block, const BlockFormat& f, const std::string& what) const {
    std::vector<std::byte> a(f.block_bytes()), b(f.block_bytes()), at(f.shared_bytes()), bt(f.shared_bytes());
    const BlockOut left{block, a.data(), f.shared_bytes() > 0 ? at.data() : nullptr},
        right{block, b.data(), f.shared_bytes() > 0 ? bt.data() : nullptr};
    device->read_blocks({&left, 1});
    host->read_blocks({&right, 1});
    device->sync();
    EXPECT_EQ(a, b) << what;
    EXPECT_EQ(at, bt) << what << ", tables";
  }

  std::unique_ptr<Backend> device, host;
};

/// Random rows of K and V of one entry. Some channels are large, some rows are flat, also beyond the range of fp16.
struct Entry {
  std::vector<std::byte> k, v;
};
Entry random_entry(std::mt19937& random, const Shape& s, ElementFormat payload) {
  std::normal_distribution<float> normal;
  const std::uint32_t kind = random() % 16;
  const auto row = [&](std::uint32_t n, std::uint32_t d) {
    std::vector<std::byte> bytes(std::size_t{n} * code_bytes({payload}, d));
    for (std::uint32_t i = 0; i < n * d; ++i)
      store_raw(payload, bytes.data(), i, kind == 0 ? 0.3F : kind == 1 ? 1e6F : normal(random) * (i % 7 == 0 ? 20.0F : 1.0F));
    if (s.nans && kind == 2) store_u16(&bytes[2 * (random() % (n * d))], 0x7FFF);
    return bytes;
  };
  return {row(s.heads, s.d_k), s.latent ? std::vector<std::byte>{} : row(s.heads, s.d_v)};
}

/// Fills blocks 0 .. n of `pool` on both, several entries to a call.
void fill(Twins& twins, PoolId pool, std::uint32_t n, const Shape& s, ElementFormat payload, std::mt19937& random) {
  std::vector<Entry> entries;
  std::vector<AppendOp> ops;
  for (std::uint32_t block = 0; block < n; ++block)
    for (std::uint32_t slot = 0; slot < s.slots; ++slot) entries.push_back(random_entry(random, s, payload));
  for (std::uint32_t i = 0; i < entries.size(); ++i)
    ops.push_back({{pool, i / s.slots}, i % s.slots, entries[i].k.data(), s.latent ? nullptr : entries[i].v.data(), i % s.slots == 0});
  std::shuffle(ops.begin(), ops.end(), random);
  std::stable_partition(ops.begin(), ops.end(), [](const AppendOp& op) { return op.fresh; });
  for (std::size_t i = 0; i < ops.size(); i += 37) twins.append({ops.data() + i, std::min<std::size_t>(37, ops.size() - i)});
}

class DeviceParity : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (make_test_backend(GetParam(), 1) == nullptr) GTEST_SKIP() << "no device for backend " << GetParam();
  }
};

TEST_P(DeviceParity, SealedPagesOfEveryCodecAreTheHosts) {
  std::mt19937 random(11);
  const auto check = [&](const auto& codec, const Shape& s, ElementFormat payload) {
    for (std::uint32_t c = 0; c < classes_of(Codec(codec)); ++c) {
      Twins twins(GetParam());
      const BlockFormat raw = raw_format(s, payload);
      BlockFormat sealed = raw;
      sealed.k = plane_of(Codec(codec), Role::k, s.d_k, c);
      sealed.v = plane_of(Codec(codec), Role::v, s.d_v, c);
      const PoolId from = twins.create_pool(raw, 3), to = twins.create_pool(sealed, 3);
      fill(twins, from, 3, s, payload, random);
      const bool run = sealed.shared_bytes() > 0 && (sealed.k.scope == TableScope::run || sealed.v.scope == TableScope::run);
      if (run) {
        std::vector<std::byte> tables(sealed.shared_bytes());
        for (std::size_t i = 0; i < tables.size(); i += 2) store_u16(&tables[i], fp16_from_float(0.1F * std::normal_distribution<float>()(random)));
        for (std::uint64_t key = 0; key < 2; ++key) {
          twins.device->set_tables(to, key, tables);
          twins.host->set_tables(to, key, tables);
        }
      }
      const Entry q = random_entry(random, s, payload);
      const SealOp ops[] = {{{from, 0}, {to, 2}, s.slots, 0, q.k.data(), q.k.size(), 1, 1},
                            {{from, 1}, {to, 0}, s.slots / 2 + 1, 0, q.k.data(), q.k.size(), 1, 1},
                            {{from, 2}, {to, 1}, s.slots, 1, q.k.data(), q.k.size(), 1, 1}};
      twins.seal(ops);
      for (std::uint32_t b = 0; b < 3; ++b) twins.expect_equal({to, b}, sealed, std::string(codec.name) + " d " + std::to_string(s.d_k));
    }
  };
  const auto every = [&]<std::size_t... I>(std::index_sequence<I...>) {
    const auto one = [&](const auto& codec) {
      check(codec, {2, 64, 32, 32}, ElementFormat::bf16);
      constexpr bool widens = std::is_same_v<std::decay_t<decltype(codec)>, codec::Fp32>;  // then the bits of a NaN are the device's
      check(codec, {1, 128, 64, 32, false, !widens}, ElementFormat::fp16);
      check(codec, {1, 45, 77, 32}, ElementFormat::fp32);
      check(codec, {1, 96, 64, 64, true}, ElementFormat::fp16);
    };
    (one(std::variant_alternative_t<I, Codec>{}), ...);
  };
  every(std::make_index_sequence<std::variant_size_v<Codec>>{});
}

TEST_P(DeviceParity, BoundsAndScoresAreTheHosts) {
  std::mt19937 random(5);
  for (const ElementFormat payload : {ElementFormat::bf16, ElementFormat::fp16, ElementFormat::fp32}) {
    for (const Shape& s : {Shape{2, 64, 64, 16}, {1, 51, 8, 8}, {1, 96, 64, 16, true}}) {
      Twins twins(GetParam());
      const PoolId pool = twins.create_pool(raw_format(s, payload, true), 40);
      fill(twins, pool, 37, s, payload, random);
      fill(twins, pool, 5, s, payload, random);  // blocks that are taken again
      std::vector<BlockRef> pages;
      for (std::uint32_t i = 0; i < 60; ++i) pages.push_back({pool, static_cast<std::uint32_t>(random() % 37)});
      for (const select::HeadReducer how : {select::HeadReducer::sum, select::HeadReducer::max}) {
        select::Quest quest;
        quest.heads = how;
        const SelectRule rule = quest;
        const std::uint32_t group = 3, row_heads = s.heads * group + 1;
        std::vector<std::byte> q;
        for (int i = 0; i < 2; ++i) {
          const Entry e = random_entry(random, {row_heads, s.d_k, s.d_v, s.slots, true}, payload);
          q.insert(q.end(), e.k.begin(), e.k.end());
        }
        const ScoreTask tasks[] = {{0, 23, 1, 1, s.heads, group}, {25, 1, 0, 0, s.heads, group}, {26, 34, 0, 1, s.heads, group}};
        std::vector<float> a(60, -1.0F), b(60, -1.0F);
        ScoreBatch batch{tasks, pages, q.data(), payload, row_heads, s.d_k, &rule, a.data()};
        twins.device->score_pages(batch);
        twins.device->sync();
        batch.scores = b.data();
        twins.host->score_pages(batch);
        EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0);
        EXPECT_EQ(a[23], -1.0F) << "a page of no task";
      }
    }
  }
}

TEST_P(DeviceParity, BlocksLeaveAndReturnWithTheirTables) {
  std::mt19937 random(8);
  const Shape s{2, 32, 32, 16};
  Twins twins(GetParam());
  const BlockFormat raw = raw_format(s, ElementFormat::bf16, true);
  BlockFormat sealed = raw;
  sealed.k = codec::Int4TokenCentred{}.plane(Role::k, s.d_k);
  sealed.v = codec::Int4TokenCentred{}.plane(Role::v, s.d_v);
  const PoolId from = twins.create_pool(raw, 2), to = twins.create_pool(sealed, 6);
  const PoolId away = twins.device->create_host_pool(to, 4);
  ASSERT_EQ(twins.host->create_host_pool(to, 4).value, away.value);
  fill(twins, from, 2, s, ElementFormat::bf16, random);
  const SealOp seals[] = {{{from, 0}, {to, 0}, 16, 7}, {{from, 1}, {to, 1}, 16, 9}};
  twins.seal(seals);
  const CopyOp out[] = {{{to, 0}, {away, 3}, 7}, {{to, 1}, {away, 0}, 9}}, back[] = {{{away, 3}, {to, 4}, 7}, {{away, 0}, {to, 5}, 9}};
  for (Backend* b : {twins.device.get(), twins.host.get()}) {
    b->copy(out);
    b->copy(back);
    b->sync();
  }
  twins.expect_equal({to, 4}, sealed, "came back");
  twins.expect_equal({to, 5}, sealed, "came back");
  // To another backend and its own tables.
  std::vector<std::byte> bytes(sealed.block_bytes()), tables(sealed.shared_bytes());
  const BlockOut read{{to, 4}, bytes.data(), tables.data()};
  twins.device->read_blocks({&read, 1});
  twins.device->sync();
  const BlockIn write{{to, 2}, bytes.data(), tables.data(), 33};
  for (Backend* b : {twins.device.get(), twins.host.get()}) b->write_blocks({&write, 1});
  twins.expect_equal({to, 2}, sealed, "written");
  std::vector<float> a(s.d_k), b(s.d_k), av(s.d_v), bv(s.d_v);
  for (const std::uint32_t block : {2U, 4U, 5U}) {
    twins.device->read_row({to, block}, 1, 3, a.data(), av.data());
    twins.host->read_row({to, block}, 1, 3, b.data(), bv.data());
    EXPECT_EQ(a, b);
    EXPECT_EQ(av, bv);
  }
}

TEST_P(DeviceParity, BoundsGoAlongWithTheirPages) {
  std::mt19937 random(9);
  const Shape s{2, 64, 64, 16};
  Twins twins(GetParam());
  const BlockFormat raw = raw_format(s, ElementFormat::bf16, true);
  BlockFormat sealed = raw;
  sealed.k = sealed.v = codec::Int8Token{}.plane(Role::k, s.d_k);
  const PoolId from = twins.create_pool(raw, 2), to = twins.create_pool(sealed, 3), away = twins.host->create_host_pool(to, 2);
  twins.device->create_host_pool(to, 2);
  fill(twins, from, 2, s, ElementFormat::bf16, random);
  const SealOp seals[] = {{{from, 0}, {to, 0}, s.slots}, {{from, 1}, {to, 1}, s.slots}};
  twins.seal(seals);
  const CopyOp leaves{{to, 0}, {away, 1}}, returns{{away, 1}, {to, 2}};
  const std::vector<BlockRef> pages{{to, 1}, {to, 2}};
  const ScoreTask task{0, 2, 0, 0, s.heads, 1};
  const SelectRule rule = select::Quest{};
  const Entry q = random_entry(random, s, ElementFormat::bf16);
  std::vector<float> scores[2];
  for (Backend* b : {twins.device.get(), twins.host.get()}) {
    for (const CopyOp* op : {&leaves, &returns}) b->copy({op, 1});
    std::vector<float>& mine = scores[b == twins.host.get() ? 1 : 0];
    mine.assign(2, NAN);
    b->score_pages({{&task, 1}, pages, q.k.data(), ElementFormat::bf16, s.heads, s.d_k, &rule, mine.data()});
    b->sync();
  }
  EXPECT_EQ(scores[0], scores[1]);
  EXPECT_TRUE(scores[1][0] > 0 && scores[1][1] > 0);
}

TEST_P(DeviceParity, AuditsAreTheHosts) {
  std::mt19937 random(3);
  const Shape s{2, 32, 32, 16};
  Twins twins(GetParam());
  const BlockFormat raw = raw_format(s, ElementFormat::bf16);
  BlockFormat sealed = raw;
  sealed.k = sealed.v = codec::Int4Token{}.plane(Role::k, s.d_k);
  const PoolId from = twins.create_pool(raw, 1), to = twins.create_pool(sealed, 1);
  fill(twins, from, 1, s, ElementFormat::bf16, random);
  const Entry q = random_entry(random, s, ElementFormat::bf16);
  const SealOp op{{from, 0}, {to, 0}, 16, 0, q.k.data(), q.k.size(), 1, 1};
  twins.seal({&op, 1});
  for (const AuditOf what : {AuditOf::stored, AuditOf::trial}) {
    SealAudit a, b;
    twins.device->audit({&op, 1}, what, 0.2F, &a);
    twins.host->audit({&op, 1}, what, 0.2F, &b);
    EXPECT_EQ(a.k_error, b.k_error);
    EXPECT_EQ(a.v_error, b.v_error);
    EXPECT_EQ(a.attention_error, b.attention_error);
    EXPECT_EQ(a.entropy_bits, b.entropy_bits);
  }
}

TEST_P(DeviceParity, MemoryIsToldAndGivenBack) {
  const auto device = make_test_backend(GetParam(), 1);
  const BlockFormat f = raw_format({2, 64, 64, 64}, ElementFormat::bf16, true);
  const PoolId pool = device->create_pool(f, 1U << 22);
  EXPECT_EQ(device->memory().reserved_bytes, 0);
  const std::vector<std::byte> row(2 * 64 * 2);
  for (const std::uint32_t block : {0U, 299U}) {
    const AppendOp op{{pool, block}, 0, row.data(), row.data(), true};
    device->append({&op, 1});
  }
  device->sync();
  const BackendMemory memory = device->memory();
  EXPECT_EQ(memory.pool_bytes, static_cast<std::int64_t>(300 * f.block_bytes()));
  EXPECT_EQ(memory.bounds_bytes, static_cast<std::int64_t>(300 * f.bounds_bytes()));
  EXPECT_GE(memory.reserved_bytes, memory.pool_bytes);
  EXPECT_LE(memory.reserved_bytes, memory.pool_bytes + memory.bounds_bytes + (32 << 20));
  device->release_pools();
  EXPECT_EQ(device->memory().reserved_bytes, 0);
}

INSTANTIATE_TEST_SUITE_P(Backends, DeviceParity, ::testing::Values("emulated", "cuda"), [](const auto& param) { return param.param; });

TEST(EmulatedMemory, ThatEndsIsAFailureOfThePoint) {
  kernels::DeviceBackend backend(std::make_unique<EmulatedDevice>(20U << 20));
  const BlockFormat f = raw_format({2, 64, 64, 64}, ElementFormat::bf16);
  const PoolId pool = backend.create_pool(f, 1U << 20);
  const std::vector<std::byte> row(2 * 64 * 2);
  const AppendOp first{{pool, 0}, 0, row.data(), row.data()}, far{{pool, 600}, 0, row.data(), row.data()};
  backend.append({&first, 1});
  EXPECT_THROW(backend.append({&far, 1}), PointFailure);
}

}  // namespace
}  // namespace moekv::test
