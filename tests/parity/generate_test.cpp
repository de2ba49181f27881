// Rows of q, k and v that a device makes: those of the host's generator bit for bit, for every preset and shape that it leaves to a device.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/math.hpp"
#include "support/emulated_device.hpp"
#include "support/qkv_shapes.hpp"
#include "trace/qkv.hpp"

namespace moekv::test {
namespace {

struct QkvRows {
  std::vector<float> k, v, q;
};

QkvRows room_for(const ModelShape& shape, std::size_t n_tokens, std::size_t n_queries) {
  return {std::vector<float>(n_tokens * shape.n_kv_heads * shape.d_k, NAN),
          std::vector<float>(shape.mla() ? 0 : n_tokens * shape.n_kv_heads * shape.d_v, NAN),
          std::vector<float>(n_queries * shape.n_heads * shape.d_k, NAN)};
}

class GeneratedRows : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    device_ = make_test_backend(GetParam(), 1);
    if (device_ == nullptr) GTEST_SKIP() << "no device for backend " << GetParam();
  }

  /// Both make the rows of some requests at a layer.
  void expect_same(const GeneratorSpec& spec, const ModelShape& shape, std::uint16_t layer) {
    const std::vector<generate::RowRange> ranges{
        {3, 0, 70, 10, 0, 0}, {9, 126, 131, 126, 70, 60}, {4, 500, 501, 501, 75, 65}, {5, 777, 778, 777, 76, 65}};
    constexpr std::size_t n_tokens = 77, n_queries = 66;
    const auto source = make_qkv_generator(spec, shape), oracle = make_qkv_generator(spec, shape);
    QkvRows made = room_for(shape, n_tokens, n_queries), expected = made;
    RowList list;
    ASSERT_TRUE(source->list_rows(LayerId(layer), {}, list));
    const GenerateBatch batch{list.planes,
                              list.rows,
                              ranges,
                              list.turns,
                              {shape.n_kv_heads * shape.d_k, shape.mla() ? 0 : shape.n_kv_heads * shape.d_v, shape.n_heads * shape.d_k},
                              {made.k.data(), made.v.data(), made.q.data()}};
    for (int repeat = 0; repeat < 2; ++repeat) {  // the second time maps are there
      ASSERT_TRUE(device_->generate(batch));
      device_->sync();
    }
    for (const generate::RowRange& r : ranges) {
      oracle->keys_values(LayerId(layer), RequestId(r.request), r.begin, r.end, {}, &expected.k[r.first_token * shape.n_kv_heads * shape.d_k],
                          shape.mla() ? nullptr : &expected.v[r.first_token * shape.n_kv_heads * shape.d_v]);
      if (r.query_begin < r.end)
        oracle->queries(LayerId(layer), RequestId(r.request), r.query_begin, r.end, {}, &expected.q[r.first_query * shape.n_heads * shape.d_k]);
    }
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      for (std::size_t i = 0; i < a.size(); ++i) {
        if (bits_of(a[i]) != bits_of(b[i])) return ::testing::AssertionFailure() << "value " << i << ": " << a[i] << ", not " << b[i];
      }
      return ::testing::AssertionSuccess();
    };
    EXPECT_TRUE(same(made.k, expected.k));
    EXPECT_TRUE(same(made.v, expected.v));
    EXPECT_TRUE(same(made.q, expected.q));
  }

  std::unique_ptr<Backend> device_;
};

TEST_P(GeneratedRows, AreTheHostsForEveryPreset) {
  for (const char* preset : {"A", "B", "C"}) expect_same({.preset = preset, .seed = 11}, gqa_shape(6, 2, 128), 1);
}

TEST_P(GeneratedRows, AreTheHostsForEveryShape) {
  ModelShape windows = gqa_shape(8, 2, 64);
  windows.layers[1] = {AttentionKind::window, 16, true, true};  // learned sinks: no sink tokens
  windows.layers[0] = {AttentionKind::window, 1, false, true};  // queries lean nowhere
  expect_same({.seed = 3}, windows, 1);
  expect_same({.seed = 3}, windows, 0);
  ModelShape odd = gqa_shape(21, 7, 46);
  odd.d_v = 33;
  expect_same({.seed = 5}, odd, 0);
  expect_same({.preset = "E", .seed = 7}, mla_shape(4, 96, 32), 1);
  expect_same({.preset = "C", .seed = 7}, mla_shape(12, 30, 0), 0);
}

/// A generator may lie where an earlier one lay, and an equal one elsewhere.
TEST_P(GeneratedRows, MapsAreKnownByWhatTheyHold) {
  const ModelShape shape = gqa_shape(6, 2, 64);
  const generate::RowRange range{3, 0, 70, 10, 0, 0};
  std::vector<std::vector<float>> arrays;  // the same for every generator
  const auto keys = [&](const GeneratorSpec& spec, bool same_place) {
    const auto source = make_qkv_generator(spec, shape), oracle = make_qkv_generator(spec, shape);
    RowList list;
    EXPECT_TRUE(source->list_rows(LayerId(1), {}, list));
    arrays.resize(4 * list.planes.size());
    for (std::size_t p = 0; same_place && p < list.planes.size(); ++p) {
      generate::PlaneView& plane = list.planes[p];
      const auto move = [&](std::size_t i, const float*& from, std::size_t n) {
        std::vector<float>& to = arrays[4 * p + i];
        to.resize(n);
        std::copy_n(from, n, to.begin());
        from = to.data();
      };
      move(0, plane.weights, std::size_t{plane.rank} * plane.n_columns);
      move(1, plane.deviation, plane.rank);
      move(2, plane.gain, plane.dim);
      move(3, plane.offset, plane.dim);
    }
    QkvRows made = room_for(shape, 70, 60), expected = made;
    EXPECT_TRUE(device_->generate({list.planes, list.rows, {&range, 1}, list.turns, {128, 128, 384}, {made.k.data(), made.v.data(), made.q.data()}}));
    device_->sync();
    oracle->keys_values(LayerId(1), RequestId(3), 0, 70, {}, expected.k.data(), expected.v.data());
    EXPECT_TRUE(made.k == expected.k && made.v == expected.v) << spec.preset << spec.seed;
    return device_->memory().scratch_bytes;
  };
  for (const bool same_place : {true, false}) {
    keys({.preset = "A", .seed = 11}, same_place);
    keys({.preset = "B", .seed = 11}, same_place);
    keys({.preset = "B", .seed = 12}, same_place);
  }
  const std::int64_t before = keys({.preset = "A", .seed = 11}, false);
  EXPECT_EQ(keys({.preset = "B", .seed = 11}, true), before) << "equal maps are brought once";
  device_->release_pools();
  EXPECT_LT(device_->memory().scratch_bytes, before);
}

TEST_P(GeneratedRows, WhatOnlyTheHostMakesIsLeftToIt) {
  RowList list;
  const std::vector<std::uint16_t> experts{1, 2};
  EXPECT_FALSE(make_qkv_generator({.preset = "D"}, gqa_shape(2, 1, 32))->list_rows(LayerId(0), {}, list));
  EXPECT_FALSE(make_qkv_generator({.sequence_mix = 0.5}, gqa_shape(2, 1, 32))->list_rows(LayerId(0), {}, list));
  const auto affine = make_qkv_generator({.expert_affinity = 0.5}, gqa_shape(2, 1, 32));
  EXPECT_FALSE(affine->list_rows(LayerId(0), {experts.data(), 2}, list));
  ASSERT_TRUE(affine->list_rows(LayerId(0), {}, list));
  const generate::RowRange one{0, 5, 6, 5, 0, 0};
  EXPECT_FALSE(device_->generate({list.planes, list.rows, {&one, 1}, list.turns, {32, 32, 64}, {}})) << "a few rows are not worth a trip";
}

INSTANTIATE_TEST_SUITE_P(Backends, GeneratedRows, ::testing::Values("emulated", "cuda"), [](const auto& param) { return param.param; });

}  // namespace
}  // namespace moekv::test
