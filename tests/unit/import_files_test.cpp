// Importers of ESFT text, gpt-oss JSON, dense CSV and NumPy arrays on tiny inputs, good and malformed.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "support/import_fixture.hpp"

namespace moekv {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace moekv::testing;  // NOLINT(google-build-using-namespace)

// --- ESFT

TEST_F(ImportRouting, EsftFolderAndArchiveAreEqual) {
  const std::string layer1 = "3\t1\t2\t0\t\t0.2\t0.3\t0.1\t0.15\n5\t6\t\t0.0\t0.2\n", layer2 = "0\t1\t7\t6\t\t0.1\t0.1\t0.2\t0.2\n4\t3\t\t0.3\t0.1\n";
  std::filesystem::create_directory(dir_.file("task"));
  write_bytes(dir_.file("task/expert_weights_2.txt"), layer2);
  write_bytes(dir_.file("task/expert_weights_1.txt"), layer1);
  const Ids first{3, 1, 0, 1, 2, 0, 7, 6}, second{5, 6, 4, 3};
  for (const std::string& path :
       {dir_.file("task"),
        file("t.tar.gz",
             gzipped(tarred({{"task/expert_weights_2.txt", layer2}, {"task/summary.json", "{}"}, {"task/expert_weights_1.txt", layer1}})))}) {
    run(input(path, 8, 2));
    EXPECT_EQ(report.format, "esft");
    ASSERT_EQ(target.requests.size(), 2U);
    EXPECT_THAT(target.spec.info.moe_layers, ElementsAre(1, 2));
    EXPECT_EQ(target.spec.weight_kind, WeightKind::raw_softmax);
    EXPECT_EQ(target.requests[0].ids, first);
    EXPECT_EQ(target.requests[1].ids, second);
    EXPECT_EQ(target.requests[1].weights, (std::vector<float>{0.0F, 0.2F, 0.3F, 0.1F}));
    EXPECT_THAT(target.domains, ElementsAre("task"));
    EXPECT_THAT(warnings(), HasSubstr("all count as prompt"));
    EXPECT_THAT(target.log_text(), HasSubstr("slots are not sorted by weight"));
  }
}

TEST_F(ImportRouting, MalformedEsftNamesTheLine) {
  const auto problem = [&](const std::string& layer1, const std::string& layer2) {
    return failure(input(file("t.tar", tarred({{"t/expert_weights_1.txt", layer1}, {"t/expert_weights_2.txt", layer2}})), 8, 2));
  };
  const std::string good = "1\t2\t\t0.5\t0.1\n";
  EXPECT_THAT(problem(good, "1 2 0.5 0.1\n"), HasSubstr("t/expert_weights_2.txt:1: error: no two tabs"));
  EXPECT_THAT(problem(good, "1\tx\t\t0.5\t0.1\n"), HasSubstr("expert_weights_2.txt:1: error: 'x' is not an expert id"));
  EXPECT_THAT(problem(good, "1\t2\t\t0.5\n"), HasSubstr("2 ids but 1 weights"));
  EXPECT_THAT(problem(good, "1\t2\t3\t\t0.5\t0.1\t0.1\n"), HasSubstr("3 ids are no multiple of top_k = 2"));
  EXPECT_THAT(problem(good, "1\t2\t3\t4\t\t0.5\t0.1\t0.1\t0.1\n"), HasSubstr("expert_weights_2.txt:1: error: 2 tokens, but 1 in"));
  EXPECT_THAT(problem(good + good, good), HasSubstr("some layers have fewer samples"));
}

// --- gpt-oss

std::string oss(const std::string& tokens, const std::string& more = "") {
  return std::string(R"({"dataset": "d", "category": "c", "full_text": ["", ""], "generated_only": ["", "", ""], )") + more + R"("router_data": [)" +
         tokens + "]}";
}
std::string oss_token(int n, const std::string& ids, const std::string& probs = "0.6, 0.4") {
  return std::string(R"({"token_)") + std::to_string(n) + R"(": {"layer_0": {"selected_experts": [)" + ids + R"(], "selected_probs": [)" + probs +
         R"(]}, "layer_10": {"selected_experts": [7, 6], "selected_probs": [0.7, 0.3]}}})";
}

TEST_F(ImportRouting, GptOssDecodeTokensBecomeOutput) {
  const std::string record = oss(oss_token(9, "1, 2") + "," + oss_token(10, "3, 4"));
  for (const std::string& text : {record, fmt::format("[{}]", record), fmt::format("{0}\n{0}", record)}) {
    run(input(file("x.json", text), 8));
    EXPECT_EQ(report.format, "gptoss-json");
    ASSERT_GE(target.requests.size(), 1U);
    EXPECT_EQ(target.requests.back().info.prompt_tokens, 0U);
    EXPECT_EQ(target.requests.back().info.output_tokens, 2U);
    EXPECT_EQ(target.requests.back().ids, (Ids{1, 2, 7, 6, 3, 4, 7, 6}));
    EXPECT_THAT(target.spec.info.moe_layers, ElementsAre(0, 10));
    EXPECT_THAT(target.domains, ElementsAre("d/c"));
    EXPECT_THAT(target.log_text(), HasSubstr("decode tokens 9 to 10 become positions 0 to 1"));
    EXPECT_THAT(target.log_text(), HasSubstr("the last generated token has no row"));
  }
  EXPECT_EQ(target.requests.size(), 2U);
}

TEST_F(ImportRouting, MalformedGptOssNamesRecordAndToken) {
  const auto problem = [&](const std::string& text) { return failure(input(file("x.json", text), 8)); };
  EXPECT_THAT(problem(oss(oss_token(9, "1, 2")).substr(0, 150)), HasSubstr("x.json: error: not valid JSON at byte"));
  EXPECT_THAT(problem(oss(oss_token(9, "1, 2, 3"))), HasSubstr("record 1, token_9: error: layer_0: 3 experts and 2 probabilities"));
  EXPECT_THAT(problem(oss(oss_token(3, "1, 2") + "," + oss_token(4, "1"))), HasSubstr("record 1, token_4: error: layer_0: 1 experts"));
  EXPECT_THAT(problem(oss(oss_token(3, "1, -2"))), HasSubstr("token_3: error: layer_0: -2 is not an expert id"));
  EXPECT_THAT(problem(oss("")), HasSubstr("record 1: error: no router_data"));
}

// --- dense CSV

TEST_F(ImportRouting, DenseCsvOfChosenScoresPerLayerFile) {
  const std::string header = "layer_id,token_id,expert_0,expert_1,expert_2,expert_3\n";
  ImportOptions options = input(file("x_layer10_a.csv", header + "0,0,0.000000,0.2,0.000000,0.3\n0,1,0.1,0.0,0.4,0.0\n"), 0, 2);
  options.inputs.push_back(file("x_layer11_a.csv", header + "0,0,0.3,0.1,0.0,0.0\n0,1,0.0,0.0,0.0,0.5\n"));
  run(options);
  EXPECT_EQ(report.format, "dense-csv");
  EXPECT_THAT(target.spec.info.moe_layers, ElementsAre(10, 11));
  EXPECT_EQ(target.spec.info.n_experts, 4U);
  EXPECT_EQ(target.requests.at(0).ids, (Ids{3, 1, 0, 1, 2, 0, 3, absent}));
  EXPECT_EQ(target.requests.at(0).weights, (std::vector<float>{0.3F, 0.2F, 0.3F, 0.1F, 0.4F, 0.1F, 0.5F, 0.0F}));
  EXPECT_THAT(warnings(), HasSubstr("1 rows have fewer than 2 scores above 0"));
}

TEST_F(ImportRouting, DenseCsvOfAllScoresKeepsLogits) {
  const std::string header = "layer,token,expert_0,expert_1,expert_2\n";
  run(input(file("l.csv", header + "4,0,1.0,-2.0,0.5\n"), 0, 1));
  EXPECT_EQ(target.spec.info.level, RoutingLevel::logits);
  EXPECT_EQ(target.requests.at(0).ids, (Ids{0}));
  EXPECT_EQ(target.requests.at(0).logits, (std::vector<float>{1.0F, -2.0F, 0.5F}));
  run(input(file("p.csv", header + "4,0,0.2,0.5,0.3\n"), 0, 2));
  EXPECT_EQ(target.requests.at(0).ids, (Ids{1, 2}));
  EXPECT_NEAR(target.requests.at(0).weights.at(0), 0.5F, 1e-6F);
  EXPECT_NEAR(target.requests.at(0).logits.at(0), std::log(0.2F), 1e-6F);
}

TEST_F(ImportRouting, MalformedDenseCsvNamesTheLine) {
  const std::string header = "layer,token,expert_0,expert_1,expert_2\n";
  EXPECT_THAT(failure(input(file("l.csv", header + "4,0,1.0,x,0.5\n"), 0, 1)), HasSubstr("l.csv:2: error: column 'expert_1': 'x' is not a number"));
  EXPECT_THAT(failure(input(file("l.csv", header + "4,0,1.0\n"), 0, 1)), HasSubstr("l.csv:2: error: 3 fields, the header has 5"));
  EXPECT_THAT(failure(input(file("l.csv", "layer,token,expert_0,expert_2\n1,1,1,1\n"), 0, 1)),
              HasSubstr("l.csv:1: error: column 'expert_2' is out of order"));
  EXPECT_THAT(failure(input(file("l.csv", header), 0, 1)), HasSubstr("no rows"));
}

// --- NumPy

TEST_F(ImportRouting, NumpyLayoutsAreEqual) {
  // tokens 3, layers 2, top_k 2
  const Ids tlk{0, 1, 2, 3, 4, 5, 6, 7, 1, 0, 3, 2}, ltk{0, 1, 4, 5, 1, 0, 2, 3, 6, 7, 3, 2};
  std::vector<float> weights;
  for (int i = 0; i < 12; ++i) weights.push_back(static_cast<float>(i + 1) / 32.0F);
  const std::string lens = npy("<i4", "(2,)", raw_bytes<std::int32_t>({2, 1}));
  const auto arrays = [&](const Ids& ids, const std::string& shape) { return npy("<u2", shape, raw_bytes(ids)); };
  run(input(file("a.npz", zipped({{"ids.npy", arrays(tlk, "(3, 2, 2)")},
                                  {"weights.npy", npy("<f4", "(3, 2, 2)", raw_bytes(weights))},
                                  {"seq_lens.npy", lens},
                                  {"extra.npy", lens}},
                                 ZipMethod::deflated)),
            8));
  const RecordingTarget first = target;
  ASSERT_EQ(first.requests.size(), 2U);
  EXPECT_EQ(first.requests[0].ids, (Ids{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(first.requests[1].weights, (std::vector<float>(weights.begin() + 8, weights.end())));
  EXPECT_THAT(target.log_text(), HasSubstr("members not imported: extra"));
  run(input(file("b.npz", zipped({{"ids.npy", arrays(ltk, "(2, 3, 2)")}, {"seq_lens.npy", lens}}, ZipMethod::stored)), 8));
  EXPECT_EQ(target.requests.at(0).ids, first.requests[0].ids);
  EXPECT_EQ(target.requests.at(1).ids, first.requests[1].ids);
  auto options = input(file("ids.npy", arrays(ltk, "(2, 3, 2)")), 8);
  options.layout = "ltk";
  run(options);
  ASSERT_EQ(target.requests.size(), 1U);
  EXPECT_EQ(target.requests[0].ids, tlk);
}

TEST_F(ImportRouting, NumpySentinelsAndMissingLastToken) {
  const std::string ids = npy("|u1", "(3, 1, 2)", raw_bytes<std::uint8_t>({0, 1, 2, 255, 3, 4}));
  run(input(file("a.npz", zipped({{"ids.npy", ids}, {"seq_lens.npy", npy("<i4", "(2,)", raw_bytes<std::int32_t>({3, 2}))}}, ZipMethod::stored)), 8));
  EXPECT_EQ(target.requests.at(0).ids, (Ids{0, 1, 2, absent}));
  EXPECT_EQ(target.requests.at(1).ids, (Ids{3, 4}));
  EXPECT_THAT(warnings(), HasSubstr("the last token has no row"));
  EXPECT_THAT(target.log_text(), HasSubstr("1 slots hold no expert"));
}

TEST_F(ImportRouting, NumpyPromptsInsideOrBeforeTheRows) {
  const std::string ids = npy("<i2", "(4, 1, 1)", raw_bytes<std::int16_t>({0, 1, 2, 3})), lens = npy("<i4", "(2,)", raw_bytes<std::int32_t>({3, 1}));
  const auto with = [&](std::int32_t a, std::int32_t b) {
    run(input(
        file("a.npz", zipped({{"ids.npy", ids}, {"seq_lens.npy", lens}, {"prompt_lens.npy", npy("<i4", "(2,)", raw_bytes<std::int32_t>({a, b}))}},
                             ZipMethod::stored)),
        8));
    return target.requests.at(0).info;
  };
  EXPECT_EQ(with(2, 1).prompt_tokens, 2U);
  EXPECT_EQ(with(2, 1).output_tokens, 1U);
  EXPECT_THAT(failure(input(file("b.npz", zipped({{"ids.npy", ids}, {"prompt_lens.npy", lens}}, ZipMethod::stored)), 8)),
              HasSubstr("2 prompt_lens for 1 sequences (no member is called seq_lens: --field seq_lens=NAME"));
  EXPECT_EQ(with(2, 5).prompt_tokens, 0U);
  EXPECT_EQ(with(2, 5).output_tokens, 3U);
}

TEST_F(ImportRouting, NumpyLogitsAloneAreEnough) {
  const std::string logits = npy("<f4", "(2, 1, 4)", raw_bytes<float>({0, 3, 1, 2, 5, 0, 0, 4}));
  run(input(file("logits.npy", logits), 0, 2));
  EXPECT_EQ(target.spec.info.n_experts, 4U);
  EXPECT_EQ(target.requests.at(0).ids, (Ids{1, 3, 0, 3}));
  EXPECT_NEAR(target.requests.at(0).weights.at(0), 1.0 / (1.0 + std::exp(-1.0)), 1e-6);
}

TEST_F(ImportRouting, UnusableNumpyNamesTheMember) {
  const std::string ids = npy("<i2", "(4, 1, 1)", raw_bytes<std::int16_t>({0, 1, 2, 3}));
  const auto problem = [&](const std::vector<std::pair<std::string, std::string>>& members) {
    return failure(input(file("a.npz", zipped(members, ZipMethod::stored)), 8));
  };
  EXPECT_THAT(problem({{"x.npy", ids}, {"y.npy", ids}}),
              HasSubstr("no member with expert ids or gate logits (name it: --field ids=NAME; members: x (4, 1, 1), y (4, 1, 1))"));
  EXPECT_THAT(problem({{"ids.npy", ids}, {"weights.npy", npy("<f4", "(4,)", raw_bytes<float>({0, 0, 0, 0}))}}),
              HasSubstr("weights of shape (4) do not fit"));
  EXPECT_THAT(problem({{"ids.npy", ids}, {"seq_lens.npy", npy("<i4", "(1,)", raw_bytes<std::int32_t>({7}))}}),
              HasSubstr("seq_lens sum to 7, but there are rows for 4 tokens"));
  EXPECT_THAT(problem({{"ids.npy", npy("<i4", "(1, 1, 1)", raw_bytes<std::int32_t>({70000}))}}),
              HasSubstr("ids.npy: error: token 0: 70000 is not an expert id"));
}

}  // namespace
}  // namespace moekv
