// Expansion of sweep files: axes of every kind, conditions, repeats, ids, samples, and every problem at once.
#include "config/sweep.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "config/key.hpp"
#include "config/sweep_axes.hpp"
#include "core/error.hpp"
#include "support/temp_dir.hpp"

namespace moekv {
namespace {

constexpr const char* sweep_base =
    "base: {model: tinymoe, backend: count, trace: {synthetic: {n_requests: 2, prompt_tokens: 32}}, placement: {layout: expert}}\n";

class SweepFiles : public ::testing::Test {
 protected:
  Sweep read(const std::string& text, const std::vector<std::string>& overrides = {}) {
    std::ofstream(folder_.file("s.yaml")) << sweep_base << text;
    return read_sweep(folder_.file("s.yaml"), overrides);
  }
  /// The values of the points in their order: "lru 8, lru 16".
  std::vector<std::string> values(const std::string& text) {
    std::vector<std::string> out;
    for (const SweepPoint& point : read(text).points) {
      std::string line = point.label;
      for (const SweepSetting& s : point.settings) line += (line.empty() ? "" : " ") + s.value;
      out.push_back(line);
    }
    return out;
  }
  std::string problems_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
    try {
      (void)read(text, overrides);
    } catch (const UserError& e) {
      return e.what();
    }
    return {};
  }
  TempDir folder_;
};

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(SweepFiles, GridWithTheLastAxisFastest) {
  EXPECT_THAT(values("axes: [{seed: [1, 2]}, {page.slots: [8, 16, 32]}]\n"), ElementsAre("1 8", "1 16", "1 32", "2 8", "2 16", "2 32"));
}

TEST_F(SweepFiles, NoAxisIsOnePoint) { EXPECT_THAT(values(""), ElementsAre("")); }

TEST_F(SweepFiles, Ranges) {
  EXPECT_THAT(values("axes: [{seed: {range: {from: 1, to: 7, step: 2}}}]\n"), ElementsAre("1", "3", "5", "7"));
  EXPECT_THAT(values("axes: [{page.slots: {range: {from: 8, to: 64, factor: 2}}}]\n"), ElementsAre("8", "16", "32", "64"));
  EXPECT_THAT(values("axes: [{page.slots: {range: {from: 8, to: 128, count: 5, scale: log}}}]\n"), ElementsAre("8", "16", "32", "64", "128"));
  EXPECT_THAT(values("axes: [{trace.synthetic.zipf_s: {range: {from: 0.1, to: 0.5, step: 0.1}}}]\n"), ElementsAre("0.1", "0.2", "0.3", "0.4", "0.5"));
}

TEST_F(SweepFiles, NumbersBelowZeroArePlain) {
  EXPECT_THAT(values("axes: [{trace.synthetic.zipf_s: [-1, -0.5, 0.5]}]\n"), ElementsAre("-1", "-0.5", "0.5"));
  std::vector<Problem> problems;
  auto source = std::make_shared<TextSource>();
  const YamlNode root = parse_yaml("[-1, -.5e3, \"-\", \"- x\", \"-x\", \"---\"]", source, problems);
  const std::string text = to_flow(root);
  EXPECT_EQ(text, "[-1, -.5e3, \"-\", \"- x\", \"-x\", \"---\"]");
  EXPECT_EQ(to_flow(parse_yaml(text, source, problems)), text);
  EXPECT_TRUE(problems.empty());
}

/// Whether the values of an interval are whole is a matter of the key, unless the file says it.
TEST_F(SweepFiles, WholeNumbersFollowTheKey) {
  const std::string ends = "from: 0, to: 1, count: 5";
  EXPECT_THAT(values("axes: [{trace.synthetic.zipf_s: {range: {" + ends + "}}}]\n"), ElementsAre("0", "0.25", "0.5", "0.75", "1"));
  EXPECT_THAT(values("axes: [{trace.synthetic.zipf_s: {range: {from: 0, to: 4, count: 3, whole: true}}}]\n"), ElementsAre("0", "2", "4"));
  EXPECT_THAT(values("axes: [{page.slots: {range: {from: 8, to: 30, factor: 1.5}}}]\n"), ElementsAre("8", "12", "18", "27"));
  EXPECT_THAT(values("axes: [{page.slots: {range: {from: 8, to: 30.5, step: 8}}}]\n"), ElementsAre("8", "16", "24"))
      << "an end that is a bound alone";
  EXPECT_THAT(values("axes: [{page.slots: {range: {from: 9, to: 13.5, factor: 1.5}}}]\n"), ElementsAre("9")) << "13.5 is 14";
  EXPECT_THAT(values("set: {eviction.policy: lru}\naxes: [{eviction.budget: {range: {from: 90, to: 91, step: 0.5, unit: \"%\"}}}]\n"),
              ElementsAre("90%", "90.5%", "91%"));
  const Sweep sample = read("axes: [{sample: {points: 8, of: {trace.synthetic.zipf_s: {from: 0, to: 1}, page.slots: {from: 8, to: 64}}}}]\n");
  std::set<std::string> reals;
  for (const SweepPoint& point : sample.points) {
    reals.insert(point.settings[0].value);
    EXPECT_EQ(point.settings[1].value.find('.'), std::string::npos);
  }
  EXPECT_EQ(reals.size(), 8U);
  const std::vector<std::pair<std::string, std::string>> cases{
      {"page.slots: {range: {from: 1, to: 2, count: 5}}", "page.slots: of the 5 values of this range only 2 are different, as whole numbers"},
      {"trace.synthetic.zipf_s: {range: {" + ends + ", whole: true}}", "only 2 are different"},
      {"trace.synthetic.zipf_s: {range: {" + ends + ", whole: yes}}", "whole: expected true or false"},
      {"page.slots: {range: {from: 0.5, to: 8, count: 3}}", "values are whole, but 'from' or 'to' is not"},
  };
  for (const auto& [axis, words] : cases) EXPECT_THAT(problems_of("axes: [{" + axis + "}]\n"), HasSubstr(words)) << axis;
}

TEST_F(SweepFiles, ZipAndCases) {
  EXPECT_THAT(values("axes: [{zip: {seed: [1, 2], page.slots: [8, 16]}}]\n"), ElementsAre("1 8", "2 16"));
  EXPECT_THAT(values("axes:\n  - cases: [{label: a, seed: 1}, {label: b, page: {slots: 32}}]\n  - cases: [{label: x}, {label: y, seed: 3}]\n"),
              ElementsAre("a/x 1", "a/y 3", "b/x 32", "b/y 32 3"));
}

TEST_F(SweepFiles, IncludeAndExclude) {
  EXPECT_THAT(values("axes: [{seed: [1, 2, 3]}, {page.slots: [8, 16]}]\nexclude: [{seed: [1, 3], page.slots: 8}, {seed: 2, page.slots: 16}]\n"
                     "include: [{label: extra, page.slots: 64}]\n"),
              ElementsAre("1 16", "2 8", "3 16", "extra 64"));
  const std::string labels = "axes:\n  - cases: [{label: a, seed: 1}, {label: b, seed: 2}]\n  - cases: [{label: c}, {label: d, page.slots: 8}]\n";
  EXPECT_THAT(values(labels + "exclude: [{label: a/c}]\n"), ElementsAre("a/d 1 8", "b/c 2", "b/d 2 8"));
  EXPECT_THAT(values(labels + "exclude: [{label: a}, {label: d, seed: 2}]\n"), ElementsAre("b/c 2")) << "one of the labels that it joins";
  EXPECT_THAT(problems_of(labels + "exclude: [{label: e}]\n"), HasSubstr("exclude: no point has the label 'e'"));
  EXPECT_THAT(problems_of(labels + "exclude: [{label: e}]\n"), HasSubstr("known: a, b, c, d"));
}

TEST_F(SweepFiles, RepeatsReplaceNoSeedOfAnAxis) {
  const std::string words = "repeats: replaces the seeds that an axis or a case";
  EXPECT_THAT(problems_of("axes: [{seed: [1, 2]}]\nrepeats: 2\n"), HasSubstr(words));
  EXPECT_THAT(problems_of("axes: [{page.slots: [8, 16]}]\ninclude: [{label: own, seed: 9}]\nrepeats: {seeds: [1, 2]}\n"), HasSubstr(words));
  EXPECT_EQ(read("axes: [{seed: [1, 2]}]\nrepeats: {count: 2, seeds: same}\n").points.size(), 4U);
}

/// A statement that no results could meet or break is told before anything runs.
TEST_F(SweepFiles, ExpectationsNameWhatPointsHave) {
  const auto problem = [&](const std::string& of, const std::string& versus, const std::string& rest = "is: less", const std::string& more = "") {
    return problems_of("axes: [{page.slots: [8, 16]}, {eviction.policy: [lru, fifo]}]\nset: {eviction.budget: 50%, cluster.ranks: 4}\nrepeats: 2\n" +
                       more + "expect: [{claim: c, metric: evictions, of: {" + of + "}, versus: {" + versus + "}, " + rest + "}]\n");
  };
  EXPECT_EQ(problem("page.slots: 8", "page.slots: 16"), "");
  EXPECT_EQ(problem("page.slots: 8, repeat: 1, cluster.ranks: 4.0", "page.slots: 16, repeat: 0, seed: 1", "is: different, by: 5%"), "");
  EXPECT_THAT(problem("page.slots: 8", "page.slots: 16, repeat: 7"), HasSubstr("no point of this sweep has repeat=7"));
  EXPECT_THAT(problem("page.slots: 8", "cluster.ranks: 99"), HasSubstr("no point of this sweep has cluster.ranks=99"));
  EXPECT_THAT(problem("page.slots: 8", "cluster.ranks: 99"), HasSubstr("points have 4"));
  EXPECT_THAT(problem("page.slots: 8", "page.slots: 16", "is: equal, by: 1%"),
              HasSubstr("by: has no meaning with is: equal, which holds where no difference is detectable"));
  EXPECT_THAT(problem("page.slots: 8", "page.slots: 16", "is: less, by: -5%"), HasSubstr("by: -5% is negative"));
  EXPECT_THAT(problem("page.slots: 8, eviction.policy: lru", "page.slots: 16", "is: less", "exclude: [{page.slots: 8, eviction.policy: lru}]\n"),
              HasSubstr("no point of this sweep has page.slots=8, eviction.policy=lru together"));
  const std::string inside = "axes: [{placement: [{layout: expert}, {layout: local}]}]\nexpect: [{claim: c, metric: evictions, is: less, ";
  const auto with = [&](const char* other) { return inside + "of: {placement.layout: expert}, versus: {placement.layout: " + other + "}}]\n"; };
  EXPECT_EQ(problems_of(with("local")), "") << "a key inside the values of an axis";
  EXPECT_THAT(problems_of(with("token")), HasSubstr("no point of this sweep has placement.layout=token"));
}

TEST_F(SweepFiles, WhatStandsForNothingIsRefused) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"include: {page.slots: 64}\n", "include: expected a list of mappings"},
      {"axes: [{seed: [1, 2]}]\nexclude: [{seed: 3}]\n", "exclude: no point has seed=3"},
      {"repeats: {cuont: 5}\n", "unknown key 'cuont' in repeats"},
      {"repeats: {count: 3, seeds: [1, 2]}\n", "count: is not the number of seeds, 2"},
      {"repeats: {seeds: []}\n", "seeds: the list is empty"},
      {"axes: [{cases: [{page.slots: 8}, {page.slotz: 16}]}]\n", "unknown key 'page.slotz'"},
      {"axes: [{sample: {points: 2, of: {page.slots: {from: 8, to: 64, scal: log}}}}]\n", "unknown key 'scal' in page.slots"},
      {"axes: [{sample: {points: 2, seed: -1, of: {page.slots: [8, 16]}}}]\n", "seed is a whole number"},
  };
  for (const auto& [text, words] : cases) EXPECT_THAT(problems_of(text), HasSubstr(words)) << text;
  EXPECT_THAT(problems_of("axes: [{page.slots: [8, 16]}]\n", {"page={slots: 8}"}), HasSubstr("page.slots is an axis of this sweep"));
}

TEST_F(SweepFiles, APointIsWhatItsFilesHold) {
  for (const char* folder : {"a", "b", "c"}) std::filesystem::create_directory(folder_.file(folder));
  const auto put = [&](const std::string& file, const std::string& text) { std::ofstream(folder_.file(file)) << text; };
  put("a/maps.h5", "one");
  put("b/maps.h5", "two");
  put("c/maps.h5", "one");
  const auto id_of = [&](const std::string& folder) {
    return read(fmt::format("set: {{backend: host, compression: {{codec: lora, rank: 8, maps_path: {}}}}}\n", folder_.file(folder + "/maps.h5")))
        .points[0]
        .id;
  };
  const std::string first = id_of("a");
  EXPECT_NE(first, id_of("b")) << "other bytes under the same name";
  EXPECT_EQ(first, id_of("c")) << "the same file elsewhere";
  put("a/maps.h5", "three");
  EXPECT_NE(first, id_of("a")) << "written anew";
}

TEST_F(SweepFiles, PointsThatCannotRunDifferByTheirBase) {
  const auto failing = [&](const std::string& set) {
    const Sweep sweep = read("axes: [{eviction.policy: [fifo, h2o.sum]}]\n" + set);
    return std::find_if(sweep.points.begin(), sweep.points.end(), [](const SweepPoint& p) { return !p.problems.empty(); })->id;
  };
  EXPECT_NE(failing("set: {backend: count, eviction.budget: 50%}\n"), failing("set: {backend: count, eviction.budget: 60%}\n"));
}

TEST_F(SweepFiles, RepeatsMoveTheSeed) {
  const Sweep sweep = read("repeats: 3\naxes: [{page.slots: [8, 16]}]\n", {"seed=10"});
  ASSERT_EQ(sweep.points.size(), 6U);
  EXPECT_EQ(sweep.points[2].repeat, 2U);
  EXPECT_EQ(sweep.points[2].spec->seed, 12U);
  EXPECT_EQ(sweep.points[2].spec->trace.synthetic.seed, 12U);
  EXPECT_EQ(read("repeats: {seeds: [5, 7]}\n").points[1].spec->seed, 7U);
  const Sweep same = read("repeats: {count: 2, seeds: same}\n");
  EXPECT_EQ(same.points[0].spec->config_digest, same.points[1].spec->config_digest);
  EXPECT_NE(same.points[0].id, same.points[1].id);
}

TEST_F(SweepFiles, AnIdNamesThePointInEverySweep) {
  const Sweep one = read("axes: [{seed: [1, 2]}, {page.slots: [8, 16]}]\n"), other = read("axes: [{page.slots: [32, 16]}]\nset: {seed: 2}\n");
  EXPECT_EQ(one.points[3].id, other.points[1].id);
  std::set<std::string> ids;
  for (const SweepPoint& p : one.points) ids.insert(p.id);
  EXPECT_EQ(ids.size(), 4U);
  EXPECT_NE(read("set: {backend: host}\n").points[0].id, read("").points[0].id) << "a backend is part of the identity";
}

TEST_F(SweepFiles, EqualPointsAreMadeOnce) {
  const Sweep sweep = read("axes: [{page.slots: [16, 8, 0x10]}]\n");
  EXPECT_EQ(sweep.points.size() + sweep.n_duplicates, 3U);
  EXPECT_EQ(read("axes: [{seed: [1, 1]}]\n").n_duplicates, 1U);
}

TEST_F(SweepFiles, ABadCombinationIsAPointThatCannotRun) {
  const Sweep sweep = read("axes: [{page.slots: [8, 4000]}]\n");
  ASSERT_EQ(sweep.points.size(), 2U);
  EXPECT_TRUE(sweep.points[0].spec.has_value());
  EXPECT_FALSE(sweep.points[1].spec.has_value());
  EXPECT_THAT(format_problems(sweep.points[1].problems), HasSubstr("s.yaml:2:25: error: page.slots: 4000 is out of range"));
}

TEST_F(SweepFiles, AnOverrideReplacesAKeyOfEveryPointButNoAxis) {
  EXPECT_EQ(read("axes: [{page.slots: [8, 16]}]\n", {"cluster.ranks=4"}).points[1].spec->cluster.ranks, 4U);
  EXPECT_THAT(problems_of("axes: [{page.slots: [8, 16]}]\n", {"page.slots=8"}), HasSubstr("page.slots is an axis of this sweep"));
}

TEST_F(SweepFiles, EveryProblemAtOnce) {
  const std::string text = problems_of(
      "axes: [{page.slos: [8]}, {seed: {range: {from: 3, to: 1, step: 1}}}, {zip: {seed: [1], page.slots: [8, 16]}}]\nrepeats: many\nbudget: 3\n");
  for (const char* words : {"unknown key 'page.slos' (did you mean 'page.slots'?)", "'to' is below 'from'", "page.slots has 2 values, seed has 1",
                            "repeats: expected a whole number", "unknown key 'budget' in a sweep file"}) {
    EXPECT_THAT(text, HasSubstr(words));
  }
}

TEST_F(SweepFiles, SamplesStayInsideAndRepeat) {
  const std::string text =
      "axes: [{sample: {points: 32, method: METHOD, seed: 4, of: {page.slots: [8, 16], seed: {from: 1, to: 4}, trace.synthetic.zipf_s: {from: 0.5, "
      "to: 2}}}}]\n";
  for (const std::string method : {"sobol", "random"}) {
    std::string own = text;
    own.replace(own.find("METHOD"), 6, method);
    const Sweep a = read(own), b = read(own);
    std::map<std::string, int> slots, seeds;
    for (std::size_t i = 0; i < a.points.size(); ++i) {
      EXPECT_EQ(a.points[i].id, b.points[i].id);
      slots[a.points[i].settings[0].value] += 1;
      seeds[a.points[i].settings[1].value] += 1;
      const double s = std::stod(a.points[i].settings[2].value);
      EXPECT_TRUE(s >= 0.5 && s < 2);
    }
    EXPECT_EQ(slots.size(), 2U);
    EXPECT_EQ(seeds.size(), 4U);
    if (method == "sobol") {
      EXPECT_EQ(slots["8"], 16);
      EXPECT_EQ(seeds["3"], 8);
    }
  }
}

/// The first 2^m points of each dimension fill the 2^m intervals of equal length, one each; pairs of the first dimensions fill elementary boxes.
TEST(Sobol, PointsAreStratified) {
  constexpr std::size_t n = 64;
  for (const std::uint64_t seed : {1ULL, 99ULL}) {
    const auto points = sobol_points(n, sobol_dimensions, seed);
    for (std::size_t d = 0; d < sobol_dimensions; ++d) {
      std::set<int> cells;
      for (const auto& p : points) cells.insert(static_cast<int>(p[d] * n));
      EXPECT_EQ(cells.size(), n) << "dimension " << d;
    }
    std::map<int, int> boxes;
    for (const auto& p : points) boxes[static_cast<int>(p[0] * 8) * 8 + static_cast<int>(p[1] * 8)] += 1;
    EXPECT_EQ(boxes.size(), 64U);
  }
}

TEST(Sobol, UnshiftedPointsAreThePublishedOnes) {
  const auto shifted = sobol_points(8, 3, 7);
  // Differences by xor do not depend on the shift: 0, 1/2, 3/4, 1/4 ... in Gray code order of Joe and Kuo.
  const double expected[8][3] = {{0, 0, 0},
                                 {0.5, 0.5, 0.5},
                                 {0.75, 0.25, 0.25},
                                 {0.25, 0.75, 0.75},
                                 {0.375, 0.375, 0.625},
                                 {0.875, 0.875, 0.125},
                                 {0.625, 0.125, 0.875},
                                 {0.125, 0.625, 0.375}};
  const auto bits = [](double x) { return static_cast<std::uint32_t>(x * 0x1p32); };
  for (std::size_t i = 0; i < 8; ++i) {
    for (std::size_t d = 0; d < 3; ++d) EXPECT_EQ(bits(shifted[i][d]) ^ bits(shifted[0][d]), bits(expected[i][d])) << i << " " << d;
  }
}

}  // namespace
}  // namespace moekv
