// Merging of partial results, of tasks by every backend: equal to one softmax, empties skipped, sink in the denominator only, order respected.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "device/backend.hpp"
#include "device/merge_partials.hpp"
#include "rules/attend.hpp"
#include "support/emulated_device.hpp"
#include "support/page_world.hpp"

namespace moekv::test {
namespace {

constexpr float nothing = -std::numeric_limits<float>::infinity();

struct Rows {
  std::vector<float> m, l, o;
  explicit Rows(std::size_t n, std::uint32_t d_v, float fill) : m(n, fill), l(n, fill), o(n * d_v, fill) {}
};

/// Attention outputs and log-sum-exps.
struct Merged {
  std::vector<float> lse, o;
};

Merged merge(const Rows& rows, const std::vector<std::uint32_t>& offsets, const std::vector<std::uint32_t>& list, std::uint32_t d_v,
             const float* sink = nullptr, int n_threads = 2) {
  constexpr float unset = std::numeric_limits<float>::quiet_NaN();
  Merged out{std::vector<float>(offsets.size() - 1, unset), std::vector<float>((offsets.size() - 1) * d_v, unset)};
  std::vector<Partial> parts;
  for (const std::uint32_t i : list) parts.push_back({{rows.m[i], rows.l[i]}, rows.o.data() + std::size_t{i} * d_v});
  merge_partials({offsets, parts, d_v, sink, out.lse.data(), out.o.data()}, n_threads);
  return out;
}

/// Partials of random logits: part i holds entries [i * per_part, (i + 1) * per_part).
struct Split {
  std::vector<double> logits, values;
  Rows parts;
};

Split random_split(std::uint32_t n_parts, std::uint32_t per_part, std::uint32_t d_v, float spread) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0.0F, 1.0F);
  Split s{{}, {}, Rows(n_parts, d_v, 0.0F)};
  for (std::uint32_t i = 0; i < n_parts; ++i) {
    SoftmaxState state;
    for (std::uint32_t e = 0; e < per_part; ++e) {
      const float logit = spread * normal(random);
      std::vector<float> v(d_v);
      for (float& x : v) x = normal(random);
      attend_entry(state, s.parts.o.data() + std::size_t{i} * d_v, logit, v.data(), d_v);
      s.logits.push_back(static_cast<double>(logit));
      s.values.insert(s.values.end(), v.begin(), v.end());
    }
    s.parts.m[i] = state.m;
    s.parts.l[i] = state.l;
  }
  return s;
}

TEST(Merge, PartsGiveOneSoftmaxWithAndWithoutSink) {
  constexpr std::uint32_t d_v = 40;
  const Split s = random_split(9, 20, d_v, 12.0F);
  std::vector<std::uint32_t> list(9);
  for (std::uint32_t i = 0; i < 9; ++i) list[i] = i;
  for (const float sink : {nothing, -3.0F, 10.0F, 80.0F}) {
    const Merged out = merge(s.parts, {0, 9}, list, d_v, std::isinf(sink) ? nullptr : &sink);
    double denominator = std::exp(static_cast<double>(sink) - 30.0);
    std::vector<double> o(d_v, 0.0);
    for (std::size_t i = 0; i < s.logits.size(); ++i) {
      const double p = std::exp(s.logits[i] - 30.0);
      denominator += p;
      for (std::uint32_t c = 0; c < d_v; ++c) o[c] += p * s.values[i * d_v + c];
    }
    EXPECT_NEAR(out.lse[0], 30.0 + std::log(denominator), 1e-5);
    for (std::uint32_t c = 0; c < d_v; ++c) EXPECT_NEAR(out.o[c], o[c] / denominator, 2e-6);
  }
}

TEST(Merge, EmptiesAreSkippedAndMayHoldGarbage) {
  constexpr std::uint32_t d_v = 8;
  Split s = random_split(3, 4, d_v, 1.0F);
  Rows parts(5, d_v, std::numeric_limits<float>::quiet_NaN());
  for (const std::uint32_t i : {1U, 3U, 4U}) {
    const std::uint32_t from = i == 1 ? 0 : i - 2;
    parts.m[i] = s.parts.m[from];
    parts.l[i] = s.parts.l[from];
    for (std::uint32_t c = 0; c < d_v; ++c) parts.o[i * d_v + c] = s.parts.o[from * d_v + c];
  }
  parts.m[0] = parts.m[2] = nothing;
  parts.l[0] = parts.l[2] = 0.0F;
  const float sinks[] = {2.0F, 2.0F, 2.0F};
  const Merged with = merge(parts, {0, 5, 7, 7}, {0, 1, 2, 3, 4, 0, 2}, d_v, sinks);
  const Merged without = merge(s.parts, {0, 3}, {0, 1, 2}, d_v, sinks);
  EXPECT_EQ(with.lse[0], without.lse[0]);
  for (std::uint32_t c = 0; c < d_v; ++c) EXPECT_EQ(with.o[c], without.o[c]);
  for (const std::size_t row : {1U, 2U}) {  // only empties; no parts at all
    EXPECT_EQ(with.lse[row], nothing);
    for (std::uint32_t c = 0; c < d_v; ++c) EXPECT_EQ(with.o[row * d_v + c], 0.0F);
  }
}

TEST(Merge, OnePartIsDividedAndOrderIsTheListsOrder) {
  constexpr std::uint32_t d_v = 16;
  const Split s = random_split(3, 7, d_v, 2.0F);
  const Merged one = merge(s.parts, {0, 1}, {2}, d_v);
  EXPECT_EQ(one.lse[0], s.parts.m[2] + log_fixed(s.parts.l[2]));
  for (std::uint32_t c = 0; c < d_v; ++c) EXPECT_EQ(one.o[c], s.parts.o[2 * d_v + c] / s.parts.l[2]);
  SoftmaxState state;
  std::vector<float> o(d_v);
  for (const std::uint32_t i : {2U, 0U, 1U}) merge_part(state, o.data(), {s.parts.m[i], s.parts.l[i]}, s.parts.o.data() + i * d_v, d_v);
  const Merged three = merge(s.parts, {0, 3}, {2, 0, 1}, d_v);
  EXPECT_EQ(three.lse[0], state.m + log_fixed(state.l));
  for (std::uint32_t c = 0; c < d_v; ++c) EXPECT_EQ(three.o[c], o[c] / state.l);
}

TEST(Merge, ManyRowsOnManyThreadsMatchOneByOne) {
  constexpr std::uint32_t d_v = 128;
  const Split s = random_split(600, 2, d_v, 3.0F);
  std::vector<std::uint32_t> offsets = {0};
  std::vector<std::uint32_t> list;
  for (std::uint32_t row = 0; row < 300; ++row) {
    list.push_back(2 * row);
    list.push_back(2 * row + 1);
    offsets.push_back(static_cast<std::uint32_t>(list.size()));
  }
  std::vector<float> sinks;
  for (std::uint32_t row = 0; row < 300; ++row) sinks.push_back(0.02F * static_cast<float>(row) - 3.0F);
  const Merged all = merge(s.parts, offsets, list, d_v, sinks.data(), 3);
  for (std::uint32_t row = 0; row < 300; row += 37) {
    const Merged one = merge(s.parts, {0, 2}, {2 * row, 2 * row + 1}, d_v, &sinks[row]);
    EXPECT_EQ(all.lse[row], one.lse[0]);
    for (std::uint32_t c = 0; c < d_v; ++c) EXPECT_EQ(all.o[row * d_v + c], one.o[c]);
  }
}

class MergeParity : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (make_test_backend(GetParam(), 1) == nullptr) GTEST_SKIP() << "no device for backend " << GetParam();
  }
};

/// Attention that merges its tasks does so in the order of the list, bit for bit; a row that no task fills is empty.
TEST_P(MergeParity, TasksOfOneAttentionMergeInTheirOrder) {
  const auto device = make_test_backend(GetParam(), 2);
  PageWorld world(*device, {}, 60, 21);
  for (const std::uint32_t n_pages : {5U, 50U, 9U, 0U, 3U}) world.add_task(n_pages, 0.3F);  // the second one in several parts
  const std::uint32_t heads = world.rows_per_task(), d_v = world.geometry().d_v;
  std::vector<std::uint32_t> offsets{0}, parts;
  for (std::uint32_t h = 0; h < heads; ++h) {
    for (const std::uint32_t t : {2U, 0U, 3U, 1U}) parts.push_back(world.tasks()[t].out + h);
    offsets.push_back(static_cast<std::uint32_t>(parts.size()));
    if (h == 0) offsets.push_back(offsets.back());  // nothing at all
    parts.push_back(world.tasks()[2].out - 1);
    parts.push_back(world.tasks()[4].out + h);
    offsets.push_back(static_cast<std::uint32_t>(parts.size()));
  }
  const AttendOutput apart = world.attend(*device, false), merged = world.attend_merged(*device, offsets, parts);
  for (std::uint32_t row = 0; row + 1 < offsets.size(); ++row) {
    SoftmaxState state;
    std::vector<float> o(d_v);
    for (std::uint32_t i = offsets[row]; i < offsets[row + 1]; ++i) {
      const std::uint32_t part = parts[i];
      if (part + 1 != world.tasks()[2].out) merge_part(state, o.data(), {apart.m[part], apart.l[part]}, &apart.o[std::size_t{part} * d_v], d_v);
    }
    EXPECT_EQ(merged.m[row], state.m) << row;
    EXPECT_EQ(merged.l[row], state.l) << row;
    for (std::uint32_t c = 0; c < d_v; ++c) ASSERT_EQ(merged.o[std::size_t{row} * d_v + c], o[c]) << row;
  }
  EXPECT_TRUE(std::isnan(merged.m.back()) && std::isnan(merged.o.back()));
}

INSTANTIATE_TEST_SUITE_P(Backends, MergeParity, ::testing::Values("host", "emulated", "cuda"), [](const auto& param) { return param.param; });

}  // namespace
}  // namespace moekv::test
