// Tables that a run fits to calibration sequences before it starts: divisors of rotary partners.
#include "engine/codec_tables.hpp"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "rules/codec/element.hpp"
#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

/// Divisors of K of the first layer and head under map diag.
std::vector<float> offline_divisors(const ModelShape& model) {
  RunSpec spec = testing::small_spec(model);
  spec.compression.k = spec.compression.v = codec::Parts{.map = codec::PartMap::diag, .table = codec::PartTable::offline};
  const testing::RandomTrace trace(spec.model, testing::default_requests(), 3);
  const Geometry geometry(spec, trace.info(), spec.cluster.ranks);
  const std::vector<std::byte> table = CodecTables(geometry).of(0, 0, 1, 0);
  std::vector<float> out;
  for (std::uint32_t i = 0; i < model.d_k; ++i) out.push_back(float_from_fp16(load_u16(&table[2 * std::size_t{i}])));
  return out;
}

/// How many channels from `first` on are equal to the one half of the rest further on, and how many such pairs there are.
std::pair<std::size_t, std::size_t> equal_partners(const std::vector<float>& x, std::size_t first) {
  const std::size_t half = (x.size() - first) / 2;
  std::size_t equal = 0;
  for (std::size_t i = first; i < first + half; ++i) equal += x[i] == x[i + half] ? 1U : 0U;
  return {equal, half};
}

TEST(CodecTables, SmoothRotaryPartnersAlike) {
  const auto [equal, pairs] = equal_partners(offline_divisors(testing::gqa_model()), 0);
  EXPECT_EQ(equal, pairs);
}

TEST(CodecTables, SmoothTheLatentOfMlaByChannel) {
  const ModelShape model = testing::mla_model();
  const std::vector<float> all = offline_divisors(model);
  const auto [rotated, pairs] = equal_partners(all, model.d_v);
  EXPECT_EQ(rotated, pairs);
  EXPECT_LT(equal_partners(all, 0).first, model.d_k / 4);
}

}  // namespace
}  // namespace moekv
