// The statistics of three recorded traces against values made by an independent script (traces/stats.json of the shared data folder).
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "io/npz.hpp"
#include "support/array_trace.hpp"
#include "trace/stats.hpp"

namespace moekv {
namespace {

std::filesystem::path traces_folder() {
  const char* shared = std::getenv("MOEKV_SHARED");
  return (shared != nullptr ? std::filesystem::path(shared) : std::filesystem::path(MOEKV_SOURCE_DIR) / ".." / "shared") / "traces";
}

test::ArrayTrace load(const std::filesystem::path& path, std::uint32_t n_experts) {
  NpyArrays arrays = open_arrays(path.string());
  const auto shape = arrays.at("ids").shape();
  std::vector<std::int64_t> ids, lengths;
  std::vector<float> weights;
  arrays.at("ids").read_ints(0, 0, shape.at(0), ids);
  arrays.at("seq_lens").read_ints(0, 0, arrays.at("seq_lens").shape().at(0), lengths);
  arrays.at("weights").read_floats(0, 0, shape.at(0), weights);
  return {n_experts,
          static_cast<std::uint32_t>(shape.at(2)),
          static_cast<std::uint32_t>(shape.at(1)),
          {lengths.begin(), lengths.end()},
          {ids.begin(), ids.end()},
          weights};
}

/// The script's names that differ from the fields' names.
std::string field_of(const std::string& key) {
  const std::map<std::string, std::string> renamed = {{"lru_hit_E/4", "lru_hit_quarter"}, {"lru_hit_E/2", "lru_hit_half"}};
  const auto at = renamed.find(key);
  return at != renamed.end() ? at->second : key;
}

void expect_equal(const LayerStats& layer, const nlohmann::json& expected, const std::string& where) {
  std::size_t compared = 0;
  for (const auto& item : expected.items()) {
    for_each_field(LayerStats::fields, [&](const auto& field) {
      if (field.name != field_of(item.key())) return;
      ++compared;
      EXPECT_NEAR(layer.*field.member, item.value().template get<double>(), 0.005) << where << " " << item.key();
    });
  }
  EXPECT_EQ(compared, expected.size()) << where;
}

class RecordedTrace : public ::testing::TestWithParam<const char*> {};

TEST_P(RecordedTrace, EqualsTheIndependentScript) {
  const auto folder = traces_folder();
  if (!std::filesystem::exists(folder / "stats.json"))
    GTEST_SKIP() << "no " << folder / "stats.json"
                 << "; set MOEKV_SHARED to the shared data folder";
  const nlohmann::json expected = nlohmann::json::parse(std::ifstream(folder / "stats.json")).at(GetParam());
  test::ArrayTrace trace = load(folder / "routing" / (std::string(GetParam()) + ".npz"), expected.at("experts"));
  const TraceStats s = compute_stats(trace);
  EXPECT_EQ(s.n_tokens, expected.at("tokens").get<std::uint64_t>());
  EXPECT_EQ(s.n_requests, expected.at("sequences").get<std::uint32_t>());
  ASSERT_EQ(s.layers.size(), expected.at("per_layer").size());
  for (std::size_t l = 0; l < s.layers.size(); ++l) expect_equal(s.layers[l], expected.at("per_layer")[l], "layer " + std::to_string(l));
  expect_equal(s.median, expected.at("median_over_layers"), "median");
}

/// Published medians over layers of the decode trace (min, median, max where given), by definitions of this project.
TEST(RecordedTraceValues, GptOssMediansAsPublished) {
  const auto path = traces_folder() / "routing" / "gptoss20b_fingerprint_72seq.npz";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << path << "; set MOEKV_SHARED to the shared data folder";
  test::ArrayTrace trace = load(path, 32);
  const LayerStats m = compute_stats(trace).median;
  EXPECT_NEAR(m.zipf, .94, .005);
  EXPECT_NEAR(m.zipf_head, .33, .005);
  EXPECT_NEAR(m.reuse_lag_2, .376, .001);
  EXPECT_NEAR(m.reuse_lag_8, .327, .001);
  EXPECT_NEAR(m.reuse_lag_128, .299, .001);
  EXPECT_NEAR(m.reuse_popularity, .182, .001);
  EXPECT_NEAR(m.reuse_sequence, .303, .001);
  EXPECT_NEAR(m.top1_repeat, .238, .001);
  EXPECT_NEAR(m.top1_independent, .065, .001);
  EXPECT_NEAR(m.run_tokens, 1.76, .005);
  EXPECT_NEAR(m.distinct_8, .40, .005);
  EXPECT_NEAR(m.distinct_128, .75, .005);
  EXPECT_NEAR(m.srp_16, .548, .01);
  EXPECT_NEAR(m.next_recall, .594, .012);
  EXPECT_NEAR(m.top1_information, .35, .005);
  EXPECT_NEAR(m.js_sequence, .14, .005);
  EXPECT_NEAR(m.fano_32, 7.2, .1);
  EXPECT_NEAR(m.lift_p99, 5.6, .15);
  const double by_rank[] = {.52, .48, .42, .34}, weight[] = {.35, .26, .21, .17};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(m.reuse_by_rank.at(i), by_rank[i], .015);
    EXPECT_NEAR(m.weight_by_rank.at(i), weight[i], .01);
  }
}

INSTANTIATE_TEST_SUITE_P(Shared, RecordedTrace, ::testing::Values("dsv2lite_esft_law", "dsv2lite_esft_summary", "gptoss20b_fingerprint_72seq"),
                         [](const auto& file) { return std::string(file.param); });

}  // namespace
}  // namespace moekv
