// Traces written from a source: the file gives the source's rows back, statistics join it without touching them, bootstrap reads it.
#include "trace/save_trace.hpp"

#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.hpp"
#include "io/hdf5.hpp"
#include "support/all_rows.hpp"
#include "support/temp_dir.hpp"
#include "trace/stats.hpp"
#include "trace/synthetic.hpp"

namespace moekv {
namespace {

std::unique_ptr<TraceSource> source() {
  ModelShape shape;
  shape.layers.resize(3);
  shape.layers[0].moe = false;
  shape.gate.n_experts = 32;
  shape.gate.top_k = 4;
  SyntheticSpec spec;
  spec.preset = "gptoss";
  spec.n_requests = 4;
  spec.prompt_tokens = 100;
  spec.output_tokens = 30;
  spec.arrivals = "poisson";
  return make_synthetic_trace(spec, shape);
}

void save(const std::string& path, RoutingLevel level) {
  const auto trace = source();
  WriterSpec spec;
  spec.info = trace->info();
  spec.info.level = level;
  spec.weight_kind = level == RoutingLevel::ids ? WeightKind::none : WeightKind::renorm;
  save_trace(*trace, path, spec);
}

TEST(SaveTrace, EveryLevelComesBack) {
  const TempDir folder;
  for (const RoutingLevel level : {RoutingLevel::ids, RoutingLevel::weights, RoutingLevel::logits}) {
    const std::string path = folder.file("a.moekv.h5");
    save(path, level);
    const auto before = source();
    const auto after = open_native_trace(path);
    EXPECT_EQ(after->info().level, level);
    EXPECT_EQ(after->info().moe_layers, (std::vector<std::uint16_t>{1, 2}));
    ASSERT_EQ(after->n_requests(), 4U);
    for (std::uint32_t r = 0; r < 4; ++r) {
      EXPECT_EQ(after->request(RequestId(r)).arrival_ns, before->request(RequestId(r)).arrival_ns);
      EXPECT_EQ(after->request(RequestId(r)).prompt_tokens, 100U);
      const RoutingRows a = all_rows(*before, r, WantLogits::yes), b = all_rows(*after, r, WantLogits::yes);
      EXPECT_EQ(a.ids, b.ids);
      ASSERT_EQ(b.weights.size(), level >= RoutingLevel::weights ? a.weights.size() : 0);
      for (std::size_t i = 0; i < b.weights.size(); ++i) ASSERT_NEAR(a.weights[i], b.weights[i], 5e-4F * a.weights[i] + 1e-6F);  // fp16
      ASSERT_EQ(b.logits.size(), level == RoutingLevel::logits ? a.logits.size() : 0);
      for (std::size_t i = 0; i < b.logits.size(); ++i) ASSERT_NEAR(a.logits[i], b.logits[i], 5e-4F * std::abs(a.logits[i]) + 1e-6F);
    }
  }
}

TEST(SaveTrace, RefusesALevelTheSourceLacks) {
  const TempDir folder;
  const std::string path = folder.file("a.moekv.h5");
  EXPECT_THROW(save(path, RoutingLevel::candidates), UserError);
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(StoreStats, JoinTheFileAndReplaceOlderOnes) {
  const TempDir folder;
  const std::string path = folder.file("a.moekv.h5");
  save(path, RoutingLevel::weights);
  TraceStats stats = compute_stats(*open_native_trace(path));
  store_stats(path, stats);
  stats.layers[1].gini = 0.125;
  stats.median.gini = 0.5;
  store_stats(path, stats);
  {
    const h5::File file = h5::File::open(path);
    const h5::Dataset gini = file.dataset("stats/gini");
    EXPECT_EQ(gini.read<double>(), (std::vector<double>{stats.layers[0].gini, 0.125}));
    EXPECT_EQ(gini.number<double>("median"), 0.5);
    EXPECT_EQ(gini.text("unit"), "1");
    EXPECT_FALSE(gini.text("definition").empty());
    EXPECT_EQ(file.dataset("stats/weight_by_rank").dims(), (h5::Dims{2, 4}));
    EXPECT_EQ(file.dataset("stats/moe_layer_ids").read<std::int16_t>(), (std::vector<std::int16_t>{1, 2}));
  }
  const auto trace = open_native_trace(path);
  EXPECT_EQ(all_rows(*trace, 3, WantLogits::no).ids, all_rows(*source(), 3, WantLogits::no).ids);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);  // no temporary file stays
  EXPECT_THROW(store_stats(folder.file("missing.h5"), stats), std::exception);
}

TEST(Bootstrap, ReadsANativeFile) {
  const TempDir folder;
  const std::string path = folder.file("a.moekv.h5");
  save(path, RoutingLevel::weights);
  SyntheticSpec spec;
  spec.preset = "bootstrap";
  spec.bootstrap_path = path;
  const auto trace = make_synthetic_trace(spec, {});
  EXPECT_EQ(trace->info().n_experts, 32U);
  const RoutingRows rows = all_rows(*trace, 2, WantLogits::no);
  EXPECT_EQ(rows.ids.size(), 384U * 2 * 4);
  EXPECT_TRUE(rows.logits.empty());
  spec.bootstrap_path = folder.file("missing.h5");
  EXPECT_THROW((void)make_synthetic_trace(spec, {}), UserError);
}

}  // namespace
}  // namespace moekv
