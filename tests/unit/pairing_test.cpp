// Which points a comparison pairs: grids, labelled cases, keys that change together, references, lists.
#include "results/pairing.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"

namespace moekv {
namespace {

PointColumn texts(std::string group, std::string name, std::vector<std::string> values) {
  PointColumn c;
  c.group = std::move(group);
  c.name = std::move(name);
  c.texts = std::move(values);
  return c;
}

PointTable table_of(std::vector<std::string> labels, std::vector<PointColumn> settings) {
  PointTable t;
  t.n_points = labels.size();
  t.columns = {texts("", "status", std::vector<std::string>(t.n_points, "ok")), texts("", "repeat", std::vector<std::string>(t.n_points, "0")),
               texts("", "label", std::move(labels))};
  for (PointColumn& c : settings) t.columns.push_back(std::move(c));
  return t;
}

PointPairs pairs_of(const PointTable& t, const PointChoice& a, const PointChoice& b) { return pair_points(t, lists_of(t), a, b).pairs; }
std::vector<std::string> also_different(const PointTable& t, const PointChoice& a, const PointChoice& b) {
  return pair_points(t, lists_of(t), a, b).also_different;
}

TEST(Pairing, OfAGridDiffersInNothingElse) {
  const PointTable t =
      table_of({"", "", "", ""}, {texts("setting", "policy", {"lru", "lru", "fifo", "fifo"}), texts("setting", "budget", {"25", "50", "25", "50"})});
  const PointPairs pairs = pairs_of(t, {{"policy", "fifo"}}, {{"policy", "lru"}});
  EXPECT_EQ(pairs, (PointPairs{{2, 0}, {3, 1}}));
  EXPECT_TRUE(also_different(t, {{"policy", "fifo"}}, {{"policy", "lru"}}).empty());
  EXPECT_THROW((void)pairs_of(t, {{"label", ""}}, {{"label", ""}, {"repeat", "0"}, {"polcy", "lru"}}), UserError);
}

/// cases: [{label: plain, codec: bf16}, {label: int8, codec: int8_token}] x budget
TEST(Pairing, CasesAreComparedByLabelAndByKey) {
  const PointTable t = table_of({"plain", "plain", "int8", "int8"}, {texts("setting", "codec", {"bf16", "bf16", "int8_token", "int8_token"}),
                                                                     texts("setting", "budget", {"25", "50", "25", "50"})});
  const PointPairs expected{{2, 0}, {3, 1}};
  EXPECT_EQ(pairs_of(t, {{"label", "int8"}}, {{"label", "plain"}}), expected);
  EXPECT_EQ(pairs_of(t, {{"codec", "int8_token"}}, {{"codec", "bf16"}}), expected);
  EXPECT_EQ(pairs_of(t, {{"codec", "int8_token"}, {"label", "int8"}}, {{"codec", "bf16"}, {"label", "plain"}}), expected);
  EXPECT_EQ(pairs_of(t, {{"budget", "50"}}, {{"budget", "25"}}), (PointPairs{{1, 0}, {3, 2}})) << "the label stays fixed";
}

/// Two axes of cases have labels a/c, a/d, b/c, b/d.
TEST(Pairing, JoinedLabelsHoldTheOtherAxisFixed) {
  const PointTable t =
      table_of({"a/c", "a/d", "b/c", "b/d"}, {texts("setting", "x", {"1", "1", "2", "2"}), texts("setting", "y", {"8", "9", "8", "9"})});
  EXPECT_EQ(pairs_of(t, {{"x", "2"}}, {{"x", "1"}}), (PointPairs{{2, 0}, {3, 1}}));
}

/// A label on one side and a key on the other: what the cases set besides stays fixed.
TEST(Pairing, ALabelAgainstAKeyHoldsTheRestFixed) {
  const PointTable t = table_of({"a", "b", "c"}, {texts("setting", "policy", {"lru", "fifo", "fifo"}), texts("setting", "slots", {"", "", "16"})});
  EXPECT_EQ(pairs_of(t, {{"label", "a"}}, {{"policy", "fifo"}}), (PointPairs{{0, 1}}));
}

TEST(Pairing, ZippedKeysChangeTogether) {
  const PointTable t = table_of({"", ""}, {texts("setting", "codec", {"bf16", "int8"}), texts("setting", "block", {"1", "32"})});
  const PointPairs pairs = pairs_of(t, {{"codec", "int8"}}, {{"codec", "bf16"}});
  EXPECT_EQ(pairs, (PointPairs{{1, 0}}));
  EXPECT_EQ(also_different(t, {{"codec", "int8"}}, {{"codec", "bf16"}}), std::vector<std::string>{"block"});
}

/// include: [{label: full, policy: full}] beside a grid
TEST(Pairing, AnIncludedCaseIsAReference) {
  PointTable t = table_of({"", "", "", "full"},
                          {texts("setting", "policy", {"lru", "lru", "fifo", "full"}), texts("setting", "budget", {"25", "50", "25", ""})});
  EXPECT_EQ(pairs_of(t, {{"policy", "lru"}}, {{"label", "full"}}), (PointPairs{{0, 3}, {1, 3}}));
  EXPECT_EQ(pairs_of(t, {{"policy", "lru"}}, {{"policy", "full"}}), (PointPairs{{0, 3}, {1, 3}}));
  EXPECT_EQ(pairs_of(t, {{"policy", "full"}}, {{"policy", "lru"}}), (PointPairs{{3, 0}, {3, 1}}));
  EXPECT_EQ(pairs_of(t, {{"policy", "fifo"}}, {{"policy", "lru"}}), (PointPairs{{2, 0}}));
  t.columns[3].texts[3] = "lru";
  EXPECT_EQ(pairs_of(t, {{"policy", "lru"}}, {{"label", "full"}}), (PointPairs{{0, 3}, {1, 3}})) << "the reference is no point of the other side";
  t.columns[3].texts[3] = "full";
  t.columns[0].texts[0] = "failed";
  EXPECT_TRUE(pairs_of(t, {{"policy", "fifo"}}, {{"policy", "lru"}}).empty()) << "a point of a grid is no reference";
}

/// cases: [{label: base, slots: 8}, {slots: 16}, {slots: 32}] x ranks
TEST(Pairing, CasesNeedNoLabel) {
  PointTable t = table_of({"base", "base", "", "", "", ""},
                          {texts("setting", "slots", {"8", "8", "16", "16", "32", "32"}), texts("setting", "ranks", {"2", "4", "2", "4", "2", "4"})});
  EXPECT_EQ(pairs_of(t, {{"slots", "16"}}, {{"slots", "8"}}), (PointPairs{{2, 0}, {3, 1}}));
  EXPECT_EQ(pairs_of(t, {{"slots", "8"}}, {{"slots", "32"}}), (PointPairs{{0, 4}, {1, 5}}));
  EXPECT_EQ(pairs_of(t, {{"ranks", "4"}}, {{"ranks", "2"}}), (PointPairs{{1, 0}, {3, 2}, {5, 4}}));
}

/// One label in a grid that the cases spell out.
TEST(Pairing, ALabelLeavesNoPointOut) {
  const PointTable t = table_of({"base", "", "", ""},
                                {texts("setting", "slots", {"8", "8", "16", "16"}), texts("setting", "codec", {"bf16", "int8", "bf16", "int8"})});
  EXPECT_EQ(pairs_of(t, {{"slots", "16"}}, {{"slots", "8"}}), (PointPairs{{2, 0}, {3, 1}}));
}

/// Two partners that differ in their label and in what follows the compared key.
TEST(Pairing, ALabelIsNoReasonToRefuse) {
  const PointTable t =
      table_of({"", "", "r"}, {texts("setting", "n", {"3", "1", "1"}), texts("setting", "m", {"a", "", ""}), texts("setting", "k", {"x", "x", "x"})});
  EXPECT_EQ(pairs_of(t, {{"n", "3"}}, {{"n", "1"}}), (PointPairs{{0, 1}}));
}

/// An included point that shares a value with the grid is the partner of all nevertheless.
TEST(Pairing, AReferenceWithAValueOfTheGridIsThePartnerOfAll) {
  const PointTable t = table_of({"", "", "", "", "full"}, {texts("setting", "policy", {"lru", "lru", "fifo", "fifo", "full"}),
                                                           texts("setting", "budget", {"25", "50", "25", "50", "25"})});
  EXPECT_EQ(pairs_of(t, {{"policy", "lru"}}, {{"policy", "full"}}), (PointPairs{{0, 4}, {1, 4}}));
}

/// A list of a sweep: its points, with the label, the repeat and the settings that it gives them.
PointList list_of(std::vector<std::size_t> points, std::vector<PointColumn> settings) {
  PointList list;
  list.columns = {texts("", "label", std::vector<std::string>(points.size())), texts("", "repeat", std::vector<std::string>(points.size(), "0"))};
  for (PointColumn& c : settings) list.columns.push_back(std::move(c));
  list.points = std::move(points);
  return list;
}

TEST(Pairing, StaysWithinAList) {
  PointTable t = table_of({"", "", "", ""}, {texts("setting", "policy", {"lru", "fifo", "lru", "fifo"})});
  EXPECT_THROW((void)pairs_of(t, {{"policy", "fifo"}}, {{"policy", "lru"}}), UserError);
  t.lists = {list_of({0, 1}, {texts("setting", "policy", {"lru", "fifo"})}), list_of({2, 3}, {texts("setting", "policy", {"lru", "fifo"})}),
             list_of({3, 0}, {texts("setting", "policy", {"fifo", "lru"})}), list_of({1, 0}, {texts("setting", "policy", {"fifo", "lru"})})};
  EXPECT_EQ(pairs_of(t, {{"policy", "fifo"}}, {{"policy", "lru"}}), (PointPairs{{1, 0}, {3, 2}, {3, 0}})) << "a pair of two lists is one";
}

/// What another sweep varies is the same within a list, or no decision of it: {layout} x {ranks}, and {map} of one of its points, of which one
/// failed.
TEST(Pairing, OnlyTheKeysOfAListDecideInIt) {
  PointTable t =
      table_of({"", "", "", "", ""},
               {texts("setting", "layout", {"local", "local", "expert", "expert", "expert"}), texts("setting", "ranks", {"2", "4", "2", "4", "2"}),
                texts("setting", "map", {"none", "", "affine", "affine", "hash"}), texts("param", "map", {"none", "", "affine", "affine", "hash"}),
                texts("param", "layout", {"local", "", "expert", "expert", "expert"})});
  t.columns[0].texts[1] = "failed";
  t.lists = {
      list_of({0, 1, 2, 3}, {texts("setting", "layout", {"local", "local", "expert", "expert"}), texts("setting", "ranks", {"2", "4", "2", "4"})}),
      list_of({4, 2}, {texts("setting", "map", {"hash", "affine"})})};
  EXPECT_EQ(pairs_of(t, {{"layout", "expert"}}, {{"layout", "local"}}), (PointPairs{{2, 0}}));
  EXPECT_EQ(pairs_of(t, {{"map", "affine"}}, {{"map", "hash"}}), (PointPairs{{2, 4}}));
  EXPECT_EQ(pairs_of(t, {{"map", "affine"}, {"layout", "expert"}}, {{"map", "hash"}, {"layout", "expert"}}), (PointPairs{{2, 4}}))
      << "a list that does not vary a key has it as a parameter";
}

/// A value of a list has the text of the list, or the one that it has in all lists.
TEST(Pairing, ListsHaveTheirOwnWords) {
  PointTable t = table_of({"", "", ""}, {texts("setting", "budget", {"0.5", "0.6", "0.6"})});
  t.lists = {list_of({0, 1}, {texts("setting", "budget", {"50%", "60%"})}), list_of({0, 2}, {texts("setting", "budget", {"0.5", "0.6"})})};
  const std::vector<PointList> own = lists_of(t), shared = lists_of(t, Words::shared);
  const auto n_pairs = [&](const std::vector<PointList>& lists, const std::string& a, const std::string& b) {
    return pair_points(t, lists, {{"budget", a}}, {{"budget", b}}).pairs.size();
  };
  EXPECT_EQ(n_pairs(own, "60%", "50%"), 1U);
  EXPECT_EQ(n_pairs(own, "0.60", "0.5"), 1U);
  EXPECT_EQ(n_pairs(shared, "0.6", "0.5"), 2U);
}

TEST(Pairing, AMergeWithoutItsListsIsRefused) {
  PointTable t = table_of({"", ""}, {texts("setting", "policy", {"lru", "fifo"})});
  t.columns.push_back(texts("", "lists", {"0", "1"}));
  EXPECT_THROW((void)lists_of(t), UserError);
}

TEST(Pairing, LeavesOutIdlePoints) {
  PointTable t = table_of({"", "", ""}, {texts("setting", "policy", {"lru", "fifo", "clock"})});
  t.columns.push_back(texts("", "labels", {"", "not_exercised", ""}));
  const PairedPoints paired = pair_points(t, lists_of(t), {{"policy", "fifo"}}, {{"policy", "lru"}});
  EXPECT_TRUE(paired.pairs.empty());
  EXPECT_EQ(paired.left_out, 1U);
}

}  // namespace
}  // namespace moekv
