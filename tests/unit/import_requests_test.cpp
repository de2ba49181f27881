// Importers of request traces, parsers of times and CSV, and import into native files with transformations.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "core/error.hpp"
#include "core/id.hpp"
#include "support/all_rows.hpp"
#include "support/archives.hpp"
#include "support/recording_target.hpp"
#include "support/temp_dir.hpp"
#include "trace/importers.hpp"
#include "trace/source.hpp"
#include "trace/text.hpp"

namespace moekv {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace moekv::testing;  // NOLINT(google-build-using-namespace)

TEST(Text, TimesAreExact) {
  EXPECT_EQ(parse_time_ns("5", 1'000'000'000), 5'000'000'000);
  EXPECT_EQ(parse_time_ns("19440110.123456789", 1'000'000'000), 19440110'123456789);
  EXPECT_EQ(parse_time_ns("1.5e3", 1'000'000), 1'500'000'000);
  EXPECT_EQ(parse_time_ns("46926808", 1), 46926808);
  EXPECT_FALSE(parse_time_ns("soon", 1));
  EXPECT_FALSE(parse_time_ns("1e300", 1));
  EXPECT_EQ(parse_timestamp_ns("1970-01-02 00:00:01.5"), 86'401'500'000'000);
  EXPECT_EQ(parse_timestamp_ns("2023-11-16 18:15:46.6805900"), 1'700'158'546'680'590'000);
  EXPECT_EQ(parse_timestamp_ns("2023-11-16T18:15:46Z"), 1'700'158'546'000'000'000);
  EXPECT_EQ(parse_timestamp_ns("2023-11-16T19:15:46+01:00"), 1'700'158'546'000'000'000);
  for (const char* bad : {"2023-13-16 18:15:46", "2023-11-31 18:15:46", "2023-11-16", "2023-11-16 25:00:00", "2023-11-16 18:15:46 x", ""})
    EXPECT_FALSE(parse_timestamp_ns(bad)) << bad;
}

TEST(Text, CsvFieldsMayBeQuoted) {
  std::vector<std::string_view> fields;
  std::vector<std::string> unquoted;
  split_csv(R"(a,"b,""c""",,"d")", fields, unquoted);
  EXPECT_THAT(fields, ElementsAre("a", "b,\"c\"", "", "d"));
  EXPECT_EQ(parse_integer("12.0"), 12);
  EXPECT_FALSE(parse_integer("12.5"));
  EXPECT_EQ(number_after("flame_layer_11_x.csv", "layer"), 11);
  EXPECT_FALSE(number_after("flame.csv", "layer"));
}

class ImportRequests : public ::testing::Test {
 protected:
  ImportOptions input(const std::string& name, const std::string& bytes) {
    write_bytes(dir_.file(name), bytes);
    ImportOptions options;
    options.inputs = {dir_.file(name)};
    return options;
  }
  ImportReport run(const ImportOptions& options) {
    target = {};
    return report = import_into(options, target);
  }
  std::string failure(const ImportOptions& options) {
    try {
      run(options);
    } catch (const UserError& e) {
      return e.what();
    }
    return "no error";
  }

  TempDir dir_;
  RecordingTarget target;
  ImportReport report;
};

TEST_F(ImportRequests, Azure) {
  const std::string header = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n";
  run(input("a.csv.gz", gzipped(header + "2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109\r\n2023-11-16 18:15:51.0,3,0")));
  EXPECT_EQ(report.format, "azure");
  ASSERT_EQ(target.requests.size(), 2U);
  EXPECT_EQ(target.requests[0].info.arrival_ns, 0);
  EXPECT_EQ(target.requests[1].info.arrival_ns, 4'314'579'000);
  EXPECT_EQ(target.requests[1].info.prompt_tokens, 396U);
  EXPECT_EQ(target.requests[1].info.output_tokens, 109U);
  EXPECT_FALSE(target.spec.info.has_routing());
  EXPECT_THAT(target.log_text(), HasSubstr("1 requests without output tokens (failed) were left out"));
  EXPECT_THAT(failure(input("b.csv", header + "2023-11-16 18:15:46,374,44\nyesterday,1,1\n")),
              HasSubstr("b.csv:3: error: 'yesterday' is not a time"));
  EXPECT_THAT(failure(input("b.csv", header + "2023-11-16 18:15:46,-374,44\n")),
              HasSubstr("b.csv:2: error: column 'ContextTokens': '-374' is not a number of tokens"));
  EXPECT_THAT(failure(input("b.csv", header + "2023-11-16 18:15:46,374\n")), HasSubstr("b.csv:2: error: 2 fields, the header has 3"));
  EXPECT_THAT(failure(input("b.csv", header + "2023-11-16 18:15:46,374,44\n2023-11-16 18:15:45,1,1\n")),
              HasSubstr("b.csv:3: error: arrives before the first request"));
  EXPECT_THAT(failure(input("b.csv", header)), HasSubstr("no request is left to import"));
}

TEST_F(ImportRequests, BurstGptVersions) {
  run(input("v1.csv",
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation "
            "log\n45,ChatGPT,1087,230,1317,API log\n"));
  EXPECT_EQ(report.format, "burstgpt");
  EXPECT_EQ(target.requests.at(1).info.arrival_ns, 40'000'000'000);
  EXPECT_EQ(target.requests.at(1).info.domain, 1);
  EXPECT_EQ(target.requests.at(1).info.session, -1);
  EXPECT_THAT(target.domains, ElementsAre("Conversation log", "API log"));
  run(input("v3.csv",
            "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
            "19440110.0,a-1,43,GPT-4,906,446,1352,Conversation log\n19440161.5,b-2,2,ChatGPT,36,29,65,Conversation "
            "log\n19440162.0,a-1,2,ChatGPT,36,0,36,Conversation log\n"
            "19440163.0,a-1,2,ChatGPT,40,2,42,Conversation log\n"));
  ASSERT_EQ(target.requests.size(), 3U);
  EXPECT_EQ(target.requests[1].info.arrival_ns, 51'500'000'000);
  EXPECT_EQ(target.requests[1].info.session, 1);
  EXPECT_EQ(target.requests[2].info.session, 0);
}

TEST_F(ImportRequests, MooncakeKeepsHashes) {
  const std::string line = R"({"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [0, 46]})"
                           "\n";
  run(input("m.jsonl", line + line));
  EXPECT_EQ(report.format, "mooncake");
  EXPECT_THAT(target.requests.at(0).hash_ids, ElementsAre(0, 46));
  EXPECT_TRUE(target.spec.has_hash_ids);
  EXPECT_EQ(target.spec.hash_block_tokens, 512U);
  EXPECT_TRUE(report.warnings.empty());
  const std::map<std::string, std::string> cases{
      {line + "{\n", "m.jsonl:2: error: line is not a JSON object"},
      {line + R"({"timestamp": 1, "input_length": -6, "output_length": 5})", "m.jsonl:2: error: 'input_length' is -6"},
      {line + R"({"timestamp": "x", "input_length": 6, "output_length": 5})", "m.jsonl:2: error: 'timestamp' is not a time"},
      {line + R"({"timestamp": 4000, "input_length": 6, "output_length": 5, "hash_ids": [-1]})", "m.jsonl:2: error: hash_ids: -1"}};
  for (const auto& [text, message] : cases) EXPECT_THAT(failure(input("m.jsonl", text)), HasSubstr(message));
}

TEST_F(ImportRequests, GenericCsvByUsualOrGivenNames) {
  run(input("r.csv", "arrival_time_ns,input_toks,output_toks\n46926808,2361,532\n347938951,1128,772\n"));
  EXPECT_EQ(report.format, "request-csv");
  EXPECT_EQ(target.requests.at(1).info.arrival_ns, 301'012'143);
  auto options = input("s.csv", "when;x,p,o\n1.5,10,20\n2.25,30,40\n");
  options.format = "request-csv";
  options.fields = {{"arrival", "when;x"}, {"prompt", "p"}, {"output", "o"}};
  options.time_unit = "ms";
  run(options);
  EXPECT_EQ(target.requests.at(1).info.arrival_ns, 750'000);
  EXPECT_EQ(target.requests.at(1).info.output_tokens, 40U);
  options.time_unit = "min";
  EXPECT_THAT(failure(options), HasSubstr("unknown unit 'min' (allowed: ns, us, ms, s)"));
  options.time_unit.clear();
  options.fields["prompt"] = "q";
  EXPECT_THAT(failure(options), HasSubstr("s.csv:1: error: no column 'q' (columns: when;x, p, o)"));
  run(input("t.csv", "prompt_tokens,output_tokens\n3,4\n"));
  EXPECT_EQ(target.requests.at(0).info.arrival_ns, -1);
}

// --- native files

std::string rows(int n, int stride) {
  std::string text;
  for (int t = 0; t < n; ++t) {
    const int base = t % stride * 10 + t / stride % 5;
    text += std::string(R"({"type": "route", "req_id": "r", "token_idx": )") + std::to_string(t) + R"(, "layer": 3, "topk_ids": [)" +
            std::to_string(base) + ", " + std::to_string(base + 1) +
            R"(], "topk_weights": [0.5, 0.25]})"
            "\n";
  }
  return text;
}

TEST_F(ImportRequests, NativeFileHoldsWhatWasImported) {
  auto options = input("l.jsonl", rows(10, 1));
  options.n_experts = 64;
  options.license = "MIT";
  options.prompt_share = 0.3;
  const std::string path = dir_.file("out.moekv.h5");
  import_trace(options, path);
  const auto trace = open_native_trace(path);
  EXPECT_EQ(trace->info().license, "MIT");
  EXPECT_THAT(trace->info().moe_layers, ElementsAre(3));
  EXPECT_EQ(trace->request(RequestId(0)).prompt_tokens, 3U);
  EXPECT_EQ(all_rows(*trace, 0).ids[2], 1);
  options.inputs = {path};
  EXPECT_THROW(import_trace(options, path), UserError);
}

TEST_F(ImportRequests, RequestTraceIsANativeFileWithoutRows) {
  const std::string path = dir_.file("out.moekv.h5");
  import_trace(input("m.jsonl", R"({"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [7, 46]})"
                                "\n"
                                R"({"timestamp": 6000, "input_length": 100, "output_length": 9, "hash_ids": [8]})"
                                "\n"),
               path);
  const auto trace = open_native_trace(path);
  EXPECT_FALSE(trace->info().has_routing());
  ASSERT_EQ(trace->n_requests(), 2U);
  EXPECT_EQ(trace->request(RequestId(1)).arrival_ns, 3'000'000'000);
  ImportOptions again;
  again.inputs = {path};
  run(again);
  EXPECT_THAT(target.requests.at(0).hash_ids, ElementsAre(7, 46));
  EXPECT_THAT(target.requests.at(1).hash_ids, ElementsAre(8));
}

TEST_F(ImportRequests, DeinterleaveTakesSequencesApart) {
  auto options = input("l.jsonl", rows(30, 4));
  options.n_experts = 64;
  options.deinterleave = 4;
  const std::string path = dir_.file("out.moekv.h5");
  const ImportReport done = import_trace(options, path);
  EXPECT_EQ(done.format, "route-jsonl");
  const auto trace = open_native_trace(path);
  ASSERT_EQ(trace->n_requests(), 4U);
  for (std::uint32_t s = 0; s < 4; ++s) {
    const RoutingRows r = all_rows(*trace, s);
    EXPECT_EQ(r.end, s < 2 ? 8U : 7U);
    for (std::uint32_t t = 0; t < r.end; ++t) EXPECT_EQ(r.ids[2 * t], s * 10 + t % 5);
  }
}

TEST_F(ImportRequests, DropWarmupLeavesOutRunsOnly) {
  std::string text;
  for (int t = 0; t < 200; ++t) {
    const int base = t < 70 ? 40 : t < 100 ? t % 7 : t < 163 ? 50 : t % 11;  // runs of 70 (dropped) and 63 (kept)
    text += std::string(R"({"type": "route", "req_id": "r", "token_idx": )") + std::to_string(t) + R"(, "layer": 0, "topk_ids": [)" +
            std::to_string(base) + "]}\n";
  }
  auto options = input("l.jsonl", text);
  options.n_experts = 64;
  options.drop_warmup = true;
  const std::string path = dir_.file("out.moekv.h5");
  import_trace(options, path);
  const auto trace = open_native_trace(path);
  const RoutingRows r = all_rows(*trace, 0);
  ASSERT_EQ(r.end, 130U);
  EXPECT_EQ(r.ids[0], 70 % 7);
  EXPECT_EQ(r.ids[30], 50);
  EXPECT_EQ(r.ids[129], 199 % 11);
  EXPECT_FALSE(std::filesystem::exists(path + ".stage.h5"));
}

TEST_F(ImportRequests, PseudoLogitsGiveTheRecordedChoiceAndWeights) {
  auto options = input("l.jsonl", rows(300, 3));
  options.n_experts = 64;
  options.pseudo_logits = true;
  options.seed = 5;
  const std::string path = dir_.file("out.moekv.h5"), second = dir_.file("again.moekv.h5");
  import_trace(options, path);
  import_trace(options, second);
  const auto trace = open_native_trace(path), again = open_native_trace(second);
  EXPECT_TRUE(trace->info().pseudo_logits);
  EXPECT_EQ(trace->info().level, RoutingLevel::logits);
  const RoutingRows r = all_rows(*trace, 0, WantLogits::yes);
  EXPECT_EQ(r.logits, all_rows(*again, 0, WantLogits::yes).logits);
  for (std::size_t t = 0; t < r.end; ++t) {
    const float* z = r.logits.data() + t * 64;
    const float first = z[r.ids[2 * t]], other = z[r.ids[2 * t + 1]];
    EXPECT_NEAR(first - other, std::log(2.0F), 2e-3F);
    for (std::uint16_t e = 0; e < 64; ++e) {
      if (e != r.ids[2 * t] && e != r.ids[2 * t + 1]) {
        EXPECT_LT(z[e], other);
      }
    }
  }
}

}  // namespace
}  // namespace moekv
