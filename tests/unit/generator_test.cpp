// The generator against itself by random access, its loops against the scalar arithmetic, expert affinity and refusals.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

#include "core/error.hpp"
#include "rules/generate.hpp"
#include "support/qkv_shapes.hpp"
#include "trace/generator_kernels.hpp"
#include "trace/generator_tables.hpp"
#include "trace/key_rows.hpp"
#include "trace/qkv.hpp"

namespace moekv {
namespace {

using test::gqa_shape;
using test::mla_shape;

struct Rows {
  std::vector<float> k, v, q;
};
Rows make_rows(QkvSource& source, const ModelShape& shape, std::uint32_t begin, std::uint32_t end, const std::vector<std::uint16_t>& ids) {
  const std::size_t n = end - begin;
  Rows rows{std::vector<float>(n * shape.n_kv_heads * shape.d_k), std::vector<float>(n * shape.n_kv_heads * shape.d_v),
            std::vector<float>(n * shape.n_heads * shape.d_k)};
  const TokenExperts experts{ids.empty() ? nullptr : ids.data() + std::size_t{begin} * 2, ids.empty() ? 0U : 2U};
  source.keys_values(LayerId(1), RequestId(7), begin, end, experts, rows.k.data(), rows.v.data());
  source.queries(LayerId(1), RequestId(7), begin, end, experts, rows.q.data());
  return rows;
}
bool same_bits(const std::vector<float>& whole, std::size_t at, const std::vector<float>& part) {
  return part.empty() || std::memcmp(whole.data() + at, part.data(), part.size() * sizeof(float)) == 0;
}

class RandomAccess : public testing::TestWithParam<std::tuple<const char*, ModelShape>> {};

TEST_P(RandomAccess, EqualsSequential) {
  const auto& [preset, shape] = GetParam();
  const GeneratorSpec spec{.preset = preset, .expert_affinity = 0.5, .sequence_mix = 0.5, .seed = 11};
  constexpr std::uint32_t tokens = 150;
  std::vector<std::uint16_t> ids(std::size_t{tokens} * 2);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = i % 17 == 0 ? ExpertId::invalid : static_cast<std::uint16_t>(i * 7 % 16);
  const auto first = make_qkv_generator(spec, shape);
  const Rows whole = make_rows(*first, shape, 0, tokens, ids);
  for (const float x : whole.q) ASSERT_TRUE(std::isfinite(x));
  const auto second = make_qkv_generator(spec, shape);  // a fresh one, asked in another order
  for (const auto& [begin, end] : {std::pair{149U, 150U}, {64U, 65U}, {65U, 66U}, {70U, 80U}, {3U, 131U}, {127U, 129U}, {0U, 1U}, {63U, 64U}, {0U, 64U}}) {
    const Rows part = make_rows(*second, shape, begin, end, ids);
    EXPECT_TRUE(same_bits(whole.k, std::size_t{begin} * shape.n_kv_heads * shape.d_k, part.k)) << begin;
    EXPECT_TRUE(same_bits(whole.q, std::size_t{begin} * shape.n_heads * shape.d_k, part.q)) << begin;
    EXPECT_TRUE(shape.mla() || same_bits(whole.v, std::size_t{begin} * shape.n_kv_heads * shape.d_v, part.v)) << begin;
  }
}

TEST_P(RandomAccess, RangesByThreadsEqualEachAlone) {
  const ModelShape& shape = std::get<1>(GetParam());
  const GeneratorSpec spec{.preset = std::get<0>(GetParam()), .expert_affinity = 0.5, .sequence_mix = 0.5, .seed = 11};
  // Across a block, one token, without queries, queries of the last tokens only; two of one request.
  const std::vector<generate::RowRange> ranges{
      {7, 30, 140, 30, 0, 0}, {2, 149, 150, 149, 110, 110}, {7, 0, 9, 9, 111, 111}, {5, 60, 80, 71, 120, 111}};
  constexpr std::size_t tokens = 140, queries = 120;
  std::vector<std::uint16_t> ids(tokens * 2);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::uint16_t>(i * 7 % 16);
  const TokenExperts experts{ids.data(), 2};
  const std::size_t k_width = std::size_t{shape.n_kv_heads} * shape.d_k, v_width = shape.mla() ? 0 : std::size_t{shape.n_kv_heads} * shape.d_v;
  const auto make = [&](QkvSource& source, bool together) {
    Rows rows{std::vector<float>(tokens * k_width), std::vector<float>(tokens * v_width), std::vector<float>(queries * shape.n_heads * shape.d_k)};
    if (together) {
      source.rows(shape, LayerId(1), experts, ranges, rows.k.data(), rows.v.data(), rows.q.data());
    } else {
      source.QkvSource::rows(shape, LayerId(1), experts, ranges, rows.k.data(), rows.v.data(), rows.q.data());
    }
    return rows;
  };
  const auto threads = make_qkv_generator(spec, shape, 3), one = make_qkv_generator(spec, shape, 1);
  const Rows together = make(*threads, true), apart = make(*one, false);
  EXPECT_TRUE(same_bits(together.k, 0, apart.k));
  EXPECT_TRUE(same_bits(together.v, 0, apart.v));
  EXPECT_TRUE(same_bits(together.q, 0, apart.q));
}

TEST_P(RandomAccess, QueriesDoNotNeedTheKeysMadeBefore) {
  const auto& [preset, shape] = GetParam();
  const GeneratorSpec spec{.preset = preset, .sequence_mix = 0.5, .seed = 11};
  constexpr std::uint32_t tokens = 200;
  const auto kept = make_qkv_generator(spec, shape), without = make_qkv_generator(spec, shape);
  const Rows both = make_rows(*kept, shape, 0, tokens, {});
  std::vector<float> alone(both.q.size());
  without->queries(LayerId(1), RequestId(7), 0, tokens, {}, alone.data());
  EXPECT_TRUE(same_bits(both.q, 0, alone));
  const Rows again = make_rows(*kept, shape, 0, tokens, {});  // keys from what is kept
  EXPECT_TRUE(same_bits(both.k, 0, again.k));
}

ModelShape window_shape() {
  ModelShape shape = gqa_shape(8, 2, 64);
  shape.layers[1] = {AttentionKind::window, 16, true, true};
  return shape;
}
INSTANTIATE_TEST_SUITE_P(Shapes, RandomAccess,
                         testing::Values(std::tuple{"A", gqa_shape(4, 2, 128)}, std::tuple{"C", gqa_shape(3, 1, 192)},
                                         std::tuple{"B", gqa_shape(14, 2, 32)}, std::tuple{"A", window_shape()}, std::tuple{"D", gqa_shape(4, 2, 6)},
                                         std::tuple{"A", gqa_shape(2, 1, 2)}, std::tuple{"E", mla_shape(4, 96, 32)},
                                         std::tuple{"C", mla_shape(3, 16, 0)}));

TEST(KeyRows, KeepsWhatIsInFlightAndDropsTheRequestIdleForLongest) {
  constexpr std::size_t width = 16;
  constexpr std::uint64_t block = 64 * width * sizeof(float);
  const auto kept = std::make_shared<KeptBytes>(5 * block);
  {
    KeyRows rows(4, width, kept, 3);
    rows.begin_call();
    rows.make_room(1, 0, 2, 0, 65);  // two blocks in each of two heads
    EXPECT_EQ(kept->used(), 4 * block);
    KeyRows::Block* first = KeyRows::find(rows.blocks(1, 0), 63);
    ASSERT_NE(first, nullptr);
    EXPECT_NE(KeyRows::find(rows.blocks(1, 1), 64), nullptr);
    EXPECT_EQ(KeyRows::find(rows.blocks(1, 1), 128), nullptr);
    EXPECT_EQ(KeyRows::find(rows.blocks(1, 2), 0), nullptr);
    EXPECT_FALSE(first->has(3, 1));
    first->complete(3, 2);
    EXPECT_TRUE(first->has(3, 2));
    EXPECT_FALSE(first->has(3, 3));
    first->complete(0, 64);
    EXPECT_TRUE(first->has(0, 64));

    rows.begin_call();
    rows.make_room(2, 3, 1, 100, 200);  // blocks 1, 2 and 3, and room for one
    EXPECT_EQ(kept->used(), 5 * block);
    EXPECT_NE(KeyRows::find(rows.blocks(2, 3), 127), nullptr);
    EXPECT_EQ(KeyRows::find(rows.blocks(2, 3), 128), nullptr);
    EXPECT_NE(KeyRows::find(rows.blocks(1, 0), 0), nullptr) << "asked for a call ago";
    rows.begin_call();
    rows.begin_call();
    rows.make_room(2, 3, 1, 128, 192);  // request 1 has been idle for three calls
    EXPECT_TRUE(rows.blocks(1, 0).empty());
    EXPECT_EQ(kept->used(), 2 * block);
    EXPECT_NE(KeyRows::find(rows.blocks(2, 3), 128), nullptr);
  }
  EXPECT_EQ(kept->used(), 0);
}

TEST(KeyRows, AsksForBytesOfOthersOnlyWhereNoRequestIsIdle) {
  constexpr std::size_t width = 16;
  constexpr std::uint64_t block = 64 * width * sizeof(float);
  const auto kept = std::make_shared<KeptBytes>(3 * block);
  ASSERT_TRUE(kept->take(block, KeptBytes::For::next_runs));  // something of a next run
  bool held = true;
  kept->release_by([&](KeptBytes::For purpose) {
    if (!held || purpose != KeptBytes::For::requests_in_flight) return false;
    kept->give_back(block);
    held = false;
    return true;
  });
  KeyRows rows(1, width, kept, 2);
  rows.begin_call();
  rows.make_room(1, 0, 1, 0, 128);
  rows.begin_call();
  rows.begin_call();
  rows.make_room(2, 0, 1, 0, 64);
  EXPECT_TRUE(held) << "request 1 was idle";
  EXPECT_TRUE(rows.blocks(1, 0).empty());
  rows.make_room(2, 0, 1, 64, 192);  // both in flight now
  EXPECT_FALSE(held);
  EXPECT_NE(KeyRows::find(rows.blocks(2, 0), 191), nullptr);
  EXPECT_EQ(kept->used(), 3 * block);
}

TEST(Generator, RowsEqualTheScalarArithmetic) {
  std::vector<float> row(4 * 37);
  draw_normal_row(5, Stream::query, 8, 9, 37, row.data());
  for (std::uint32_t i = 0; i < row.size(); ++i) ASSERT_EQ(row[i], generate::normal_component(5, Stream::query, 8, 9, 37, i)) << i;
  constexpr std::uint32_t rank = 37, columns = 80, rows = 7;
  std::vector<float> x(rows * rank), map(rank * columns), out(rows * columns);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = generate::normal_component(1, Stream::query, 0, static_cast<std::uint32_t>(i), 1, 0);
  for (std::size_t i = 0; i < map.size(); ++i) map[i] = generate::normal_component(2, Stream::query, 0, static_cast<std::uint32_t>(i), 1, 0);
  map_rows(x.data(), rank, rows, rank, map.data(), columns, out.data());
  for (std::uint32_t t = 0; t < rows; ++t) {
    for (std::uint32_t c = 0; c < columns; ++c) {
      float sum = 0;
      for (std::uint32_t i = 0; i < rank; ++i) {
        const float product = x[t * rank + i] * map[i * columns + c];
        sum += product;
      }
      ASSERT_EQ(out[t * columns + c], sum);
    }
  }
}

TEST(Generator, QueryRowsEqualTheScalarArithmetic) {
  constexpr std::uint32_t dim = 37;
  std::vector<float> noise(40), target(40), gain(40), expert(40), out(dim);
  draw_normal_row(1, Stream::query, 0, 0, 10, noise.data());
  draw_normal_row(1, Stream::query, 0, 1, 10, target.data());
  draw_normal_row(1, Stream::query, 0, 2, 10, expert.data());
  for (std::uint32_t c = 0; c < dim; ++c) gain[c] = exp_fixed(0.25F * noise[c]);
  for (const bool leans : {true, false}) {
    for (const bool routed : {true, false}) {
      query_row(noise.data(), leans ? target.data() : nullptr, gain.data(), routed ? expert.data() : nullptr, 0.7F, dim, out.data());
      for (std::uint32_t c = 0; c < dim; ++c)
        ASSERT_EQ(out[c], generate::query_value(leans, noise[c], leans ? target[c] : 0.0F, gain[c], routed ? expert[c] : 0.0F, 0.7F)) << c;
    }
  }
}

TEST(Generator, RaceKeysEqualTheScalarArithmetic) {
  for (const std::uint32_t n : {1U, 2U, 63U, 128U, 129U, 255U, 256U}) {
    std::vector<float> p(n), out(n + 1, -1.0F);
    for (std::uint32_t e = 0; e < n; ++e) p[e] = 0.5F + static_cast<float>(e % 7);
    const std::uint64_t key = hash_words(11, n);
    race_keys(key, p.data(), n, out.data());
    for (std::uint32_t e = 0; e < n; ++e) {
      const std::uint64_t word = mix64(key + (e & ~1U));
      const auto half = static_cast<std::uint32_t>(e % 2 == 0 ? word : word >> 32);
      ASSERT_EQ(out[e], p[e] / (1e-12F - log_fixed(uniform_open(half)))) << e << " of " << n;
    }
    EXPECT_EQ(out[n], -1.0F) << n;
  }
}

TEST(Generator, RopeFrequenciesMatchTheDefinition) {
  for (const double theta : {1e4, 5e5, 1e7}) {
    const auto turns = rope_turns(theta, 128);
    for (std::uint32_t i = 0; i < 64; ++i) EXPECT_NEAR(turns[i] * 2 * M_PI / std::pow(theta, -2.0 * i / 128), 1.0, 1e-12);
  }
  const CosSin angle = generate::rope_angle(1'000'003, 0.15915494309189535);
  EXPECT_NEAR(angle.cos, std::cos(1'000'003.0), 1e-6);
  EXPECT_NEAR(angle.sin, std::sin(1'000'003.0), 1e-6);
}

TEST(Generator, AffinityRaisesLogitsBetweenTokensOfOneExpert) {
  const ModelShape shape = gqa_shape(1, 1, 128);
  const auto source = make_qkv_generator({.expert_affinity = 0.5}, shape);
  std::vector<std::uint16_t> ids(512 * 2);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::uint16_t>(hash_words(1, i) % 16);
  const Rows rows = make_rows(*source, shape, 0, 512, ids);
  double same = 0, other = 0, n_same = 0, n_other = 0;
  for (std::size_t t = 256; t < 512; ++t) {
    for (std::size_t s = 4; s < t; ++s) {
      double logit = 0;
      for (std::size_t c = 0; c < 128; ++c) logit += static_cast<double>(rows.q[t * 128 + c]) * rows.k[s * 128 + c] / std::sqrt(128.0);
      const bool meet = ids[2 * t] == ids[2 * s] || ids[2 * t] == ids[2 * s + 1] || ids[2 * t + 1] == ids[2 * s] || ids[2 * t + 1] == ids[2 * s + 1];
      (meet ? same : other) += logit;
      (meet ? n_same : n_other) += 1;
    }
  }
  EXPECT_GT(same / n_same, other / n_other + 0.2);
}

TEST(Generator, RefusesBadSpecifications) {
  EXPECT_THROW((void)make_qkv_generator({.preset = "Z"}, gqa_shape(1, 1, 64)), UserError);
  EXPECT_THROW((void)make_qkv_generator({.preset = "E"}, gqa_shape(1, 1, 64)), UserError);
  EXPECT_THROW((void)make_qkv_generator({.sequence_mix = 1.5}, gqa_shape(1, 1, 64)), UserError);
  EXPECT_THROW((void)make_qkv_generator({}, gqa_shape(1, 1, 63)), UserError);
}

}  // namespace
}  // namespace moekv
