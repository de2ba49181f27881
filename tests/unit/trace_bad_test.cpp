// Bad traces: each kind is refused, or warned of, with one message that names file, dataset, place and a way out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "core/error.hpp"
#include "support/temp_dir.hpp"
#include "support/trace_fixtures.hpp"
#include "trace/source.hpp"
#include "trace/validate.hpp"

namespace moekv {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

/// When the mistake must be noticed: on opening, or at the latest when the row is read. The full check names it always.
enum class Noticed : std::uint8_t { on_opening, on_reading, by_check_only };

struct BadTrace {
  const char* name;
  std::function<void(h5::File&)> spoil;
  Noticed noticed;
  const char* place;    // end of Problem::where
  const char* message;  // part of Problem::what
};

template <class T>
void put(h5::File& file, const std::string& name, std::uint64_t row, T value) {
  h5::Dataset data = file.dataset(name);
  std::vector<T> rows(data.row_elements());
  data.read_rows(row, 1, rows.data());
  rows[0] = value;
  data.write_rows(row, std::span<const T>(rows));
}

void replace(h5::File& file, const std::string& name, h5::Type type, const h5::Dims& dims, const h5::Storage& storage = {}) {
  file.remove(name);
  (void)file.create_dataset(name, type, dims, storage);
}

std::vector<BadTrace> bad_traces() {
  using enum Noticed;
  const std::uint64_t n = 57;  // tokens of the fixture
  return {
      {"format", [](h5::File& f) { f.set("format", "moekv-result"); }, on_opening, ".h5", "is of format 'moekv-result'"},
      {"version",
       [](h5::File& f) {
         f.set("version", std::vector<int>{2, 0});
       },
       on_opening, ".h5", "is of trace version [2, 0]"},
      {"level", [](h5::File& f) { f.set("routing_level", 7); }, on_opening, ".h5", "'routing_level' is 7"},
      {"level_type", [](h5::File& f) { f.set("routing_level", "full"); }, on_opening, ".h5", "'routing_level' must be an integer"},
      {"weight_kind", [](h5::File& f) { f.set("weight_kind", "renom"); }, on_opening, ".h5", "'weight_kind' is 'renom'"},
      {"n_experts", [](h5::File& f) { f.group("model").set("n_experts", 5000); }, on_opening, "/model", "'n_experts' is 5000"},
      {"top_k", [](h5::File& f) { f.group("model").set("top_k", 9); }, on_opening, "/model", "'top_k' is 9"},
      {"latent", [](h5::File& f) { f.group("model").set("attn", "mla"), f.group("model").set("kv_lora_rank", 100); }, on_opening, "/model",
       "do not fit kv_lora_rank"},
      {"layers",
       [](h5::File& f) {
         f.dataset("model/moe_layer_ids").write_rows<std::int16_t>(0, std::vector<std::int16_t>{1, 0});
       },
       on_opening, "/moe_layer_ids", "[1, 0] does not ascend"},
      {"no_model", [](h5::File& f) { f.remove("model"); }, on_opening, ".h5", "'model' is missing"},
      {"no_ids", [](h5::File& f) { f.remove("routing/expert_ids"); }, on_opening, ".h5", "'routing/expert_ids' is missing"},
      {"no_weights", [](h5::File& f) { f.remove("routing/weights"); }, on_opening, ".h5", "'routing/weights' is missing"},
      {"csr_order", [](h5::File& f) { put<std::uint64_t>(f, "requests/token_offset", 2, 3); }, on_opening, "/token_offset",
       "row 2: 3 after 8: not monotone"},
      {"csr_sum", [](h5::File& f) { put<std::uint32_t>(f, "requests/prompt_len", 1, 2); }, on_opening, "/token_offset",
       "request 1 has 13 rows, but prompt_len 2 + output_len 12"},
      {"arrival", [](h5::File& f) { put<std::int64_t>(f, "requests/arrival_ns", 2, -5); }, on_opening, "/arrival_ns", "request 2 arrives at -5"},
      {"csr_begin", [](h5::File& f) { put<std::uint64_t>(f, "requests/token_offset", 0, 1); }, on_opening, "/token_offset", "begins with 1"},
      {"column_length", [](h5::File& f) { replace(f, "requests/session", h5::Type::i32, {3}); }, on_opening, "/session",
       "claims 12 bytes but stores 0"},
      {"shape",
       [=](h5::File& f) {
         f.remove("routing/weights"), f.write("routing/weights", std::span<const h5::Half>(std::vector<h5::Half>(n * 6)), {n, 2, 3});
       },
       on_opening, "/weights", "has shape [57, 2, 3], expected [57, 2, 2]"},
      {"type",
       [=](h5::File& f) {
         f.remove("routing/expert_ids"), f.write("routing/expert_ids", std::span<const float>(std::vector<float>(n * 4)), {n, 2, 2});
       },
       on_opening, "/expert_ids", "has type f32, expected u8 or u16"},
      {"huge",
       [](h5::File& f) {
         replace(f, "routing/expert_ids", h5::Type::u8, {std::uint64_t{1} << 50, 2, 2}, {.chunk = {1024, 2, 2}});
       },
       on_opening, "/expert_ids", "bytes but stores 0"},
      {"huge_chunk",
       [](h5::File& f) {
         replace(f, "routing/expert_ids", h5::Type::u8, {57, 2, 2}, {.chunk = {1U << 28, 2, 2}, .extendable = true});
       },
       on_opening, "/expert_ids", "has chunks of 268435456 rows"},
      {"id_range", [](h5::File& f) { put<std::uint8_t>(f, "routing/expert_ids", 9, 200); }, on_reading, "/expert_ids",
       "token row 9 layer 0 has {200,"},
      {"repeated",
       [](h5::File& f) {
         f.dataset("routing/expert_ids").write_rows<std::uint8_t>(9, std::vector<std::uint8_t>{3, 3, 1, 2});
       },
       on_reading, "/expert_ids", "occurs twice in one choice: token row 9 layer 0 has {3, 3}"},
      {"negative_weight", [](h5::File& f) { put<h5::Half>(f, "routing/weights", 9, {0xB800}); }, on_reading, "/weights",
       "a weight is negative or not finite: token row 9"},
      {"infinite_weight", [](h5::File& f) { put<h5::Half>(f, "routing/weights", 9, {0x7C00}); }, on_reading, "/weights",
       "a weight is negative or not finite: token row 9"},
      {"weight_sum", [](h5::File& f) { put<h5::Half>(f, "routing/weights", 9, {0x3C00}); }, on_reading, "/weights",
       "weights do not fit weight_kind 'renorm': token row 9"},
      {"infinite_logit", [](h5::File& f) { put<h5::Half>(f, "routing/logits", 11, {0xFC00}); }, on_reading, "/logits", "not finite"},
      {"position", [](h5::File& f) { put<std::uint32_t>(f, "tokens/position", 10, 7); }, on_reading, "/position",
       "token row 10: request 1 has 7 where 2 is next"},
      {"phase", [](h5::File& f) { put<std::uint8_t>(f, "tokens/phase", 1, 1); }, on_reading, "/phase", "request 0 position 1 has phase 1, not 0"},
      {"infinite_key", [](h5::File& f) { put<h5::Half>(f, "kv/k", 4, {0x7E00}); }, on_reading, "/k", "not finite"},
      {"partly_zero",
       [](h5::File& f) {
         f.dataset("routing/expert_ids").write_rows<std::uint8_t>(9, std::vector<std::uint8_t>{0, 0, 1, 2});
       },
       by_check_only, "/expert_ids", "layer 0 has 1 such tokens"},
      {"order_without_request", [](h5::File& f) { f.set("order", "step"); }, on_opening, ".h5", "'tokens/request' is missing"},
  };
}

class BadTraceTest : public ::testing::TestWithParam<BadTrace> {
 protected:
  static void read_all(const std::string& path) {
    const auto trace = open_native_trace(path);
    RoutingRows rows;
    RecordedKv kv;
    for (std::uint32_t r = 0; r < trace->n_requests(); ++r) {
      const std::uint32_t n = trace->request(RequestId(r)).total_tokens();
      trace->read(RequestId(r), 0, n, 0, 2, WantLogits::yes, rows);
      for (const auto layer : trace->info().kv_layers) trace->read_kv(RequestId(r), 0, n, LayerId(layer), kv);
    }
  }
};

TEST_P(BadTraceTest, IsOneClearMessage) {
  const BadTrace& bad = GetParam();
  const TempDir dir;
  const std::string path = dir.file("t.moekv.h5");
  FixtureSpec spec;
  spec.level = RoutingLevel::logits;
  spec.kv = FixtureKv::gqa;
  write_fixture(path, spec);
  ASSERT_THAT(validate_trace(path).errors, IsEmpty());
  {
    auto file = h5::File::open(path, h5::Access::update);
    bad.spoil(file);
    file.close();
  }
  const TraceReport report = validate_trace(path);
  ASSERT_THAT(report.errors, SizeIs(1)) << format_problems(report.errors);
  const Problem& p = report.errors[0];
  EXPECT_TRUE(p.where.starts_with(path) && p.where.ends_with(bad.place)) << p.where;
  EXPECT_THAT(p.what, HasSubstr(bad.message));
  if (bad.noticed == Noticed::on_opening) {
    EXPECT_THROW((void)open_native_trace(path), UserError);
  }
  if (bad.noticed != Noticed::on_opening) {
    EXPECT_NO_THROW((void)open_native_trace(path));
  }
  if (bad.noticed == Noticed::on_reading) {
    EXPECT_THROW(read_all(path), UserError);
  }
  if (bad.noticed == Noticed::by_check_only) {
    EXPECT_NO_THROW(read_all(path));
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, BadTraceTest, ::testing::ValuesIn(bad_traces()), [](const auto& test) { return std::string(test.param.name); });

TEST(BadTraces, AllProblemsAreToldAtOnce) {
  const TempDir dir;
  const std::string path = dir.file("t.h5");
  write_fixture(path, {});
  {
    auto file = h5::File::open(path, h5::Access::update);
    file.set("order", "steps");
    file.group("model").set("top_k", 0);
    put<std::uint64_t>(file, "requests/token_offset", 0, 1);
    file.close();
  }
  EXPECT_THAT(validate_trace(path).errors, SizeIs(3));
}

TEST(BadTraces, StepOrderNeedsPositionsInOrder) {
  const TempDir dir;
  const std::string path = dir.file("t.h5");
  write_fixture(path, {});
  reorder_by_steps(path, {});
  ASSERT_THAT(validate_trace(path).errors, IsEmpty());
  {
    auto file = h5::File::open(path, h5::Access::update);
    put<std::uint32_t>(file, "tokens/position", 0, 1);
    file.close();
  }
  EXPECT_THROW((void)open_native_trace(path), UserError);
  const auto errors = validate_trace(path).errors;
  ASSERT_FALSE(errors.empty());
  EXPECT_THAT(errors[0].what, HasSubstr("row 0: position 1 of request 0 where 0 is next"));
}

/// A trace of one request whose choices `choose` makes; warnings of the full check.
std::vector<Problem> warnings_of(std::uint32_t n_tokens, const std::function<void(std::uint32_t t, std::vector<std::uint16_t>& ids)>& choose) {
  const TempDir dir;
  const std::string path = dir.file("t.h5");
  FixtureSpec spec;
  spec.n_experts = 16;
  spec.level = RoutingLevel::ids;
  spec.lengths = {{n_tokens, 0}};
  spec.block_tokens = 1;
  std::uint32_t t = 0;
  write_fixture(path, spec, [&](std::uint32_t, TokenBlock& b) { choose(t++, b.ids); });
  const TraceReport report = validate_trace(path);
  EXPECT_THAT(report.errors, IsEmpty()) << format_problems(report.errors);
  return report.warnings;
}

TEST(TraceWarnings, SoundRoutingHasNone) {
  EXPECT_THAT(warnings_of(600, [](std::uint32_t, auto&) {}), IsEmpty());
}

TEST(TraceWarnings, WarmUpRows) {
  const auto warnings = warnings_of(600, [](std::uint32_t t, auto& ids) {
    if (t >= 100 && t < 164) ids[2] = t % 2, ids[3] = 1 - t % 2;  // one set, in any slot order
  });
  ASSERT_THAT(warnings, SizeIs(1));
  EXPECT_THAT(warnings[0].what, HasSubstr("text: token rows 100..164 share one expert set; layers 1"));
  EXPECT_THAT(warnings_of(600,
                          [](std::uint32_t t, auto& ids) {
                            if (t >= 100 && t < 160) ids[2] = 0, ids[3] = 1;
                          }),
              IsEmpty());
}

TEST(TraceWarnings, Interleaving) {
  const auto warnings = warnings_of(1200, [](std::uint32_t t, auto& ids) {  // five sequences in turns, each keeps its experts for eight of its tokens
    const std::uint64_t h = hash_words(3, t % 5, t / 40);
    for (std::size_t l = 0; l < 2; ++l) {
      ids[2 * l] = static_cast<std::uint16_t>((h >> (8 * l)) % 16);
      ids[2 * l + 1] = static_cast<std::uint16_t>((ids[2 * l] + 1 + (h >> (8 * l + 4)) % 15) % 16);
    }
  });
  ASSERT_THAT(warnings, SizeIs(1));
  EXPECT_THAT(warnings[0].what, HasSubstr("experts of 5 tokens before"));
  EXPECT_THAT(warnings[0].suggestion, HasSubstr("--deinterleave 5"));
}

TEST(TraceWarnings, IdenticalDenseAndDeadLayersAndSentinels) {
  const auto equal = warnings_of(300, [](std::uint32_t, auto& ids) { ids[2] = ids[0], ids[3] = ids[1]; });
  ASSERT_THAT(equal, SizeIs(1));
  EXPECT_THAT(equal[0].what, HasSubstr("identical layers: 0, 1"));
  const auto dense = warnings_of(300, [](std::uint32_t, auto& ids) { ids[0] = ids[1] = 0; });
  ASSERT_THAT(dense, SizeIs(1));
  EXPECT_THAT(dense[0].what, HasSubstr("all-zero layers: 0 "));
  const auto dead = warnings_of(300, [](std::uint32_t t, auto& ids) {
    ids[2] = static_cast<std::uint16_t>(hash_words(5, t) % 6);
    ids[3] = static_cast<std::uint16_t>((ids[2] + 1 + hash_words(6, t) % 5) % 6);
  });
  ASSERT_THAT(dead, SizeIs(1));
  EXPECT_THAT(dead[0].what, HasSubstr("more than half of the 16 experts are never chosen; layers 1"));
  const auto absent = warnings_of(300, [](std::uint32_t t, auto& ids) {
    if (t == 7) ids[1] = ExpertId::invalid;
  });
  ASSERT_THAT(absent, SizeIs(1));
  EXPECT_THAT(absent[0].what, HasSubstr("sentinels: 1 expert ids"));
}

}  // namespace
}  // namespace moekv
