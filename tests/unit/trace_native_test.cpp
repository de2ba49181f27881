// Native traces: every level, both orders and both attention kinds come back as they were written; damaged files are refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "core/error.hpp"
#include "io/row_reader.hpp"
#include "support/temp_dir.hpp"
#include "support/trace_fixtures.hpp"
#include "trace/native_file.hpp"
#include "trace/source.hpp"
#include "trace/validate.hpp"

namespace moekv {
namespace {

using ::testing::HasSubstr;

/// Compares what a reader returns for a range with the fixture's own values.
void expect_rows(TraceSource& trace, const FixtureSpec& spec, std::uint32_t r, std::uint32_t begin, std::uint32_t end, std::uint32_t layer_begin,
                 std::uint32_t layer_end) {
  RoutingRows rows;
  trace.read(RequestId(r), begin, end, layer_begin, layer_end, WantLogits::yes, rows);
  const TokenBlock want = fixture_block(spec, r, begin, end);
  const std::size_t layers = spec.moe_layers.size();
  const std::size_t k = spec.top_k;
  const std::size_t n_layers = layer_end - layer_begin;
  ASSERT_EQ(rows.ids.size(), (end - begin) * n_layers * k);
  ASSERT_EQ(rows.weights.size(), spec.level >= RoutingLevel::weights ? rows.ids.size() : 0);
  ASSERT_EQ(rows.logits.size(), spec.level >= RoutingLevel::candidates ? (end - begin) * n_layers * spec.n_experts : 0);
  for (std::size_t t = 0; t < end - begin; ++t) {
    for (std::size_t l = 0; l < n_layers; ++l) {
      const std::size_t source = t * layers + layer_begin + l;
      const std::size_t target = t * n_layers + l;
      for (std::size_t i = 0; i < k; ++i) {
        EXPECT_EQ(rows.ids[target * k + i], want.ids[source * k + i]);
        if (!rows.weights.empty()) {
          EXPECT_NEAR(rows.weights[target * k + i], want.weights[source * k + i], 3e-4F);
        }
      }
      if (rows.logits.empty()) continue;
      std::vector<float> logits(spec.n_experts, -std::numeric_limits<float>::infinity());
      for (std::size_t i = 0; i < spec.n_experts; ++i) {
        if (spec.level == RoutingLevel::logits) logits[i] = want.logits[source * spec.n_experts + i];
      }
      for (std::size_t i = 0; spec.level == RoutingLevel::candidates && i < spec.n_candidates; ++i) {
        logits[want.cand_ids[source * spec.n_candidates + i]] = want.cand_logit[source * spec.n_candidates + i];
      }
      for (std::size_t i = 0; i < spec.n_experts; ++i) EXPECT_EQ(rows.logits[target * spec.n_experts + i], logits[i]);
    }
  }
}

void expect_kv(TraceSource& trace, const FixtureSpec& spec, std::uint32_t r, std::uint32_t begin, std::uint32_t end) {
  const TokenBlock want = fixture_block(spec, r, begin, end);
  const std::size_t tokens = end - begin;
  RecordedKv kv;
  for (std::uint16_t layer = 0; layer < spec.n_layers; ++layer) {
    trace.read_kv(RequestId(r), begin, end, LayerId(layer), kv);
    const auto check = [&](const std::vector<float>& have, const std::vector<float>& all) {
      ASSERT_EQ(have.size() * spec.n_layers, all.size());
      const std::size_t width = tokens == 0 ? 0 : have.size() / tokens;
      for (std::size_t i = 0; i < have.size(); ++i) ASSERT_EQ(have[i], all[(i / width * spec.n_layers + layer) * width + i % width]);
    };
    check(kv.q, want.q);
    check(kv.k, want.k);
    check(kv.v, want.v);
  }
}

class NativeTraceTest : public ::testing::Test {
 protected:
  TempDir dir;
  std::string path = dir.file("t.moekv.h5");
};

struct Variant {
  RoutingLevel level;
  FixtureKv kv;
  KvType kv_type;
  bool by_steps;
};

class RoundTrip : public NativeTraceTest, public ::testing::WithParamInterface<Variant> {};

TEST_P(RoundTrip, GivesBackEveryRange) {
  FixtureSpec spec;
  spec.level = GetParam().level;
  spec.kv = GetParam().kv;
  spec.kv_type = GetParam().kv_type;
  spec.n_layers = 4;
  spec.moe_layers = {0, 1, 3};
  write_fixture(path, spec);
  if (GetParam().by_steps) reorder_by_steps(path, spec);
  const auto trace = open_native_trace(path);
  ASSERT_EQ(trace->n_requests(), spec.lengths.size());
  EXPECT_EQ(trace->info().level, spec.level);
  EXPECT_EQ(trace->info().moe_layers, spec.moe_layers);
  EXPECT_EQ(trace->info().shape.mla(), spec.kv == FixtureKv::mla);
  for (std::uint32_t r = 0; r < trace->n_requests(); ++r) {
    const RequestInfo info = trace->request(RequestId(r));
    EXPECT_EQ(info.prompt_tokens, spec.lengths[r].first);
    EXPECT_EQ(info.output_tokens, spec.lengths[r].second);
    EXPECT_EQ(info.arrival_ns, 1000 * r);
    const std::uint32_t n = info.total_tokens();
    expect_rows(*trace, spec, r, 0, n, 0, 3);
    expect_rows(*trace, spec, r, n / 3, n, 1, 3);
    for (std::uint32_t t = 0; t < n; ++t) expect_rows(*trace, spec, r, t, t + 1, 2, 3);
    expect_rows(*trace, spec, r, n, n, 0, 3);
    if (spec.kv != FixtureKv::none) expect_kv(*trace, spec, r, n / 4, n);
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, RoundTrip,
                         ::testing::Values(Variant{RoutingLevel::ids, FixtureKv::none, KvType::fp16, false},
                                           Variant{RoutingLevel::weights, FixtureKv::gqa, KvType::fp16, false},
                                           Variant{RoutingLevel::weights, FixtureKv::mla, KvType::bf16, false},
                                           Variant{RoutingLevel::candidates, FixtureKv::none, KvType::fp16, false},
                                           Variant{RoutingLevel::logits, FixtureKv::gqa, KvType::bf16, false},
                                           Variant{RoutingLevel::weights, FixtureKv::none, KvType::fp16, true},
                                           Variant{RoutingLevel::candidates, FixtureKv::mla, KvType::fp16, true}));

TEST_F(NativeTraceTest, ManyExpertsAndAbsentOnesRoundTrip) {
  FixtureSpec spec;
  spec.n_experts = 896;
  spec.top_k = 22;
  write_fixture(path, spec, [](std::uint32_t r, TokenBlock& b) {
    if (r != 1) return;
    b.ids[3] = ExpertId::invalid;
    b.weights[3] = 0.0F;
  });
  const auto trace = open_native_trace(path);
  RoutingRows rows;
  trace->read(RequestId(0), 0, 8, 0, 2, WantLogits::no, rows);
  EXPECT_GT(*std::max_element(rows.ids.begin(), rows.ids.end()), 255);
  trace->read(RequestId(1), 0, 1, 0, 1, WantLogits::no, rows);
  EXPECT_EQ(rows.ids[3], ExpertId::invalid);
}

TEST_F(NativeTraceTest, SentinelOfByteIdsIsAbsent) {
  FixtureSpec spec;
  write_fixture(path, spec, [](std::uint32_t, TokenBlock& b) { b.ids[1] = ExpertId::invalid; });
  RoutingRows rows;
  open_native_trace(path)->read(RequestId(0), 0, 1, 0, 2, WantLogits::no, rows);
  EXPECT_EQ(rows.ids[1], ExpertId::invalid);
  EXPECT_LT(rows.ids[0], 8);
}

TEST_F(NativeTraceTest, ZeroFilledChoiceMeansNoExperts) {
  FixtureSpec spec;
  write_fixture(path, spec, [](std::uint32_t, TokenBlock& b) { b.ids[0] = b.ids[1] = 0; });
  RoutingRows rows;
  open_native_trace(path)->read(RequestId(0), 0, 1, 0, 1, WantLogits::no, rows);
  EXPECT_EQ(rows.ids, (std::vector<std::uint16_t>{ExpertId::invalid, ExpertId::invalid}));
}

TEST_F(NativeTraceTest, LongTextsAreClippedToWhatReadersAccept) {
  const FixtureSpec spec;
  WriterSpec w = fixture_writer(spec);
  w.info.source = std::string(10000, 's');
  {
    NativeWriter writer(path, w);
    writer.note(std::string(10000, 'n'));
    writer.begin_request({.prompt_tokens = 1});
    writer.append(fixture_block(spec, 0, 0, 1));
    writer.finish();
  }
  EXPECT_EQ(open_native_trace(path)->info().source.size(), 4095U);
}

TEST_F(NativeTraceTest, WriterRefusesWhatNoReaderAccepts) {
  const auto message = [&](const FixtureSpec& spec, const std::function<void(TokenBlock&)>& edit) -> std::string {
    try {
      write_fixture(path, spec, [&](std::uint32_t r, TokenBlock& b) {
        if (r == 1) edit(b);
      });
    } catch (const UserError& e) {
      return e.what();
    }
    return "no error";
  };
  FixtureSpec spec;
  spec.kv = FixtureKv::gqa;
  EXPECT_THAT(message(spec, [](TokenBlock& b) { b.ids[2] = 8; }), HasSubstr("request 1 position 0 layer 1: {8,"));
  EXPECT_THAT(message(spec, [](TokenBlock& b) { b.ids[0] = b.ids[1] = 3; }), HasSubstr("{3, 3}: an expert occurs twice"));
  EXPECT_THAT(message(spec, [](TokenBlock& b) { b.weights[0] = -0.5F; }), HasSubstr("-0.5 cannot be stored (weights are finite"));
  EXPECT_THAT(message(spec, [](TokenBlock& b) { b.weights[0] = NAN; }), HasSubstr("nan cannot be stored"));
  EXPECT_THAT(message(spec, [](TokenBlock& b) { b.k.back() = 1e6F; }), HasSubstr("bf16"));
  EXPECT_THAT(message(spec, [](TokenBlock& b) { b.q.pop_back(); }), HasSubstr("q has"));
  EXPECT_THAT(message(spec, [](TokenBlock& b) { b.n_tokens = 100; }), HasSubstr("more than its 13 tokens"));
  EXPECT_THAT(message(spec, [](TokenBlock& b) { b = TokenBlock(); }), HasSubstr("has rows for"));
  EXPECT_TRUE(std::filesystem::is_empty(dir.path())) << "a failed writer leaves nothing";
}

TEST_F(NativeTraceTest, CacheStaysWithinItsBytesOverALongTrace) {
  FixtureSpec spec;
  spec.n_experts = 64;
  spec.top_k = 6;
  spec.moe_layers.clear();
  for (std::uint16_t l = 0; l < 24; ++l) spec.moe_layers.push_back(l);
  spec.n_layers = 24;
  spec.lengths.assign(4, {6000, 0});
  spec.block_tokens = 1000;
  write_fixture(path, spec);
  const std::uint64_t limit = 3U << 20;
  native::NativeFile file(path, limit);
  RowReader ids = file.checked_ids("routing/expert_ids");
  ASSERT_GT(ids.n_rows() * ids.row_bytes(), limit);
  std::uint64_t most = 0;
  for (std::uint64_t begin = 0; begin < ids.n_rows();) {
    begin += ids.piece(begin, ids.n_rows()).n_rows;
    most = std::max(most, file.cache->resident_bytes());
  }
  EXPECT_LE(most, limit);
  EXPECT_GT(most, limit / 2);
}

TEST_F(NativeTraceTest, HandmadeStorageReadsTheSame) {
  FixtureSpec spec;
  write_fixture(path, spec);
  const auto reference = open_native_trace(path);
  const std::string other = dir.file("other.h5");
  const std::vector<h5::Storage> storages = {{},
                                             {.chunk = {7, 1, 2}},
                                             {.chunk = {5, 2, 1}, .deflate_level = 1, .shuffle = true, .fletcher32 = true},
                                             {.chunk = {64, 2, 2}, .extendable = true, .fletcher32 = true}};
  for (const auto& storage : storages) {
    std::filesystem::copy_file(path, other, std::filesystem::copy_options::overwrite_existing);
    auto file = h5::File::open(other, h5::Access::update);
    const auto ids = file.dataset("routing/expert_ids").read<std::uint16_t>();  // also wider than it needs to be
    const h5::Dims dims = file.dataset("routing/expert_ids").dims();
    file.remove("routing/expert_ids");
    file.write("routing/expert_ids", std::span<const std::uint16_t>(ids), dims, storage);
    file.close();
    const auto trace = open_native_trace(other);
    for (std::uint32_t r = 0; r < trace->n_requests(); ++r) {
      RoutingRows a;
      RoutingRows b;
      const std::uint32_t n = trace->request(RequestId(r)).total_tokens();
      reference->read(RequestId(r), 0, n, 0, 2, WantLogits::no, a);
      trace->read(RequestId(r), 0, n, 0, 2, WantLogits::no, b);
      EXPECT_EQ(a.ids, b.ids);
      trace->read(RequestId(r), n - 1, n, 1, 2, WantLogits::no, b);
      EXPECT_EQ(b.ids[0], a.ids[a.ids.size() - 2]);
    }
  }
}

TEST(NativeTraceCheck, SomeArrivalsAreUnknown) {
  const TempDir dir;
  const std::string path = dir.file("t.moekv.h5");
  const auto warnings = [&](std::int64_t known) {
    write_fixture(path, {});
    {
      h5::File file = h5::File::open(path, h5::Access::update);
      std::vector<std::int64_t> arrivals(4, -1);
      std::fill_n(arrivals.begin(), known, 7);
      file.dataset("requests/arrival_ns").write_rows<std::int64_t>(0, arrivals);
    }
    return validate_trace(path).warnings;
  };
  EXPECT_THAT(warnings(0), ::testing::IsEmpty());
  EXPECT_THAT(warnings(4), ::testing::IsEmpty());
  ASSERT_THAT(warnings(3), ::testing::SizeIs(1));
  EXPECT_THAT(warnings(3)[0].what, ::testing::HasSubstr("1 of 4 requests have no arrival time"));
}

TEST(NativeTraceCheck, ExpertsThatAreNotTheLargestLogits) {
  const TempDir dir;
  const std::string path = dir.file("t.moekv.h5");
  FixtureSpec spec;
  spec.level = RoutingLevel::logits;
  const auto warnings = [&](std::uint32_t changed) {
    write_fixture(path, spec, [&](std::uint32_t r, TokenBlock& block) {
      for (std::uint32_t t = 0; r == 0 && t < std::min(changed, block.n_tokens); ++t) {  // of layer 0: the least of all instead of the second
        const auto first = block.logits.begin() + t * 2 * spec.n_experts;
        block.ids[std::size_t{t} * 2 * spec.top_k + 1] = static_cast<std::uint16_t>(std::min_element(first, first + spec.n_experts) - first);
      }
    });
    return validate_trace(path).warnings;
  };
  EXPECT_THAT(warnings(0), ::testing::IsEmpty());
  const auto found = warnings(1);  // the request of 8 tokens comes in three blocks
  ASSERT_THAT(found, ::testing::SizeIs(1));
  EXPECT_THAT(found[0].what, ::testing::HasSubstr("token row 0 layer 0: expert "));
  EXPECT_THAT(found[0].what, ::testing::HasSubstr("has 7 above it, and 2 more"));
}

}  // namespace
}  // namespace moekv
