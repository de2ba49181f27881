// Importers on real recordings, compared with arrays that another program made of them; skipped where the recordings are absent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.hpp"
#include "io/npz.hpp"
#include "support/recording_target.hpp"
#include "support/shared_data.hpp"
#include "trace/importers.hpp"

namespace moekv {
namespace {

using moekv::testing::RecordingTarget;
using ::testing::HasSubstr;

ImportOptions options_for(const std::string& path, std::uint32_t n_experts = 0, std::uint32_t top_k = 0) {
  ImportOptions options;
  options.inputs = {path};
  options.n_experts = n_experts;
  options.top_k = top_k;
  return options;
}

/// All of an array of an npz as integers or floats.
template <class T>
std::vector<T> array_of(const std::string& path, const std::string& name) {
  auto arrays = open_arrays(path);
  NpyArray& array = arrays.at(name);
  if constexpr (std::is_same_v<T, float>) {
    std::vector<float> values;
    array.read_floats(0, 0, array.shape()[0], values);
    return values;
  } else {
    std::vector<std::int64_t> values;
    array.read_ints(0, 0, array.shape()[0], values);
    return {values.begin(), values.end()};
  }
}

/// One field of all requests in a row.
template <class T>
std::vector<T> all(const RecordingTarget& target, std::vector<T> testing::RecordedRequest::*field) {
  std::vector<T> values;
  for (const auto& r : target.requests) values.insert(values.end(), (r.*field).begin(), (r.*field).end());
  return values;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, static_cast<double>(std::abs(a[i] - b[i])));
  return largest;
}

TEST(ImportReal, EsftArchiveEqualsItsArrays) {
  const std::string raw = shared_file("traces/routing/dsv2lite_esft_law_raw.tar.gz"), npz = shared_file("traces/routing/dsv2lite_esft_law.npz");
  if (!std::filesystem::exists(raw)) GTEST_SKIP() << "needs " << raw << " (set MOEKV_SHARED)";
  RecordingTarget target;
  const ImportReport report = import_into(options_for(raw, 64, 6), target);
  EXPECT_EQ(report.tokens, 8327U);
  EXPECT_EQ(report.requests, 33U);
  EXPECT_EQ(target.spec.weight_kind, WeightKind::raw_softmax);
  EXPECT_EQ(target.spec.info.moe_layers.front(), 1);
  EXPECT_EQ(target.spec.info.moe_layers.back(), 26);
  EXPECT_EQ(all(target, &testing::RecordedRequest::ids), array_of<std::uint16_t>(npz, "ids"));
  EXPECT_LT(largest_difference(all(target, &testing::RecordedRequest::weights), array_of<float>(npz, "weights")), 5e-4);
  const auto lengths = array_of<std::int64_t>(npz, "seq_lens");
  for (std::size_t s = 0; s < lengths.size(); ++s) EXPECT_EQ(target.requests[s].n_tokens, lengths[s]);
  for (const auto& w : report.warnings) EXPECT_THAT(w, HasSubstr("count as prompt"));
}

TEST(ImportReal, ArraysOfTheSharedTracesImport) {
  for (const char* name : {"dsv2lite_esft_law", "dsv2lite_esft_summary", "gptoss20b_fingerprint_72seq"}) {
    const std::string npz = shared_file(std::string("traces/routing/") + name + ".npz");
    if (!std::filesystem::exists(npz)) GTEST_SKIP() << "needs " << npz << " (set MOEKV_SHARED)";
    RecordingTarget target;
    import_into(options_for(npz, name[0] == 'g' ? 32 : 64), target);
    EXPECT_EQ(all(target, &testing::RecordedRequest::ids), array_of<std::uint16_t>(npz, "ids"));
    EXPECT_EQ(all(target, &testing::RecordedRequest::weights), array_of<float>(npz, "weights"));
    if (name[0] != 'g') continue;
    EXPECT_EQ(target.requests[0].info.prompt_tokens, 0U);
    EXPECT_EQ(target.domains.size(), 50U);
  }
}

TEST(ImportReal, GptOssSampleHasItsTokens) {
  const std::string chemistry = shared_file("traces/routing/gptoss20b_raw_sample_gpqa_chemistry.json.gz");
  if (!std::filesystem::exists(chemistry)) GTEST_SKIP() << "needs " << chemistry << " (set MOEKV_SHARED)";
  auto options = options_for(chemistry, 32);
  options.inputs.push_back(shared_file("traces/routing/gptoss20b_raw_sample_mmlu_security.json.gz"));
  RecordingTarget target;
  import_into(options, target);
  ASSERT_EQ(target.requests.size(), 2U);
  EXPECT_EQ(target.requests[0].info.output_tokens, 357U);
  EXPECT_EQ(target.requests[1].info.output_tokens, 511U);
  EXPECT_EQ(target.spec.info.moe_layers.size(), 24U);
  EXPECT_EQ(target.spec.weight_kind, WeightKind::renorm);
  EXPECT_EQ(std::vector<std::uint16_t>(target.requests[1].ids.begin(), target.requests[1].ids.begin() + 4),
            (std::vector<std::uint16_t>{31, 21, 22, 6}));
  EXPECT_THAT(target.log_text(), HasSubstr("decode tokens 178 to 534 become positions 0 to 356"));
}

TEST(ImportReal, TinymoeFormatsAgree) {
  const std::string npz = shared_file("traces/tinymoe/trace.npz");
  if (!std::filesystem::exists(npz)) GTEST_SKIP() << "needs " << npz << " (set MOEKV_SHARED)";
  const auto ids = array_of<std::uint16_t>(npz, "ids");
  const auto weights = array_of<float>(npz, "weights"), logits = array_of<float>(npz, "logits");
  RecordingTarget target;
  import_into(options_for(npz), target);
  EXPECT_EQ(target.spec.info.level, RoutingLevel::logits);
  EXPECT_EQ(target.spec.info.n_experts, 8U);
  EXPECT_EQ(target.spec.info.shape.n_kv_heads, 2U);
  EXPECT_EQ(target.spec.info.kv_layers.size(), 4U);
  EXPECT_EQ(target.requests.size(), 8U);
  EXPECT_EQ(all(target, &testing::RecordedRequest::ids), ids);
  EXPECT_EQ(all(target, &testing::RecordedRequest::logits), logits);
  EXPECT_EQ(all(target, &testing::RecordedRequest::q), array_of<float>(npz, "q"));
  EXPECT_EQ(all(target, &testing::RecordedRequest::v), array_of<float>(npz, "v"));
  EXPECT_EQ(all(target, &testing::RecordedRequest::token_ids), array_of<std::int32_t>(npz, "token_ids"));

  RecordingTarget log;  // layer 1 of the first two sequences
  import_into(options_for(shared_file("traces/tinymoe/vllm_style_layer1.jsonl.gz"), 8), log);
  std::vector<std::uint16_t> expected;
  std::vector<float> expected_weights;
  for (std::size_t t = 0; t < 1024; ++t) {
    for (std::size_t j = 0; j < 2; ++j) {
      expected.push_back(ids[(t * 4 + 1) * 2 + j]);
      expected_weights.push_back(weights[(t * 4 + 1) * 2 + j]);
    }
  }
  EXPECT_EQ(log.requests.size(), 2U);
  EXPECT_EQ(all(log, &testing::RecordedRequest::ids), expected);
  EXPECT_LT(largest_difference(all(log, &testing::RecordedRequest::weights), expected_weights), 1e-3);

  RecordingTarget megatron;  // the first sequence, all layers
  import_into(options_for(shared_file("traces/tinymoe/megatron_router_trace_rank0.jsonl")), megatron);
  EXPECT_EQ(all(megatron, &testing::RecordedRequest::ids), std::vector<std::uint16_t>(ids.begin(), ids.begin() + 512L * 4 * 2));
  EXPECT_LT(largest_difference(all(megatron, &testing::RecordedRequest::logits), std::vector<float>(logits.begin(), logits.begin() + 512L * 4 * 8)),
            0.04);
  EXPECT_LT(largest_difference(all(megatron, &testing::RecordedRequest::weights), std::vector<float>(weights.begin(), weights.begin() + 512L * 4 * 2)),
            0.02);
}

TEST(ImportReal, RequestTracesHaveTheirCounts) {
  const std::string azure = shared_file("traces/requests/AzureLLMInferenceTrace_conv.csv");
  if (!std::filesystem::exists(azure)) GTEST_SKIP() << "needs " << azure << " (set MOEKV_SHARED)";
  RecordingTarget target;
  EXPECT_EQ(import_into(options_for(azure), target).requests, 19366U);
  double sum = 0;
  for (const auto& r : target.requests) sum += r.info.prompt_tokens;
  EXPECT_NEAR(sum / 19366, 1155, 1);
  target = {};
  EXPECT_EQ(import_into(options_for(shared_file("traces/requests/mooncake_conversation_trace.jsonl.gz")), target).requests, 12031U);
  EXPECT_EQ(target.requests[1].hash_ids.size(), 15U);
  target = {};
  EXPECT_EQ(import_into(options_for(shared_file("traces/requests/sharegpt_qwen3_30b_a3b_300_lengths.csv")), target).requests, 300U);
  target = {};
  EXPECT_EQ(import_into(options_for(shared_file("traces/requests/burstgpt_schema_sample_3rows.csv")), target).requests, 3U);
}

}  // namespace
}  // namespace moekv
