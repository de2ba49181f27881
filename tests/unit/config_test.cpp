// Configuration: the scalar parser, reading, overrides, defaults, the resolved text and the digest.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "config/reader.hpp"
#include "config/rule_keys.hpp"
#include "config/scalar.hpp"
#include "config/schema.hpp"
#include "core/error.hpp"

namespace moekv {
namespace {

using ::testing::HasSubstr;

const std::string base = "model: tinymoe\ntrace: {synthetic: {preset: uniform, n_requests: 2}}\n";

class ConfigFile : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::temp_directory_path() / ("moekv_config_test_" + std::to_string(::getpid()));
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string write(const std::string& text) {
    std::string path = (directory_ / "case.yaml").string();
    std::ofstream(path) << text;
    return path;
  }
  RunSpec read(const std::string& text, const std::vector<std::string>& overrides = {}, int n_processes = 1) {
    return read_run_spec(write(text), overrides, n_processes);
  }
  std::string error(const std::string& text, const std::vector<std::string>& overrides = {}, int n_processes = 1) {
    try {
      (void)read(text, overrides, n_processes);
    } catch (const UserError& e) {
      return e.what();
    }
    return "no error";
  }

  std::filesystem::path directory_;
};

TEST(Scalar, WholeNumbers) {
  const auto value = [](const char* text, const char* unit = "") { return parse_unsigned(text, unit).value; };
  EXPECT_EQ(value("0"), 0U);
  EXPECT_EQ(value("1e3"), 1000U);
  EXPECT_EQ(value("2.5e3"), 2500U);
  EXPECT_EQ(value("1.50Ki"), 1536U);
  EXPECT_EQ(value("8Ki"), 8192U);
  EXPECT_EQ(value("3M"), 3000000U);
  EXPECT_EQ(value("2GiB", "byte"), 2ULL << 30);
  EXPECT_EQ(value("2 GiB", "byte"), 2ULL << 30);
  EXPECT_EQ(value("300MB", "byte"), 300000000U);
  EXPECT_EQ(value("18446744073709551615"), ~0ULL);
  for (const char* bad : {"",     "x",   "-1",  "010", "00", "1_000", "0x10", "0o7", "2.5", "18446744073709551616", "1e20", "1e99999999999",
                          "5KiB", "5us", "nan", "inf", ".",  "1e",    "--1",  "1 2"}) {
    EXPECT_FALSE(parse_unsigned(bad, "tokens").ok()) << bad;
  }
  EXPECT_THAT(parse_unsigned("010", "").error, HasSubstr("write 10"));
  EXPECT_FALSE(parse_unsigned("1e-1", "").ok());
  EXPECT_EQ(value("0.0e-40"), 0U);
}

TEST(Scalar, NumbersRatiosBooleans) {
  EXPECT_DOUBLE_EQ(parse_number("1e-3", "1").value, 1e-3);
  EXPECT_DOUBLE_EQ(parse_number("-0.5", "1").value, -0.5);
  EXPECT_DOUBLE_EQ(parse_number("25%", "1").value, 0.25);
  EXPECT_DOUBLE_EQ(parse_number("50us", "us").value, 50);
  EXPECT_DOUBLE_EQ(parse_number("600ns", "us").value, 0.6);
  EXPECT_DOUBLE_EQ(parse_number("2ms", "us").value, 2000);
  EXPECT_DOUBLE_EQ(parse_number("48GB/s", "GB/s").value, 48);
  for (const char* bad : {"nan", ".nan", "inf", "-.inf", "1e999", "010", "1,5", "5us", "0x1p3"}) EXPECT_FALSE(parse_number(bad, "1").ok()) << bad;
  EXPECT_FALSE(parse_number("5%", "us").ok());

  const auto ratio = [](const char* text) { return std::pair{parse_ratio(text).value.numerator, parse_ratio(text).value.denominator}; };
  EXPECT_EQ(ratio("25%"), (std::pair<std::uint64_t, std::uint64_t>{1, 4}));
  EXPECT_EQ(ratio("6.25%"), (std::pair<std::uint64_t, std::uint64_t>{1, 16}));
  EXPECT_EQ(ratio("3/12"), (std::pair<std::uint64_t, std::uint64_t>{1, 4}));
  EXPECT_EQ(ratio("0.1"), (std::pair<std::uint64_t, std::uint64_t>{1, 10}));
  for (const char* bad : {"1/0", "a/2", "-5%", "1/-2", "nan", "1e-1", "0.12345678901", "5 %%"}) EXPECT_FALSE(parse_ratio(bad).ok()) << bad;

  EXPECT_TRUE(parse_bool("true").value);
  for (const char* bad : {"yes", "no", "on", "True", "1", ""}) EXPECT_FALSE(parse_bool(bad).ok()) << bad;
}

TEST(Schema, PathsAreUniqueAndDocumented) {
  std::set<std::string> seen;
  std::set<std::string> plain;
  for (const Key& key : schema()) {
    EXPECT_TRUE(seen.insert(key.path + "/" + key.rule).second) << key.path;
    if (key.rule.empty()) plain.insert(key.path);
    EXPECT_FALSE(key.doc.empty()) << key.path;
    EXPECT_FALSE(key.type.empty()) << key.path;
    EXPECT_FALSE(is_section(key.path)) << key.path << " is a key and a section";
  }
  for (const Key& key : schema())
    EXPECT_TRUE(key.rule.empty() || !plain.contains(key.path)) << key.path << " is a key and a parameter of " << key.rule;
}

TEST_F(ConfigFile, AnAliasSaysWhatItStandsFor) {
  const RunSpec spec = read(base + "compression: {k: {codec: fastv}, v: {codec: QuantizedCompressor}}\n");
  EXPECT_EQ(spec.notes, (std::vector<std::string>{"compression.k.codec fastv stands for chan_prune.crop",
                                                  "compression.v.codec QuantizedCompressor stands for int8_token.asym"}));
  EXPECT_TRUE(read(base + "compression: {codec: int8_token}\n").notes.empty());
  EXPECT_EQ(read(spec.resolved_yaml).notes, std::vector<std::string>{});
}

TEST_F(ConfigFile, DefaultsComeFromRunSpec) {
  const RunSpec spec = read(base), untouched;
  EXPECT_EQ(spec.name, "case");
  EXPECT_EQ(spec.model.name, "tinymoe");
  EXPECT_EQ(spec.model.layers.size(), 4U);
  EXPECT_EQ(spec.cluster.ranks, 1U);
  EXPECT_EQ(spec.batch.max_num_seqs, untouched.batch.max_num_seqs);
  EXPECT_EQ(spec.trace.synthetic.preset, "uniform");
  EXPECT_EQ(spec.config_digest.size(), 32U);
  EXPECT_EQ(read(base, {}, 4).cluster.ranks, 4U);
}

TEST_F(ConfigFile, DefaultsFollowOtherKeys) {
  const RunSpec spec = read(base + "seed: 7\npayload: {element: fp16, generator: {seed: 9}}\nplacement: {layout: token}\nbackend: count\n");
  EXPECT_EQ(spec.eviction.seed, 7U);
  EXPECT_EQ(spec.trace.synthetic.seed, 7U);
  EXPECT_EQ(spec.payload.generator.seed, 9U);
  EXPECT_EQ(spec.placement.map, ShardMap::block_cyclic);
  EXPECT_EQ(rule_name(spec.compression.k), "fp16");
  EXPECT_EQ(spec.probe.samples, 0U);
  EXPECT_EQ(read(base + "placement: {layout: expert}\n").placement.map, ShardMap::expert_affine);
  const RunSpec small = read(base + "batch: {max_num_batched_tokens: 4}\n");
  EXPECT_EQ(small.prefill.chunk_tokens, 4U);
  EXPECT_EQ(small.batch.max_num_seqs, 4U);
  EXPECT_EQ(small.batch.concurrency, 4U);
}

TEST_F(ConfigFile, RulesAndShortForms) {
  const RunSpec spec = read(base +
                            "eviction: {policy: streaming, start: 8, budget: 12.5%, protect: {sinks: 2, recent: 8}}\n"
                            "compression: {k: {codec: fp8_e4m3.head, head_scale: 0.5}, v: int4_token}\n"
                            "prefill: {queries: last:16}\nbatch: {load: concurrency(3)}\n");
  ASSERT_TRUE(std::holds_alternative<evict::Streaming>(spec.eviction.rule));
  EXPECT_EQ(std::get<evict::Streaming>(spec.eviction.rule).start, 8U);
  EXPECT_EQ(spec.eviction.budget.kind, BudgetKind::fraction);
  EXPECT_EQ(spec.eviction.budget.numerator, 1U);
  EXPECT_EQ(spec.eviction.budget.denominator, 8U);
  EXPECT_FLOAT_EQ(std::get<codec::Fp8Head>(spec.compression.k).head_scale, 0.5F);
  EXPECT_EQ(rule_name(spec.compression.v), "int4_token");
  EXPECT_EQ(spec.prefill.queries, PrefillQueries::last);
  EXPECT_EQ(spec.prefill.last, 16U);
  EXPECT_EQ(spec.batch.concurrency, 3U);
  const RunSpec both = read(base + "compression: {codec: fp8_e4m3.head, head_scale: 2}\n");
  EXPECT_FLOAT_EQ(std::get<codec::Fp8Head>(both.compression.v).head_scale, 2.0F);
}

TEST_F(ConfigFile, Budgets) {
  const auto budget = [&](const std::string& text) {
    return read(base + "eviction: {policy: lru, protect: {sinks: 0, recent: 0}, budget: " + text + "}\n").eviction.budget;
  };
  EXPECT_EQ(budget("{tokens: 1Ki}").amount, 1024U);
  EXPECT_EQ(budget("{pages: 64}").kind, BudgetKind::pages);
  EXPECT_EQ(budget("{bytes: 2GiB}").amount, 2ULL << 30);
  EXPECT_EQ(budget("{fraction: 2/8}").denominator, 4U);
  EXPECT_EQ(budget("100%").numerator, 1U);
}

TEST_F(ConfigFile, OverridesReplaceAddAndRemove) {
  const std::string text = base + "eviction: {policy: lru, budget: 50%}\n";
  const RunSpec spec = read(
      text, {"eviction.policy=fifo", "eviction.budget={tokens: 99}", "batch.max_num_seqs=16", "model.rope_theta=5e5", "eviction.protect.recent=1"});
  EXPECT_EQ(rule_name(spec.eviction.rule), "fifo");
  EXPECT_EQ(spec.eviction.budget.amount, 99U);
  EXPECT_EQ(spec.batch.max_num_seqs, 16U);
  EXPECT_EQ(spec.model.rope_theta, 5e5);
  EXPECT_EQ(spec.model.layers.size(), 4U);
  EXPECT_EQ(spec.eviction.protect.recent, 1U);
  EXPECT_EQ(rule_name(read(text, {"eviction=null"}).eviction.rule), "full");
  EXPECT_THAT(spec.config_yaml, HasSubstr("# override: eviction.policy=fifo"));
}

TEST_F(ConfigFile, BadOverridesNameTheirPlace) {
  EXPECT_THAT(error(base, {"seed=1", "eviction.polcy=lru"}),
              HasSubstr("<command line>:2: eviction.polcy=lru: error: unknown key 'polcy' in eviction"));
  EXPECT_THAT(error(base, {"batch.max_num_seqs=many"}),
              HasSubstr("<command line>:1: batch.max_num_seqs=many: error: batch.max_num_seqs: expected a whole number"));
  EXPECT_THAT(error(base, {"verbose"}), HasSubstr("an override is key.path=value"));
  EXPECT_THAT(error(base, {"seed="}), HasSubstr("seed: no value after '='"));
  EXPECT_THAT(error(base, {"batch..load=1"}), HasSubstr("is not a path of keys"));
  EXPECT_THAT(error(base, {"seed=[1"}), HasSubstr("not valid YAML"));
}

TEST_F(ConfigFile, EveryProblemAtOnceWithPlaceAndCaret) {
  const std::string text = error(base + "page: {slots: 7}\nbatch: {max_num_seq: 8}\neviction: {policy: lur}\n");
  EXPECT_THAT(text, HasSubstr("case.yaml:3:15: error: page.slots: 7 slots are out of range"));
  EXPECT_THAT(text, HasSubstr("case.yaml:4:9: error: unknown key 'max_num_seq'"));
  EXPECT_THAT(text, HasSubstr("case.yaml:5:20: error: eviction.policy: unknown value 'lur'"));
  EXPECT_THAT(text, HasSubstr("    3 | page: {slots: 7}\n      |               ^"));
}

TEST_F(ConfigFile, ProcessesMustFitTheRanks) {
  EXPECT_THAT(error(base + "cluster: {ranks: 2}\n", {}, 4), HasSubstr("4 processes cannot host 2 logical ranks"));
  EXPECT_THAT(error(base + "transport: local\n", {}, 2), HasSubstr("transport local is one process"));
}

TEST_F(ConfigFile, HostileFilesAreRefused) {
  EXPECT_THAT(error(std::string(1 << 21, ' ')), HasSubstr("larger than 1 MiB"));
  EXPECT_THAT(error(base + std::string("name: a\0b\n", 10)), HasSubstr("control character"));
  EXPECT_THAT(error("a: " + std::string(200, '[')), HasSubstr("not valid YAML"));
  EXPECT_THAT(error("a: " + std::string(200000, '{')), HasSubstr("not valid YAML"));
  EXPECT_THROW((void)read_run_spec("/nonexistent/x.yaml"), UserError);
  EXPECT_THROW((void)read_run_spec("/"), UserError);
}

TEST_F(ConfigFile, ResolvedTextReadsBackTheSame) {
  for (const char* extra :
       {"", "eviction: {policy: streaming, start: 9, budget: 1/3}\n",
        "compression: {codec: fp8_e4m3.head, head_scale: 0.1}\nname: \"a \\\"b\\\" #c\"\n",
        "placement: {layout: expert, map: pikv_xor, fold: true}\ncluster: {ranks: 3, network: host-shm}\nbatch: {load: concurrency(3)}\n"}) {
    for (const char* model : {"tinymoe", "gpt-oss-20b", "deepseek-v2-lite", "qwen3.5-35b-a3b", "llama-4-maverick"}) {
      const RunSpec first = read("model: " + std::string(model) + "\ntrace: {synthetic: dsv2lite}\n" + extra);
      const RunSpec again = read(first.resolved_yaml);
      EXPECT_EQ(again.resolved_yaml, first.resolved_yaml) << model << extra;
      EXPECT_EQ(again.config_digest, first.config_digest) << model << extra;
    }
  }
}

TEST_F(ConfigFile, DigestHoldsWhatDecides) {
  const std::string digest = read(base).config_digest;
  EXPECT_EQ(read(base, {"backend=host", "threads=2", "name=other", "transport=local"}).config_digest, digest);
  EXPECT_NE(read(base, {"seed=2"}).config_digest, digest);
  EXPECT_NE(read(base, {"page.slots=32"}).config_digest, digest);
  EXPECT_NE(read(base, {}, 2).config_digest, digest);
}

}  // namespace
}  // namespace moekv
