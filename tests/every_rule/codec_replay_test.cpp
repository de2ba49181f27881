// Every codec of the catalogue in a replay: pages are sealed, decisions stay those of uncompressed pages, sizes are ordered, fidelity is measured.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "engine/codec_tables.hpp"
#include "engine/replay.hpp"
#include "engine/summarise.hpp"
#include "io/hdf5.hpp"
#include "support/parts_codecs.hpp"
#include "support/replay_fixture.hpp"
#include "support/replay_parts.hpp"
#include "support/same_rows.hpp"
#include "support/temp_dir.hpp"
#include "support/test_name.hpp"

namespace moekv {
namespace {

using testing::gqa_model;
using testing::run_replay;
using testing::small_spec;

constexpr std::uint32_t d_replayed = 32;

/// Every codec; bases and pruning leave half of the channels, loaded maps (identities here) all.
std::vector<Codec> codecs() {
  std::vector<Codec> all = []<class... C>(std::variant<C...>*) { return std::vector<Codec>{C{}...}; }(static_cast<Codec*>(nullptr));
  for (Codec& codec : all) {
    std::visit([](auto& c) {
      if constexpr (requires { c.pruned; }) c.pruned = 0.5F;
      if constexpr (requires { c.rank; }) {
        if (c.plane(Role::k, d_replayed).fit != TableFit::loaded) c.rank = std::min(c.rank, d_replayed / 2);
      }
    }, codec);
  }
  for (const auto& [name, parts] : testing::combinations()) all.emplace_back(parts);
  return all;
}

class CodecInReplay : public ::testing::TestWithParam<Codec> {};
INSTANTIATE_TEST_SUITE_P(Catalogue, CodecInReplay, ::testing::ValuesIn(codecs()), [](const auto& entry) {
  const std::string name(std::visit([](const auto& codec) { return codec.name; }, entry.param));
  return testing::test_name(name + (entry.index < std::variant_size_v<Codec> ? "" : std::to_string(entry.index)));
});

/// Identity maps of `rank` rows for one layer and head that stand for all.
void write_identity(const std::string& path, std::uint32_t rank, std::uint32_t d) {
  std::vector<float> matrix(std::size_t{rank} * d), bias(d);
  for (std::uint32_t i = 0; i < rank; ++i) matrix[std::size_t{i} * d + i] = 1.0F;
  h5::File file = h5::File::create(path);
  for (const char* plane : {"k", "v"}) {
    h5::Group group = file.create_group(plane);
    group.write("down", std::span<const float>(matrix), {1, 1, rank, d});
    group.write("up", std::span<const float>(matrix), {1, 1, rank, d});
    group.write("bias", std::span<const float>(bias), {1, 1, d});
  }
  file.close();
}

RunSpec spec_of(const Codec& codec, const std::string& maps_path = {}, std::uint32_t d = 16) {
  RunSpec spec = small_spec(gqa_model(2));
  spec.model.d_k = spec.model.d_v = d;
  spec.page.slots = 32;
  spec.placement.layout = Layout::token;
  spec.placement.map = ShardMap::block_cyclic;
  spec.compression.k = spec.compression.v = codec;
  spec.compression.maps_path = maps_path;
  return spec;
}

const std::vector<RequestInfo>& requests() {
  static const std::vector<RequestInfo> all = testing::requests_of({{150, 40}, {64, 33}});
  return all;
}

TEST_P(CodecInReplay, SealsPagesAndKeepsDecisions) {
  const TempDir folder;
  const Codec& codec = GetParam();
  constexpr std::uint32_t d = d_replayed;
  const PlaneFormat plane = std::visit([](const auto& c) { return c.plane(Role::k, d); }, codec);
  const bool loaded = plane.fit == TableFit::loaded;
  const std::string path = folder.path() + "/maps.h5";
  if (loaded) write_identity(path, d, d);
  static const RunOutcome raw = run_replay(spec_of(codec::Fp32{}, {}, d), requests());
  static const RunOutcome sealed = run_replay(spec_of(codec::Int8Token{}, {}, d), requests());  // sealing ends pages early
  const RunOutcome out = run_replay(spec_of(codec, loaded ? path : "", d), requests());
  const bool one_way = classes_of(codec) == 1;
  if (one_way) {
    EXPECT_EQ(to_hex(out.digest), to_hex((plane.raw() ? raw : sealed).digest));
  }
  EXPECT_TRUE(out.violations.empty()) << out.violations.front();
  const StepRecord sum = testing::totals(out);
  if (plane.raw() && one_way) return;
  EXPECT_GT(sum.sealed_entries, 0);
  EXPECT_LE(sum.kv_bytes_codes, sum.kv_bytes_stored);
  EXPECT_LT(sum.kv_bytes_codes, sum.kv_bytes_raw);
  if (!loaded) {
    RunSpec half = spec_of(codec, {}, d);
    half.payload.element = ElementFormat::bf16;
    EXPECT_EQ(unshrunk_codec(half), "");
  }
  EXPECT_EQ(sum.codec_table_bytes > 0, plane.has_table() && plane.scope != TableScope::page);
  std::int64_t sealed_pages = 0, sampled = 0;
  for (const CodecRecord& row : out.codecs) {
    sealed_pages += row.sealed_pages;
    sampled += row.sampled_pages;
    EXPECT_LE(row.entropy_bits, row.code_bits + 64 * row.sampled_pages);
    if (one_way) {
      EXPECT_EQ(row.code_bits > 0, row.sampled_pages > 0 && element_bits(plane.element) < 16);
    }
    if (row.sampled_pages > 0 && one_way) {
      EXPECT_TRUE(row.k_err_ppm > 0 && row.asked_pages == row.sampled_pages && row.logit_err_ppm > 0);
    }
  }
  EXPECT_GT(sealed_pages, 0);
  EXPECT_GT(sampled, 0) << "every run of a codec says what it lost";
  for (const ProbeRecord& p : out.probes) EXPECT_TRUE(std::isfinite(p.attn_out_err));
  if (loaded && one_way) {  // identity maps lose what fp16 loses
    for (const ProbeRecord& p : out.probes) EXPECT_LT(p.attn_out_err, 2e-3);
  }
}

TEST_P(CodecInReplay, LeavesNoTraceOfAStop) {
  const TempDir folder;
  const bool loaded = std::visit([](const auto& c) { return c.plane(Role::k, d_replayed); }, GetParam()).fit == TableFit::loaded;
  if (loaded) write_identity(folder.path() + "/maps.h5", d_replayed, d_replayed);
  RunSpec spec = spec_of(GetParam(), loaded ? folder.path() + "/maps.h5" : "", d_replayed);
  spec.probe.samples = 16;
  spec.eviction.rule = evict::H2oSum{};
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  const std::vector<RequestInfo> few = testing::requests_of({{70, 24}, {40, 12}});
  const auto transport = make_local_transport();
  const RunOutcome whole = testing::replay_in_parts(spec, *transport, 0, few), parts = testing::replay_in_parts(spec, *transport, 12, few);
  EXPECT_GT(testing::totals(whole).evictions, 0);
  testing::expect_same(whole, parts);
}

TEST(CodecReplay, ACodecThatStoresEveryChannelIsNotExercised) {
  const auto run = [](const Codec& codec, std::uint32_t d) {
    RunSpec spec = spec_of(codec, {}, d);
    spec.payload.element = ElementFormat::bf16;
    testing::RandomTrace trace(spec.model, requests(), 11);
    const auto transport = make_local_transport();
    const auto backend = make_host_backend(1);
    return replay(spec, trace, *backend, *transport);
  };
  const auto says = [](const RunOutcome& out, const std::string& what) {
    return std::any_of(out.notes.begin(), out.notes.end(), [&](const std::string& note) { return note.find(what) != std::string::npos; });
  };
  const auto idle = [](const RunOutcome& out) { return std::find(out.labels.begin(), out.labels.end(), "not_exercised") != out.labels.end(); };
  const RunOutcome padded = run(codec::PruneThink{}, 32), pruned = run(codec::PruneThink{.pruned = 0.5F}, 32), basis = run(codec::LowrankPca{}, 16);
  EXPECT_TRUE(idle(padded) && says(padded, "all 32 channels of K") && says(padded, "compression.pruned of 0.5 or more"));
  EXPECT_TRUE(!idle(pruned) && pruned.notes.empty());
  EXPECT_TRUE(idle(basis) && says(basis, "compression.rank below 16"));
}

/// A codec with several classes, in a replay: what its rows say of them.
struct Classes {
  RunOutcome out;
  std::vector<CodecRecord> rows;  // windows summed, levels of the last
};
Classes run_classes(const Codec& codec, const std::string& maps = {}, int threads = 1, Layout layout = Layout::token) {
  RunSpec spec = spec_of(codec, maps);
  if (layout == Layout::expert) {
    testing::use_expert_layout(spec);
    spec.page.slots = 8;
  }
  testing::RandomTrace trace(spec.model, requests(), 11);
  const auto transport = make_local_transport();
  const auto backend = make_host_backend(threads);
  Classes c{run_replay(spec, *transport, *backend, trace), {}};
  for (const CodecRecord& row : c.out.codecs) {
    c.rows.resize(std::max(c.rows.size(), static_cast<std::size_t>(row.page_class) + 1));
    combine_rows(c.rows[static_cast<std::size_t>(row.page_class)], row);
  }
  EXPECT_TRUE(c.out.violations.empty()) << c.out.violations.front();
  return c;
}

std::int64_t sealed_pages(const Classes& c) {
  std::int64_t n = 0;
  for (const CodecRecord& row : c.rows) n += row.sealed_pages;
  return n;
}

/// A threshold between 0 and `most` at which some pages, not all, are of the smallest class. Of(threshold) runs the codec; more pages are of that
/// class with a larger one.
template <class F>
float dividing_threshold(float most, F&& of) {
  float low = 0, high = most;
  for (int i = 0; i < 30; ++i) {
    const float middle = (low + high) / 2;
    const Classes c = of(middle);
    const std::int64_t smallest = c.rows[0].sealed_pages;
    if (smallest > 0 && smallest < sealed_pages(c)) return middle;
    (smallest == 0 ? low : high) = middle;
  }
  ADD_FAILURE() << "no threshold divides the pages";
  return low;
}

TEST(PageClasses, AdaptiveTakesTheSmallestWithinItsError) {
  const auto with = [](float max_error) { return run_classes(codec::Adaptive{.max_error = max_error}); };
  const auto bytes = [](const Classes& c) { return c.rows[0].page_bytes + c.rows[1].page_bytes + c.rows[2].page_bytes; };
  const Classes any = with(1e6F), exact = with(0), some = with(dividing_threshold(1, with));
  EXPECT_EQ(any.rows[0].sealed_pages, sealed_pages(any));
  EXPECT_EQ(exact.rows[2].sealed_pages, sealed_pages(exact));
  EXPECT_EQ(exact.rows[2].k_err_ppm, 0) << "raw pages keep every bit";
  EXPECT_LT(bytes(any), bytes(some));
  EXPECT_LT(bytes(some), bytes(exact));
}

TEST(PageClasses, ImportancePicksTheClassAndThresholdsMoveIt) {
  const auto with = [](float low, float high) { return run_classes(codec::Adaptive{.by = codec::AdaptBy::importance, .low = low, .high = high}); };
  const Classes all_small = with(1, 1), all_large = with(0, 0);
  EXPECT_EQ(all_small.rows[0].sealed_pages, sealed_pages(all_small)) << "no page has all attention";
  EXPECT_EQ(all_large.rows[2].sealed_pages, sealed_pages(all_large));
  const float low = dividing_threshold(1, [&](float x) { return with(x, 1); });
  const Classes mixed = with(low, 1);
  EXPECT_GT(mixed.rows[1].sealed_pages, 0);
  EXPECT_NE(to_hex(mixed.out.digest), to_hex(all_small.out.digest)) << "the choice is a decision";
}

TEST(PageClasses, LoraPlusStoresTheFirstCoordinatesOfUnimportantPages) {
  const TempDir folder;
  const std::string path = folder.path() + "/maps.h5";
  write_identity(path, 16, 16);
  // Identity maps: a page of the largest class keeps all channels, the others keep 8 or 4 of 16 uniform ones.
  const auto check = [&](float low, float high, std::size_t page_class, double kept) {
    const Classes c = run_classes(codec::LoraPlus{.rank = 16, .low = low, .high = high}, path);
    ASSERT_EQ(c.rows.size(), 3U);
    const CodecRecord& row = c.rows[page_class];
    ASSERT_GT(row.sampled_pages, 0);
    EXPECT_NEAR(static_cast<double>(row.k_err_ppm) / static_cast<double>(row.sampled_pages), std::sqrt(1 - kept) * 1e6, 3e4);
  };
  check(1, 1, 0, 0.25);
  check(0, 1, 1, 0.5);
  check(0, 0, 2, 1);
}

TEST(PageClasses, ThreadsAndLayoutsChangeNoChoice) {
  for (const Layout layout : {Layout::token, Layout::expert}) {
    const codec::Adaptive codec{.max_error = 0.075F};
    const Classes one = run_classes(codec, {}, 1, layout), two = run_classes(codec, {}, 2, layout);
    EXPECT_EQ(to_hex(one.out.digest), to_hex(two.out.digest));
    for (std::size_t i = 0; i < one.rows.size(); ++i) EXPECT_EQ(one.rows[i].k_err_ppm, two.rows[i].k_err_ppm);
  }
}

TEST(CodecTables, AreFittedToCalibrationSequences) {
  const RunSpec spec = spec_of(codec::LowrankKqSvd{.rank = 4, .basis = codec::BasisFrom::offline});
  const testing::RandomTrace trace(spec.model, requests(), 3);
  const Geometry geometry(spec, trace.info(), spec.cluster.ranks);
  const CodecTables tables(geometry);
  ASSERT_TRUE(tables.needed());
  const BlockFormat two = geometry.sealed_format(2, 0);
  EXPECT_EQ(tables.of(0, 1, 2, 0).size(), two.shared_bytes());
  EXPECT_NE(tables.of(0, 0, 1, 0), tables.of(0, 1, 1, 0));
  EXPECT_NE(tables.of(0, 0, 1, 0), tables.of(1, 0, 1, 0));
  EXPECT_EQ(tables.of(1, 0, 1, 0), CodecTables(geometry).of(1, 0, 1, 0));
  EXPECT_GT(testing::totals(run_replay(spec, requests())).sealed_entries, 0);
}

TEST(CodecTables, LowRankBasesMayBeLoaded) {
  const TempDir folder;
  const std::string path = folder.path() + "/maps.h5";
  write_identity(path, 16, 16);
  for (const codec::Latents latents : {codec::Latents::fp16, codec::Latents::int4}) {
    const RunOutcome out =
        run_replay(spec_of(codec::LowrankPca{.rank = 16, .latents = latents, .basis = codec::BasisFrom::loaded}, path), requests());
    EXPECT_GT(testing::totals(out).sealed_entries, 0);
    for (const ProbeRecord& p : out.probes) EXPECT_LT(p.attn_out_err, latents == codec::Latents::fp16 ? 2e-3 : 0.5);
  }
}

TEST(CodecTables, RefuseFilesThatDoNotFit) {
  const TempDir folder;
  const std::string path = folder.path() + "/maps.h5";
  write_identity(path, 8, 16);
  const auto make = [&](std::uint32_t rank, const std::string& file) {
    const RunSpec spec = spec_of(codec::Lora{.rank = rank}, file);
    const testing::RandomTrace trace(spec.model, requests(), 3);
    const Geometry geometry(spec, trace.info(), spec.cluster.ranks);
    return CodecTables(geometry).of(0, 0, 4, 0).size();
  };
  EXPECT_EQ(make(8, path), 4U * 2 * 2 * 8 * 16 * 2);
  EXPECT_THROW((void)make(4, path), UserError);
  EXPECT_THROW((void)make(8, path + ".absent"), UserError);
}

}  // namespace
}  // namespace moekv
