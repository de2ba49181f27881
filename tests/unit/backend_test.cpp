// Backends by name, honest memory figures of pools, and the value fold worked out by hand.
#include "device/backend.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "rules/codec/catalogue.hpp"

namespace moekv {
namespace {

BlockFormat bf16_block(std::uint32_t page_slots = 16) {
  return {codec::Bf16{}.plane(Role::k, 128), codec::Bf16{}.plane(Role::k, 128), page_slots, 2, 64, 64, false};
}

std::int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::int64_t total = 0;
  std::int64_t resident = 0;
  file >> total >> resident;
  return resident * 4096;
}

TEST(MakeBackend, KnowsItsNames) {
  EXPECT_EQ(make_backend("host", 1)->name(), "host");
  EXPECT_TRUE(make_backend("host", 0)->has_payload());
  EXPECT_EQ(make_backend("count", 1)->name(), "count");
  EXPECT_FALSE(make_backend("count", 1)->has_payload());
  try {
    (void)make_backend("hots", 1);
    FAIL();
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("did you mean 'host'"), std::string::npos) << e.what();
  }
}

TEST(CountBackend, CountsPoolsAndRefusesPayload) {
  const auto backend = make_count_backend();
  const BlockFormat f = bf16_block();
  EXPECT_EQ(backend->create_pool(f, 1000).value, 0U);
  EXPECT_EQ(backend->create_pool(f, 500).value, 1U);
  EXPECT_EQ(backend->memory().pool_bytes, static_cast<std::int64_t>(1500 * f.block_bytes()));
  EXPECT_EQ(backend->memory().reserved_bytes, 0);
  EXPECT_THROW(backend->append({}), std::logic_error);
  backend->release_pools();
  EXPECT_EQ(backend->memory().pool_bytes, 0);
}

TEST(HostBackend, TakesMemoryOnlyForBlocksInUse) {
  const auto backend = make_host_backend(1);
  const BlockFormat f = bf16_block(64);  // 32 KiB
  const std::int64_t before = resident_bytes();
  const PoolId pool = backend->create_pool(f, 1U << 20);  // 32 GiB of address space
  EXPECT_EQ(backend->memory().pool_bytes, 0);
  EXPECT_EQ(backend->memory().reserved_bytes, 0);
  const std::vector<std::byte> row(2 * 64 * 2, std::byte{1});
  for (std::uint32_t block = 0; block < 300; ++block) {
    const AppendOp op{{pool, block}, 0, row.data(), row.data()};
    backend->append({&op, 1});
  }
  const BackendMemory memory = backend->memory();
  EXPECT_EQ(memory.pool_bytes, static_cast<std::int64_t>(300 * f.block_bytes()));
  EXPECT_GE(memory.reserved_bytes, memory.pool_bytes);
  EXPECT_LE(memory.reserved_bytes, memory.pool_bytes + (2 << 20));
  EXPECT_LE(resident_bytes() - before, memory.reserved_bytes + (4 << 20));
  backend->release_pools();
  EXPECT_EQ(backend->memory().reserved_bytes, 0);
  EXPECT_LE(resident_bytes() - before, 4 << 20);
}

TEST(HostBackend, RefusesPoolsBeyondAnyAddressSpace) {
  const auto backend = make_host_backend(1);
  BlockFormat f = bf16_block(256);
  f.n_kv_heads = 64;
  f.d_k = f.d_v = 4096;
  EXPECT_THROW(backend->create_pool(f, 0xFFFFFFFFU), PointFailure);
}

/// Two rows in int4, scale 1 and zero 0: 2.5 becomes 2 in both, everything else stays.
TEST(HostBackend, AuditTellsWhatSealingLoses) {
  const auto backend = make_host_backend(1);
  const BlockFormat raw{{ElementFormat::fp32}, {ElementFormat::fp32}, 16, 1, 4, 4, false};
  BlockFormat packed = raw;
  packed.k = packed.v = codec::Int4Token{}.plane(Role::k, 4);
  const PoolId from = backend->create_pool(raw, 2), to = backend->create_pool(packed, 1);
  const float rows[][4] = {{0, 1, 2.5F, 15}, {15, 2.5F, 1, 0}};
  const float exact[] = {0, 1, 2, 15};
  for (std::uint32_t slot = 0; slot < 2; ++slot) {
    for (const auto& [block, row] : {std::pair{0U, rows[slot]}, {1U, exact}}) {
      const AppendOp op{{from, block}, slot, reinterpret_cast<const std::byte*>(row), reinterpret_cast<const std::byte*>(row)};
      backend->append({&op, 1});
    }
  }
  const SealOp other{{from, 1}, {to, 0}, 2};
  backend->seal({&other, 1});
  const float q[] = {0, 0, 1, 0};  // logits 2.5, 1 become 2, 1
  SealOp op{{from, 0}, {to, 0}, 2, 0, reinterpret_cast<const std::byte*>(q), sizeof q, 1, 1};
  SealAudit trial, stored, unasked;
  backend->audit({&op, 1}, AuditOf::trial, 2.0F, &trial);
  float k[4], v[4];
  backend->read_row({to, 0}, 0, 0, k, v);
  EXPECT_TRUE(std::equal(k, k + 4, exact)) << "a trial stores nothing";
  backend->seal({&op, 1});
  backend->audit({&op, 1}, AuditOf::stored, 2.0F, &stored);
  op.q = nullptr;
  backend->audit({&op, 1}, AuditOf::stored, 2.0F, &unasked);
  EXPECT_TRUE(std::isnan(unasked.logit_error) && std::isnan(unasked.attention_error));
  for (const SealAudit& a : {trial, stored}) {
    EXPECT_NEAR(a.k_error, std::sqrt(0.5 / 464.5), 1e-12);
    EXPECT_NEAR(a.v_error, a.k_error, 1e-12);
    EXPECT_NEAR(a.spread_error, std::sqrt(0.5 / 227.25), 1e-12);
    EXPECT_NEAR(a.logit_error, 1.0 / 3.0, 1e-12);
    const double p = 1 / (1 + std::exp(-3.0)), wrong = 1 / (1 + std::exp(-2.0));
    EXPECT_NEAR(a.attention_error, std::sqrt(2 * (p - wrong) * (p - wrong) / (p * p + (1 - p) * (1 - p))), 1e-12);
    EXPECT_EQ(a.code_bits, 64);     // two planes of eight 4-bit codes
    EXPECT_EQ(a.entropy_bits, 32);  // 0, 1, 2 and 15, each twice in eight
  }
}

TEST(HostBackend, FoldsScaleAndZeroOfValues) {  // p = (1/4, 3/4), s = (2, 4), z = (1, -1), codes (1, 2): output 1/4 * 3 + 3/4 * 7 = 6
  const auto backend = make_host_backend(1);
  const BlockFormat raw{codec::Fp32{}.plane(Role::k, 128), codec::Fp32{}.plane(Role::k, 128), 16, 1, 1, 3, false};
  BlockFormat packed = raw;
  packed.v = codec::Int4Token{}.plane(Role::k, 128);
  const BlockRef from{backend->create_pool(raw, 1), 0};
  const BlockRef to{backend->create_pool(packed, 1), 0};
  const float k[] = {0.0F, std::log(3.0F)};
  const float v[][3] = {{1.0F, 3.0F, 31.0F}, {-1.0F, 7.0F, 59.0F}};
  for (std::uint32_t slot = 0; slot < 2; ++slot) {
    const AppendOp op{from, slot, reinterpret_cast<const std::byte*>(&k[slot]), reinterpret_cast<const std::byte*>(v[slot])};
    backend->append({&op, 1});
  }
  const SealOp seal{from, to, 2};
  backend->seal({&seal, 1});
  const float q = 1.0F;
  const AttendTask task{0, 1, 0, 0, 1, 1, 0, 0};
  const PageRead page{to, 2, PageRead::all_slots};
  float m = 0.0F;
  float l = 0.0F;
  float o[3];
  backend->attend({{&task, 1}, {&page, 1}, {}, reinterpret_cast<const std::byte*>(&q), ElementFormat::fp32, 1, 1, 3, 1.0F, &m, &l, o, nullptr});
  EXPECT_NEAR(o[0] / l, -0.5F, 1e-6F);
  EXPECT_NEAR(o[1] / l, 6.0F, 1e-5F);
  EXPECT_NEAR(o[2] / l, 52.0F, 1e-4F);
}

/// Writes slot 0 of a raw fp32 block of one head and two channels.
void append_row(Backend& backend, BlockRef block, float k0, float k1) {
  const float k[] = {k0, k1}, v[] = {-k0, -k1};
  const AppendOp op{block, 0, reinterpret_cast<const std::byte*>(k), reinterpret_cast<const std::byte*>(v)};
  backend.append({&op, 1});
}

TEST(HostBackend, BlocksGoToTheHostPoolAndComeBackElsewhere) {
  const auto backend = make_host_backend(1);
  const PlaneFormat plane = codec::Fp32{}.plane(Role::k, 2);
  const PoolId pool = backend->create_pool({plane, plane, 16, 1, 2, 2, false}, 8), away = backend->create_host_pool(pool, 8);
  append_row(*backend, {pool, 0}, 3, 4);
  append_row(*backend, {pool, 1}, 5, 6);
  const CopyOp down[] = {{{pool, 0}, {away, 1}}, {{pool, 1}, {away, 0}}};
  backend->copy(down);
  append_row(*backend, {pool, 0}, 0, 0);
  append_row(*backend, {pool, 1}, 0, 0);
  const CopyOp up[] = {{{away, 1}, {pool, 7}}};
  backend->copy(up);
  float k[2], v[2];
  backend->read_row({pool, 7}, 0, 0, k, v);
  EXPECT_EQ(k[0], 3.0F);
  EXPECT_EQ(v[1], -4.0F);
  backend->read_row({pool, 1}, 0, 0, k, v);
  EXPECT_EQ(k[0], 0.0F);
}

TEST(HostBackend, ASealedBlockInTheHostPoolKeepsItsSequencesTable) {
  const auto backend = make_host_backend(1);
  const PlaneFormat plane = codec::Fp32{}.plane(Role::k, 2);
  const BlockFormat raw{plane, plane, 16, 1, 2, 2, false};
  BlockFormat packed = raw;
  packed.k = codec::LowrankPca{1}.plane(Role::k, 2);
  ASSERT_GT(packed.shared_bytes(), 0U);
  const PoolId open = backend->create_pool(raw, 4), sealed = backend->create_pool(packed, 4), away = backend->create_host_pool(sealed, 4);
  const auto seal = [&](float k0, float k1, std::uint32_t to, std::uint64_t key) {
    append_row(*backend, {open, 0}, k0, k1);
    const SealOp op{{open, 0}, {sealed, to}, 1, key};
    backend->seal({&op, 1});
  };
  seal(3, 4, 0, 1);
  float before[2], after[2], v[2];
  backend->read_row({sealed, 0}, 0, 0, before, v);
  const CopyOp down{{sealed, 0}, {away, 0}, 1};
  backend->copy({&down, 1});
  seal(-8, 1, 0, 2);  // the block is another sequence's now
  const CopyOp up{{away, 0}, {sealed, 2}, 1};
  backend->copy({&up, 1});
  backend->read_row({sealed, 2}, 0, 0, after, v);
  EXPECT_EQ(after[0], before[0]);
  EXPECT_EQ(after[1], before[1]);
  EXPECT_NE(before[0], 0.0F);
}

}  // namespace
}  // namespace moekv
