// Importers of route logs and router traces as JSON lines, and what all importers share: traps, cuts, models.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "core/rng.hpp"
#include "support/import_fixture.hpp"

namespace moekv {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using namespace moekv::testing;  // NOLINT(google-build-using-namespace)

// --- vLLM-style JSON lines

TEST_F(ImportRouting, RouteLogOfMixedRequestsAndLayersIsPutInOrder) {
  const std::string text = R"({"type": "meta", "model_id": "m/x", "layers_logged": [0, 3], "top_k": 2})"
                           "\n" +
                           route("a", 0, 3, "1, 2", "0.6, 0.4") + route("b", 0, 0, "5, 6", "0.9, 0.1") + route("b", 0, 3, "7, 0", "0.7, 0.3") +
                           route("a", 0, 0, "3, 4", "0.5, 0.5") + route("a", 1, 0, "6, 7", "0.8, 0.2") + route("a", 1, 3, "0, 1", "0.75, 0.25");
  run(input(file("log.jsonl.gz", gzipped(text)), 8));
  EXPECT_EQ(report.format, "route-jsonl");
  EXPECT_EQ(target.spec.info.model_name, "m/x");
  EXPECT_THAT(target.spec.info.moe_layers, ElementsAre(0, 3));
  EXPECT_EQ(target.spec.info.level, RoutingLevel::weights);
  EXPECT_EQ(target.spec.weight_kind, WeightKind::renorm);
  ASSERT_EQ(target.requests.size(), 2U);
  EXPECT_EQ(target.requests[0].info.prompt_tokens, 2U);
  EXPECT_EQ(target.requests[0].ids, (Ids{3, 4, 1, 2, 6, 7, 0, 1}));
  EXPECT_EQ(target.requests[0].weights, (std::vector<float>{0.5F, 0.5F, 0.6F, 0.4F, 0.8F, 0.2F, 0.75F, 0.25F}));
  EXPECT_EQ(target.requests[1].ids, (Ids{5, 6, 7, 0}));
}

TEST_F(ImportRouting, RouteLogDetectsRestartsGapsAndDenseLayers) {
  run(input(file("log.jsonl", route("r", 0, 0, "0, 0", "0, 0") + route("r", 0, 1, "1, 2", "0.6, 0.4") + route("r", 1, 0, "0, 0", "0, 0") +
                                  route("r", 1, 1, "2, 3", "0.6, 0.4") + route("r", 0, 0, "0, 0", "0, 0") + route("r", 0, 1, "4, 5", "0.6, 0.4") +
                                  route("r", 2, 1, "6, 7", "0.6, 0.4")),
            8));
  EXPECT_THAT(target.spec.info.moe_layers, ElementsAre(1));
  EXPECT_EQ(target.requests.at(0).ids, (Ids{1, 2, 2, 3, 4, 5, absent, absent, 6, 7}));
  EXPECT_THAT(warnings(), HasSubstr("token counter restarts 1 times"));
  EXPECT_THAT(warnings(), HasSubstr("layer 0 is filled with zeros"));
  EXPECT_THAT(warnings(), HasSubstr("rows of (token, layer) are missing"));
  EXPECT_THAT(target.log_text(), HasSubstr("warning: layer 0 is filled with zeros"));
}

/// The gate of the model (softmax over the chosen) chooses where rows have logits alone.
TEST_F(ImportRouting, RouteLogOfLogits) {
  const auto row = [](int token, const std::string& logits, const std::string& more = "") {
    return R"({"req_id": "r", "layer": 0, "token_idx": )" + std::to_string(token) + more + R"(, "logits": [)" + logits + "]}\n";
  };
  const std::string text = row(0, "0, 3, 1, 2") + row(1, "4, 0, 0.5, -1") + row(2, "0, 3, 1, 2", R"(, "topk_ids": [0, 2])");
  run(input(file("log.jsonl", text), 0, 2));
  EXPECT_EQ(target.spec.info.n_experts, 4U);
  EXPECT_EQ(target.spec.info.level, RoutingLevel::logits);
  EXPECT_EQ(target.requests.at(0).ids, (Ids{1, 3, 0, 2, 0, 2}));
  const float large = 1 / (1 + std::exp(-1.0F));
  EXPECT_NEAR(target.requests[0].weights.at(0), large, 1e-6);
  EXPECT_NEAR(target.requests[0].weights.at(5), large, 1e-6);
  EXPECT_EQ(target.requests[0].logits, (std::vector<float>{0, 3, 1, 2, 4, 0, 0.5F, -1, 0, 3, 1, 2}));
  EXPECT_THAT(failure(input(file("log.jsonl", row(0, "1, 2, 3")), 0, 0)), HasSubstr("the number of chosen experts is not in this input"));
  EXPECT_THAT(failure(input(file("log.jsonl", row(0, "1, 2, 3") + row(1, "1, 2")), 0, 2)),
              HasSubstr("log.jsonl:2: error: 2 logits, rows before have 3"));
  EXPECT_THAT(failure(input(file("log.jsonl", row(0, "1, null, 3")), 0, 2)), HasSubstr("log.jsonl:1: error: 'logits': null is not a number"));
  EXPECT_THAT(failure(input(file("log.jsonl", row(0, "1, 2, 3") + route("r", 1, 0, "0, 1", "0.5, 0.5")), 0, 2)),
              HasSubstr("0 logits, rows before have 3"));
}

TEST_F(ImportRouting, RouteLogWithRenamedFields) {
  auto options = input(file("log.jsonl", R"({"r": 7, "t": 0, "l": 2, "e": [4, -1]})"
                                         "\n"),
                       8);
  options.format = "route-jsonl";
  options.fields = {{"request", "r"}, {"token", "t"}, {"layer", "l"}, {"ids", "e"}};
  run(options);
  EXPECT_EQ(target.requests.at(0).ids, (Ids{4, absent}));
  EXPECT_EQ(target.spec.info.level, RoutingLevel::ids);
  options.fields["weihgts"] = "w";
  EXPECT_THAT(failure(options), HasSubstr("unknown role 'weihgts' (did you mean 'weights'?"));
}

TEST_F(ImportRouting, MalformedRouteLogsNameTheLine) {
  const std::string good = route("r", 0, 0, "1, 2", "0.6, 0.4");
  const std::map<std::string, std::string> cases{
      {good + "{broken\n" + good, "bad.jsonl:2: error: line is not a JSON object"},
      {good + route("r", 1, 0, "1, 2, 3", "1, 0, 0"), "bad.jsonl:2: error: 3 experts and 3 weights, rows before have 2 and 2"},
      {good + route("r", 1, 0, "1, 70000", "1, 0"), "bad.jsonl:2: error: 'topk_ids': 70000 is not an expert id"},
      {good + route("r", 1, 0, "1, \"x\"", "1, 0"), "bad.jsonl:2: error: 'topk_ids': \"x\" is not an expert id"},
      {good + route("r", 1, 0, "1, 2", "1"), "bad.jsonl:2: error: 'topk_weights' has 1 values for 2 experts"},
      {good + route("r", -1, 0, "1, 2", "1, 0"), "bad.jsonl:2: error: 'token_idx' is -1, not an integer >= 0"},
      {good + route("r", 100000, 0, "1, 2", "1, 0"), "bad.jsonl:2: error: token 100000 follows 0"},
      {good + R"({"type": "route", "req_id": "r", "layer": 0, "topk_ids": [1, 2], "topk_weights": [1, 0]})",
       "bad.jsonl:2: error: no field 'token_idx'"},
      {route("r", 0, 0, "1, 1", "0.6, 0.4"), "token 0, layer 0: expert 1 is chosen twice"},
      {route("r", 0, 0, "1, 9", "0.6, 0.4"), "token 0, layer 0: expert 9 does not exist, there are 8"},
      {route("r", 0, 0, "1, 2", "0.6, -0.4"), "token 0, layer 0: weight -0.4 is not a finite number >= 0"},
      {R"({"type": "meta", "layers_logged": []})", "no route line"}};
  for (const auto& [text, message] : cases) EXPECT_THAT(failure(input(file("bad.jsonl", text), 8)), HasSubstr(message));
  EXPECT_THAT(failure(input(file("bad.jsonl", good))), HasSubstr("the number of experts is not in this input (give it with --experts or --model)"));
  EXPECT_THAT(failure(input(file("bad.jsonl", good), 8, 3)), HasSubstr("disagree: the input says 2, --topk 3"));
  run(input(file("cut.jsonl", good + "{\"type\": \"rou"), 8));
  EXPECT_THAT(warnings(), HasSubstr("cut.jsonl:2: the last line is incomplete"));
}

TEST_F(ImportRouting, AllProblemsOfRowsComeTogether) {
  const std::string text = failure(input(file("bad.jsonl", route("a", 0, 0, "1, 9", "1, 0") + route("b", 0, 0, "3, 3", "1, 0")), 8));
  EXPECT_THAT(text, HasSubstr("expert 9 does not exist"));
  EXPECT_THAT(text, HasSubstr("expert 3 is chosen twice"));
}

// --- Megatron

std::string router(int step, int layer, const std::string& indices, int n, const std::string& more = "") {
  return std::string(R"({"step": )") + std::to_string(step) + R"(, "stage": "pre_dispatch", "block": "decoder", "layer": )" + std::to_string(layer) +
         R"(, "rank": 0, "num_tokens": )" + std::to_string(n) + R"(, "topk": 2, "top_indices": [)" + indices + "]" + more + "}\n";
}

TEST_F(ImportRouting, MegatronStepsBecomePromptAndOutput) {
  const std::string mtp =
      R"({"step": 0, "stage": "pre_dispatch", "block": "mtp", "mtp_idx": 0, "layer": 1, "rank": 0, "num_tokens": 1, "topk": 2, "top_indices": [[0, 1]]})"
      "\n";
  run(input(file("router_trace_rank0.jsonl", router(0, 1, "[0, 1], [2, 3]", 2) + router(0, 2, "[4, 5], [6, 7]", 2) + mtp + router(1, 1, "[1, 2]", 1) +
                                                 router(1, 2, "[5, 6]", 1) + router(2, 1, "[3, 4], [5, 6]", 2) + router(2, 2, "[0, 2], [1, 3]", 2)),
            8));
  ASSERT_EQ(target.requests.size(), 2U);
  EXPECT_EQ(target.requests[0].info.prompt_tokens, 2U);
  EXPECT_EQ(target.requests[0].info.output_tokens, 1U);
  EXPECT_EQ(target.requests[0].ids, (Ids{0, 1, 4, 5, 2, 3, 6, 7, 1, 2, 5, 6}));
  EXPECT_EQ(target.requests[1].ids, (Ids{3, 4, 0, 2, 5, 6, 1, 3}));
  EXPECT_EQ(target.spec.info.level, RoutingLevel::ids);
  EXPECT_THAT(target.log_text(), HasSubstr("1 records of other blocks"));
}

TEST_F(ImportRouting, MegatronLogitsComeFromTheSideFile) {
  const std::string side = raw_bytes<std::uint16_t>({0x3F80, 0x0000, 0xBF80, 0x4000});  // 1, 0, -1, 2 in bf16
  write_bytes(dir_.file("logits_rank0.bin"), side);
  const std::string more = R"(, "logit_offset": 0, "logit_bytes": 8, "logit_shape": [1, 4])";
  run(input(file("router_trace_rank0.jsonl", router(0, 0, "[0, 3]", 1, more))));
  EXPECT_EQ(target.spec.info.n_experts, 4U);
  EXPECT_EQ(target.spec.info.level, RoutingLevel::logits);
  EXPECT_EQ(target.requests.at(0).logits, (std::vector<float>{1, 0, -1, 2}));
  EXPECT_NEAR(target.requests.at(0).weights.at(1), 1.0 / (1.0 + std::exp(-1.0)), 1e-6);
  const std::string far = R"(, "logit_offset": 4, "logit_bytes": 8, "logit_shape": [1, 4])";
  EXPECT_THAT(failure(input(file("router_trace_rank0.jsonl", router(0, 0, "[0, 3]", 1, far)))),
              HasSubstr("logits_rank0.bin: error: file ends too early"));
  const std::string wrong = R"(, "logit_offset": 0, "logit_bytes": 6, "logit_shape": [1, 4])";
  EXPECT_THAT(failure(input(file("router_trace_rank0.jsonl", router(0, 0, "[0, 3]", 1, wrong)))),
              HasSubstr("router_trace_rank0.jsonl:1: error: logit_shape"));
}

TEST_F(ImportRouting, MalformedMegatronRecordsNameTheLine) {
  const std::string good = router(0, 0, "[0, 1]", 1);
  const std::map<std::string, std::string> cases{
      {good + router(0, 1, "[0, 1], [2, 3]", 2), "rank0.jsonl:2: error: step 0 has 2 tokens here and 1 in another layer"},
      {good + router(1, 0, "[0]", 1), "rank0.jsonl:2: error: top_indices[0] has not 2 entries"},
      {good + router(1, 0, "[0, 1]", 3), "rank0.jsonl:2: error: 'num_tokens' is 3, 'top_indices' has 1"},
      {router(2, 0, "[0, 1]", 1) + good, "rank0.jsonl:2: error: step 0 comes after step 2"},
      {good + router(1, 0, "[0, -7]", 1), "rank0.jsonl:2: error: top_indices[0]: -7 is not an expert id"}};
  for (const auto& [text, message] : cases) EXPECT_THAT(failure(input(file("rank0.jsonl", text), 8)), HasSubstr(message));
}

// --- what all share

std::string many(int n, int stride, int n_layers = 1) {  // every `stride` tokens the same sequence goes on: experts drift slowly inside it
  std::string text;
  for (int t = 0; t < n; ++t) {
    const int sequence = t % stride, step = t / stride;
    for (int l = 0; l < n_layers; ++l) {
      const int base = static_cast<int>(hash_words(7, sequence, step / 6) % 60);
      text += route("r", t, l, std::to_string(base) + ", " + std::to_string(base + 1 + static_cast<int>(hash_words(8, t) % 3)), "0.6, 0.3");
    }
  }
  return text;
}

TEST_F(ImportRouting, TrapsAreReported) {
  std::string warmup;
  for (int t = 0; t < 100; ++t) warmup += route("r", t, 0, "4, 5", "0.6, 0.3");
  run(input(file("w.jsonl", warmup), 64));
  EXPECT_THAT(warnings(), HasSubstr("100 of 100 tokens (100.0 %) lie in runs of at least 64 tokens with one identical expert set"));
  run(input(file("i.jsonl", many(4000, 8)), 64));
  EXPECT_THAT(warnings(), HasSubstr("8 sequences alternate? (--deinterleave 8)"));
  run(input(file("n.jsonl", many(4000, 1)), 64));
  EXPECT_THAT(warnings(), Not(HasSubstr("alternate")));
  EXPECT_THAT(warnings(), Not(HasSubstr("identical")));
  run(input(file("d.jsonl", many(100, 1, 3)), 64));
  EXPECT_THAT(warnings(), HasSubstr("layers 0, 1, 2 have identical routing"));
  run(input(file("e.jsonl", many(5000, 1)), 512));
  EXPECT_THAT(warnings(), HasSubstr("are never chosen: is n_experts = 512 right?"));
}

TEST_F(ImportRouting, CutsLayersRequestsAndTokens) {
  std::string text;
  for (int r = 0; r < 5; ++r) {
    for (int t = 0; t < 2 + r; ++t) {
      for (int l = 0; l < 3; ++l)
        text += route(std::string("r") + std::to_string(r), t, l, std::to_string(r) + ", " + std::to_string(10 + 3 * t + l), "0.6, 0.4");
    }
  }
  auto options = input(file("c.jsonl", text), 64);
  options.keep_layers = {0, 2};
  options.min_tokens = 3;
  options.skip_requests = 1;
  options.max_requests = 2;
  options.max_tokens = 4;
  options.prompt_share = 0.5;
  run(options);
  EXPECT_THAT(target.spec.info.moe_layers, ElementsAre(0, 2));
  ASSERT_EQ(target.requests.size(), 2U);
  EXPECT_EQ(target.requests[0].info.prompt_tokens, 2U);
  EXPECT_EQ(target.requests[0].info.output_tokens, 2U);
  EXPECT_EQ(target.requests[0].ids, (Ids{2, 10, 2, 12, 2, 13, 2, 15, 2, 16, 2, 18, 2, 19, 2, 21}));
  EXPECT_EQ(target.requests[1].n_tokens, 4U);
  EXPECT_EQ(report.tokens, 8U);
  EXPECT_THAT(target.log_text(), HasSubstr("1 requests were cut to their first 4 tokens"));
}

TEST_F(ImportRouting, ModelNamesLayersAndMustAgree) {
  ModelShape shape;
  shape.name = "m";
  shape.layers.resize(3);
  shape.layers[0].moe = false;
  shape.gate.n_experts = 8;
  shape.gate.top_k = 2;
  auto options = input(file("ids.npy", npy("<i2", "(1, 3, 2)", raw_bytes<std::int16_t>({0, 0, 1, 2, 3, 4}))));
  options.shape = shape;
  options.layout = "tlk";
  run(options);
  EXPECT_THAT(target.spec.info.moe_layers, ElementsAre(1, 2));
  EXPECT_EQ(target.requests.at(0).ids, (Ids{1, 2, 3, 4}));
  options.n_experts = 9;
  EXPECT_THAT(failure(options), HasSubstr("--experts 9, the model 8"));
}

TEST_F(ImportRouting, UnknownInputsAndFormats) {
  EXPECT_THAT(failure(input(file("x.txt", "hello"))), HasSubstr("the format is not recognised (name it with --format:"));
  EXPECT_THAT(failure(input(file("x.txt", ""))), HasSubstr("is empty"));
  EXPECT_THAT(failure(input(dir_.file("none"))), HasSubstr("does not exist"));
  auto options = input(file("x.txt", "hello"));
  options.format = "esfd";
  EXPECT_THAT(failure(options), HasSubstr("unknown format 'esfd' (did you mean 'esft'?"));
}

}  // namespace
}  // namespace moekv
