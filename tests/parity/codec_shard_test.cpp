// Centres that differ between shards: partial results merge rightly only with q . c added back, and wrongly without it.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "device/backend.hpp"
#include "rules/codec/catalogue.hpp"
#include "rules/merge.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t d = 32, slots = 32, shards = 2;

struct World {
  std::vector<float> q = std::vector<float>(d);
  std::vector<std::vector<float>> k, v;  // [shard][slots * d]
};

/// Keys of two shards whose means lie far apart along the query.
World make_world() {
  World w;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (float& x : w.q) x = normal(random);
  for (std::uint32_t s = 0; s < shards; ++s) {
    std::vector<float> k(std::size_t{slots} * d), v(k.size());
    for (std::size_t i = 0; i < k.size(); ++i) {
      k[i] = 0.3F * normal(random) + (s == 0 ? 0.25F : -0.25F) * w.q[i % d];
      v[i] = normal(random) + (s == 0 ? 1.0F : -1.0F);
    }
    w.k.push_back(k);
    w.v.push_back(v);
  }
  return w;
}

struct Partial {
  SoftmaxState state;
  std::vector<float> o;
  double q_centre;  // softmax scale times q . c
};

/// Seals each shard under a table of its own and attends to it.
std::vector<Partial> attend_shards(const World& w, Backend& backend) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(d));
  BlockFormat raw{{ElementFormat::fp32}, {ElementFormat::fp32}, slots, 1, d, d, false};
  const PoolId open = backend.create_pool(raw, shards);
  BlockFormat format = raw;
  format.k = codec::Int4TokenCentred{}.plane(Role::k, d);
  format.k.element = ElementFormat::int8;  // fine enough that the centre is all that matters
  const PoolId sealed = backend.create_pool(format, shards);
  std::vector<Partial> parts;
  for (std::uint32_t s = 0; s < shards; ++s) {
    for (std::uint32_t slot = 0; slot < slots; ++slot) {
      const AppendOp op{
          {open, s}, slot, reinterpret_cast<const std::byte*>(&w.k[s][slot * d]), reinterpret_cast<const std::byte*>(&w.v[s][slot * d])};
      backend.append({&op, 1});
    }
    const SealOp seal{{open, s}, {sealed, s}, slots, s};
    backend.seal({&seal, 1});
    const AttendTask task{0, 1, 0, 0, 1, 1, 0, 0};
    const PageRead page{{sealed, s}, slots, PageRead::all_slots};
    Partial p{{}, std::vector<float>(d), 0.0};
    backend.attend({{&task, 1},
                    {&page, 1},
                    {},
                    reinterpret_cast<const std::byte*>(w.q.data()),
                    ElementFormat::fp32,
                    1,
                    d,
                    d,
                    scale,
                    &p.state.m,
                    &p.state.l,
                    p.o.data(),
                    nullptr});
    for (std::uint32_t i = 0; i < slots * d; ++i) p.q_centre += static_cast<double>(w.q[i % d] * w.k[s][i] * scale) / slots;
    parts.push_back(p);
  }
  return parts;
}

std::vector<double> merged(const std::vector<Partial>& parts, bool corrected) {
  SoftmaxState state;
  std::vector<float> o(d);
  for (const Partial& p : parts) {
    SoftmaxState part = p.state;
    if (!corrected) part.m -= static_cast<float>(p.q_centre);
    merge_part(state, o.data(), part, p.o.data(), d);
  }
  std::vector<double> out(d);
  for (std::uint32_t c = 0; c < d; ++c) out[c] = static_cast<double>(o[c] / state.l);
  return out;
}

/// Attention over the stored values of both shards as one, in double precision.
std::vector<double> single_shard(const World& w, Backend& backend) {
  std::vector<double> logits, out(d);
  std::vector<std::vector<float>> values;
  double top = -1e300, sum = 0;
  for (std::uint32_t s = 0; s < shards; ++s) {
    for (std::uint32_t slot = 0; slot < slots; ++slot) {
      std::vector<float> k(d), v(d);
      backend.read_row({PoolId(1), s}, 0, slot, k.data(), v.data());
      double logit = 0;
      for (std::uint32_t c = 0; c < d; ++c) logit += static_cast<double>(w.q[c]) * static_cast<double>(k[c]);
      logits.push_back(logit / std::sqrt(static_cast<double>(d)));
      values.push_back(v);
      top = std::max(top, logits.back());
    }
  }
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double p = std::exp(logits[i] - top);
    sum += p;
    for (std::uint32_t c = 0; c < d; ++c) out[c] += p * static_cast<double>(values[i][c]);
  }
  for (double& x : out) x /= sum;
  return out;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double error = 0, size = 0;
  for (std::uint32_t c = 0; c < d; ++c) {
    error += (a[c] - b[c]) * (a[c] - b[c]);
    size += b[c] * b[c];
  }
  return std::sqrt(error / size);
}

TEST(CentresOfShards, MergeOnlyWithTheirCorrection) {
  const World w = make_world();
  const auto backend = make_host_backend(1);
  const std::vector<Partial> parts = attend_shards(w, *backend);
  const std::vector<double> one = single_shard(w, *backend);
  EXPECT_LT(distance(merged(parts, true), one), 1e-5);
  EXPECT_GT(distance(merged(parts, false), one), 0.1);
}

TEST(CentresOfShards, RawKeysBesideCentredOnesNeedItToo) {  // keys (10,1) sealed with c = (10,2), (10,3) raw, q = (1,1): the first weighs .1192
  const double with = 1 / (1 + std::exp(2.0));
  const double without = 1 / (1 + std::exp(13.0 + 1.0));
  EXPECT_NEAR(with, .1192, 1e-4);
  EXPECT_NEAR(without, 8e-7, 1e-7);
  const auto backend = make_host_backend(1);
  BlockFormat raw{{ElementFormat::fp32}, {ElementFormat::fp32}, 2, 1, 2, 2, false};
  const PoolId open = backend->create_pool(raw, 2);
  BlockFormat format = raw;
  format.k = codec::Int4TokenCentred{}.plane(Role::k, 2);
  const PoolId sealed = backend->create_pool(format, 1);
  const float k[][2] = {{10, 1}, {10, 3}};
  const float v[][2] = {{1, 0}, {0, 1}};
  for (const auto& [block, slot, i] : {std::array<std::uint32_t, 3>{0, 0, 0}, {0, 1, 1}, {1, 0, 1}}) {
    const AppendOp op{{open, block}, slot, reinterpret_cast<const std::byte*>(k[i]), reinterpret_cast<const std::byte*>(v[i])};
    backend->append({&op, 1});
  }
  const SealOp seal{{open, 0}, {sealed, 0}, 2};
  backend->seal({&seal, 1});
  const float q[] = {1, 1};
  const std::uint64_t first_only = 1;
  const AttendTask task{0, 2, 0, 0, 1, 1, 0, 0};
  const PageRead pages[] = {{{sealed, 0}, 2, 0}, {{open, 1}, 1, PageRead::all_slots}};
  float m = 0, l = 0, o[2];
  backend->attend(
      {{&task, 1}, pages, {&first_only, 1}, reinterpret_cast<const std::byte*>(q), ElementFormat::fp32, 1, 2, 2, 1.0F, &m, &l, o, nullptr});
  EXPECT_NEAR(o[0] / l, with, 2e-4);
}

}  // namespace
}  // namespace moekv
