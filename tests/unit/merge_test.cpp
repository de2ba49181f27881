// Files of many points: which result of a point is taken, what their settings say, exact numbers, and damaged columns.
#include "results/merge.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.hpp"
#include "io/hdf5.hpp"
#include "results/diff.hpp"
#include "results/merged_file.hpp"
#include "results/point_table.hpp"
#include "support/sample_run_file.hpp"
#include "support/temp_dir.hpp"

namespace moekv {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string refusal_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const UserError& e) {
    return e.what();
  }
  return "no UserError";
}

class MergedFiles : public ::testing::Test {
 protected:
  /// A file of the sample run with a few of its metrics as the point `id`, after `change`.
  std::string run_of(const std::string& name, const std::string& id, const std::function<void(RunFile&)>& change = {}) {
    RunFile run = sample_run();
    run.point.id = id;
    const std::vector<Summary> all = std::exchange(run.outcome.summary, {});
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (i < 6 || all[i].name == "hit_ratio") run.outcome.summary.push_back(all[i]);
    }
    if (change) change(run);
    write_run_file(dir.file(name), run);
    return dir.file(name);
  }
  using Settings = std::vector<std::pair<std::string, std::string>>;
  /// A point with these settings and its parameter `eviction.budget`.
  MergedPoint point(const std::string& id, Settings settings, const std::string& budget) {
    const std::string path = run_of(id + ".h5", id, [&](RunFile& run) { run.parameters.push_back({"eviction.budget", budget, "1", "budget"}); });
    return {{id, "", 0, 1}, std::move(settings), RunStatus::ok, "", "", 0, {path}};
  }
  static SweepList sweep(const std::string& name, const std::vector<std::pair<std::string, Settings>>& points) {
    SweepList list{name, "", "", "name: " + name, {}, {}};
    for (const auto& [id, settings] : points) list.points.push_back({id, name, 0, settings, ""});
    return list;
  }
  std::vector<std::string> settings_of(std::vector<MergedPoint> points, const std::string& key,
                                       const std::vector<SweepList>& sweeps = {SweepList{}}) {
    write_merged_file(out, std::move(points), sweeps, MergedRecords::leave_out);
    const PointTable table = read_point_table(out);
    const PointColumn* column = table.find("setting", key);
    return column == nullptr ? std::vector<std::string>{} : column->texts;
  }
  TempDir dir;
  std::string out = dir.file("all.h5");
};

TEST_F(MergedFiles, ResultsOfOnePointMustCountAlike) {
  const auto more = [](RunFile& run) { run.outcome.summary[5].value += 1; };
  const std::string a = run_of("a.h5", "one"), b = run_of("b.h5", "one", more), name = sample_run().outcome.summary[5].name;
  ASSERT_EQ(sample_run().outcome.summary[5].claim, ClaimClass::counted);
  for (const auto& inputs : {std::vector{a, b}, std::vector{b, a}}) {
    const std::string message = refusal_of([&] { (void)merge_results(inputs, out, MergedRecords::leave_out); });
    EXPECT_THAT(message, HasSubstr("decided alike and counted differently: " + name));
  }
}

TEST_F(MergedFiles, ChoicesOfDifferentCountsAreDifferentValues) {
  const std::string key = "eviction.budget";
  const std::vector<SweepList> lists{sweep("x", {{"a", {{key, "last:8"}}}, {"b", {{key, "last(24)"}}}}), sweep("y", {{"c", {{key, "last:24"}}}})};
  const std::vector points{point("a", {{key, "last:8"}}, "last"), point("b", {{key, "last(24)"}}, "last"), point("c", {{key, "last:24"}}, "last")};
  EXPECT_THAT(settings_of(points, key, lists), ElementsAre("last:8", "last:24", "last:24"));
}

TEST_F(MergedFiles, TheOrderOfTheInputsDecidesNothing) {
  const auto elsewhere = [](RunFile& run) { run.provenance.set("trace_path", "elsewhere"); };
  const std::string a = run_of("a.h5", "one"), b = run_of("b.h5", "one", elsewhere);
  std::vector<std::string> taken;
  for (const auto& inputs : {std::vector{a, b}, std::vector{b, a}}) {
    (void)merge_results(inputs, out, MergedRecords::leave_out);
    taken.push_back(read_run_file(out).provenance.text("trace_path"));
  }
  EXPECT_EQ(taken[0], taken[1]);
}

TEST_F(MergedFiles, SettingsOfSeveralListsHaveOneText) {
  const std::string key = "eviction.budget";
  const auto points = [&] {
    return std::vector{point("a", {{key, "25%"}}, "{fraction: 1/4}"), point("b", {}, "{fraction: 1/4}"), point("c", {}, "unlimited"),
                       point("d", {{key, "1/4"}}, "{fraction: 1/4}"), point("e", {{key, "auto"}}, "4"),  point("f", {{key, "auto"}}, "5")};
  };
  const std::vector<SweepList> one{sweep("x", {{"a", {{key, "25%"}}}, {"d", {{key, "1/4"}}}})};
  const std::vector<SweepList> two{one.front(),
                                   sweep("y", {{"c", {}}, {"b", {}}, {"a", {{key, "0.25"}}}, {"e", {{key, "auto"}}}, {"f", {{key, "auto"}}}})};
  EXPECT_THAT(settings_of(points(), key, one), ElementsAre("25%", "", "", "1/4", "auto", "auto"));
  EXPECT_EQ(read_point_table(out).lists.size(), 1U) << "points of no sweep are told from its own";
  EXPECT_THAT(settings_of(points(), key, two), ElementsAre("1/4", "1/4", "unlimited", "1/4", "auto", "auto")) << "the shortest text of each value";
  const PointTable table = read_point_table(out);
  ASSERT_EQ(table.lists.size(), 2U);
  EXPECT_EQ(table.lists[1].sweep_yaml, "name: y");
  EXPECT_THAT(table.lists[1].points, ElementsAre(2U, 1U, 0U, 4U, 5U));
  EXPECT_THAT(table.lists[0].find(key)->texts, ElementsAre("25%", "1/4"));
  EXPECT_THAT(table.lists[1].find(key)->texts, ElementsAre("", "", "0.25", "auto", "auto"));
  EXPECT_THAT(table.lists[1].find("label")->texts.front(), "y");
  EXPECT_THAT(table.find("", "lists")->texts, ElementsAre("0 1", "1", "1", "0", "1", "1"));
}

TEST_F(MergedFiles, WholeNumbersAreExact) {
  const auto points = [&](const std::string& b) {
    return std::vector{point("a", {{"seed", "9007199254740993"}}, "1"), point("b", {{"seed", b}}, "1")};
  };
  EXPECT_THAT(settings_of(points("9007199254740992"), "seed"), ElementsAre("9007199254740993", "9007199254740992"));
  const auto json = nlohmann::json::parse(to_json(read_point_table(out), Parameters::all));
  EXPECT_EQ(json[0]["setting"]["seed"].dump(), "9007199254740993");
  EXPECT_EQ(json[0]["repeat"].dump(), "0");
  EXPECT_EQ(json[0]["param"]["placement.fold"].dump(), "1");
  EXPECT_THAT(settings_of(points("18446744073709551615"), "seed"), ElementsAre("9007199254740993", "18446744073709551615"));
  EXPECT_THAT(settings_of(points("0.5"), "seed"), ElementsAre("9007199254740993", "0.5"));
  RunFile run = sample_run();
  run.parameters.push_back({"seed", "18446744073709551615", "1", "seed"});
  write_run_file(out, run);
  EXPECT_EQ(read_run_file(out).parameter("seed"), "18446744073709551615");
}

TEST_F(MergedFiles, OnePointWithoutRecordsIsShownAndCompared) {
  const std::string a = run_of("a.h5", "one");
  (void)merge_results({a}, out, MergedRecords::leave_out);
  const RunFile whole = read_run_file(a), bare = read_run_file(out);
  EXPECT_FALSE(bare.has_records);
  EXPECT_EQ(bare.outcome.digest, whole.outcome.digest);
  const RunDifference difference = diff_runs(whole, bare);
  EXPECT_FALSE(difference.different()) << format_difference(difference, whole, bare);
  RunFile other = read_run_file(a);
  other.outcome.summary[5].value += 1;
  EXPECT_TRUE(diff_runs(bare, other).different());
}

TEST_F(MergedFiles, PointsAreComparedByDigestOrByAllThatIsCounted) {
  const auto merge = [&](const std::string& name, const std::function<void(RunFile&)>& change) {
    (void)merge_results({run_of("a.h5", "one"), run_of("b.h5", "two", change)}, dir.file(name), MergedRecords::leave_out);
    return read_point_table(dir.file(name));
  };
  const PointTable a = merge("x.h5", {}), b = merge("y.h5", [](RunFile& run) { run.outcome.summary[5].value += 1; });
  EXPECT_EQ(diff_points(a, b).size(), 1U);
  EXPECT_TRUE(diff_points(a, b, PointColumns::digests).empty());
  EXPECT_EQ(diff_points(a, merge("z.h5", [](RunFile& run) { run.outcome.digest.low += 1; }), PointColumns::digests).size(), 1U);
  PointTable derived = a;
  for (PointColumn& column : derived.columns) column.claim = "derived";
  EXPECT_EQ(diff_points(derived, b).size(), 1U) << "counted on the second side alone";
}

/// Every column is looked at where it is read: no command meets one of another length or kind.
TEST_F(MergedFiles, DamagedColumnsAreRefused) {
  (void)merge_results({run_of("a.h5", "one"), run_of("b.h5", "two")}, out);
  const std::vector<std::string> texts{"x", "y"};
  const std::vector<double> numbers{0, 1}, longer{0, 1, 2};
  const std::vector<std::int32_t> statuses{1, 200}, repeats{0, -1};
  const std::vector<std::pair<std::string, std::function<void(h5::File&, const std::string&)>>> damages{
      {"metric/hit_ratio", [&](h5::File& f, const std::string& name) { f.write(name, texts); }},
      {"metric/hit_ratio", [&](h5::File& f, const std::string& name) { f.write(name, longer); }},
      {"metric/hit_ratio",
       [&](h5::File& f, const std::string& name) {
         f.write(name, std::span<const double>(numbers), {2, 1});
       }},
      {"repeat", [&](h5::File& f, const std::string& name) { f.write(name, texts); }},
      {"repeat", [&](h5::File& f, const std::string& name) { f.write(name, numbers); }},
      {"repeat", [&](h5::File& f, const std::string& name) { f.write(name, repeats); }},
      {"status", [&](h5::File& f, const std::string& name) { f.write(name, texts); }},
      {"status", [&](h5::File& f, const std::string& name) { f.write(name, statuses); }},
      {"status", [](h5::File&, const std::string&) {}},
      {"label", [&](h5::File& f, const std::string& name) { f.write(name, numbers); }},
      {"param/cluster.ranks", [&](h5::File& f, const std::string& name) { f.write(name, longer); }},
  };
  for (const auto& [name, damage] : damages) {
    const std::string path = dir.file("damaged.h5");
    std::filesystem::copy_file(out, path, std::filesystem::copy_options::overwrite_existing);
    h5::File file = h5::File::open(path, h5::Access::update);
    file.remove(name);
    damage(file, name);
    file.close();
    EXPECT_THAT(refusal_of([&] { (void)read_point_table(path); }), HasSubstr("is damaged")) << name;
  }
  h5::File file = h5::File::open(out, h5::Access::update);
  file.remove("record/probe/layer");
  file.write("record/probe/layer", longer);
  file.close();
  EXPECT_THAT(refusal_of([&] { (void)record_csv(out, "probe"); }), HasSubstr("record/probe/layer: error: is damaged"));
}

TEST_F(MergedFiles, DamagedListsAreRefused) {
  const std::vector<SweepList> sweeps{sweep("x", {{"a", {{"seed", "1"}}}, {"b", {{"seed", "2"}}}}), sweep("y", {{"b", {}}})};
  const std::vector<std::int32_t> index{0, 2};
  const std::vector<std::string> one{"x"};
  for (const char* name : {"list/0/point", "list/0/label", "list/0/setting/seed", "list/0/setting"}) {
    write_merged_file(out, {point("a", {}, "1"), point("b", {}, "1")}, sweeps, MergedRecords::leave_out);
    h5::File file = h5::File::open(out, h5::Access::update);
    file.remove(name);
    if (name == std::string("list/0/point"))
      file.write(name, index);
    else
      file.write(name, one);
    file.close();
    EXPECT_NE(refusal_of([&] { (void)read_point_table(out); }), "no UserError") << name;
  }
}

}  // namespace
}  // namespace moekv
