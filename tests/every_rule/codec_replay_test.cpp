// Every codec of the catalogue in a replay: pages are sealed, decisions stay those of uncompressed pages, sizes are ordered, fidelity is measured.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "engine/codec_tables.hpp"
#include "io/hdf5.hpp"
#include "support/replay_fixture.hpp"
#include "support/temp_dir.hpp"

namespace moekv {
namespace {

using testing::gqa_model;
using testing::run_replay;
using testing::small_spec;

template <class Variant>
struct TypesOf;
template <class... T>
struct TypesOf<std::variant<T...>> {
  using type = ::testing::Types<T...>;
};
template <class T>
class CodecInReplay : public ::testing::Test {};
TYPED_TEST_SUITE(CodecInReplay, TypesOf<Codec>::type);

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

RunSpec spec_of(const Codec& codec, const std::string& maps_path = {}) {
  RunSpec spec = small_spec(gqa_model(2));
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

TYPED_TEST(CodecInReplay, SealsPagesAndKeepsDecisions) {
  const TempDir folder;
  const TypeParam codec;
  const PlaneFormat plane = codec.plane(Role::k, 16);
  const bool loaded = plane.fit == TableFit::loaded;
  const std::string path = folder.path() + "/maps.h5";
  if (loaded) write_identity(path, 16, 16);
  static const RunOutcome raw = run_replay(spec_of(codec::Fp32{}), requests());
  static const RunOutcome sealed = run_replay(spec_of(codec::Int8Token{}), requests());  // sealing ends pages early
  const RunOutcome out = run_replay(spec_of(codec, loaded ? path : ""), requests());
  EXPECT_EQ(to_hex(out.digest), to_hex((plane.raw() ? raw : sealed).digest));
  EXPECT_TRUE(out.violations.empty()) << out.violations.front();
  const StepRecord sum = testing::totals(out);
  if (plane.raw()) return;
  EXPECT_GT(sum.sealed_entries, 0);
  EXPECT_LE(sum.kv_bytes_codes, sum.kv_bytes_stored);
  EXPECT_LE(sum.kv_bytes_codes, sum.kv_bytes_raw);
  EXPECT_EQ(sum.codec_table_bytes > 0, plane.has_table() && plane.scope != TableScope::page);
  for (const ProbeRecord& p : out.probes) EXPECT_TRUE(std::isfinite(p.attn_out_err));
  if (loaded) {  // identity maps lose what fp16 loses
    for (const ProbeRecord& p : out.probes) EXPECT_LT(p.attn_out_err, 2e-3);
  }
}

TEST(CodecTables, AreFittedToCalibrationSequences) {
  const RunSpec spec = spec_of(codec::LowrankKqSvd{.rank = 4, .basis = codec::BasisFrom::offline});
  const testing::RandomTrace trace(spec.model, requests(), 3);
  const Geometry geometry(spec, trace.info(), spec.cluster.ranks);
  const CodecTables tables(geometry);
  ASSERT_TRUE(tables.needed());
  const BlockFormat two = geometry.sealed_format(2);
  EXPECT_EQ(tables.of(0, 1, 2).size(), two.shared_bytes());
  EXPECT_NE(tables.of(0, 0, 1), tables.of(0, 1, 1));
  EXPECT_NE(tables.of(0, 0, 1), tables.of(1, 0, 1));
  EXPECT_EQ(tables.of(1, 0, 1), CodecTables(geometry).of(1, 0, 1));
  EXPECT_GT(testing::totals(run_replay(spec, requests())).sealed_entries, 0);
}

TEST(CodecTables, RefuseFilesThatDoNotFit) {
  const TempDir folder;
  const std::string path = folder.path() + "/maps.h5";
  write_identity(path, 8, 16);
  const auto make = [&](std::uint32_t rank, const std::string& file) {
    const RunSpec spec = spec_of(codec::Lora{.rank = rank}, file);
    const testing::RandomTrace trace(spec.model, requests(), 3);
    const Geometry geometry(spec, trace.info(), spec.cluster.ranks);
    return CodecTables(geometry).of(0, 0, 4).size();
  };
  EXPECT_EQ(make(8, path), 4U * 2 * 2 * 8 * 16 * 2);
  EXPECT_THROW((void)make(4, path), UserError);
  EXPECT_THROW((void)make(8, path + ".absent"), UserError);
}

}  // namespace
}  // namespace moekv
