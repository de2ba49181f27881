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

PointPairs pairs_of(const PointTable& t, const PointChoice& a, const PointChoice& b) {
  std::size_t left_out = 0;
  return pair_points(t, a, b, left_out);
}

TEST(Pairing, OfAGridDiffersInNothingElse) {
  const PointTable t =
      table_of({"", "", "", ""}, {texts("setting", "policy", {"lru", "lru", "fifo", "fifo"}), texts("setting", "budget", {"25", "50", "25", "50"})});
  const PointPairs pairs = pairs_of(t, {{"policy", "fifo"}}, {{"policy", "lru"}});
  EXPECT_EQ(pairs, (PointPairs{{2, 0}, {3, 1}}));
  EXPECT_TRUE(also_different(t, pairs, {"policy"}).empty());
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
  EXPECT_EQ(also_different(t, pairs, {"codec"}), std::vector<std::string>{"block"});
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

TEST(Pairing, StaysWithinAList) {
  PointTable t = table_of({"", "", "", ""}, {texts("setting", "policy", {"lru", "fifo", "lru", "fifo"})});
  EXPECT_THROW((void)pairs_of(t, {{"policy", "fifo"}}, {{"policy", "lru"}}), UserError);
  t.columns.push_back(texts("", "lists", {"0 2", "0", "1", "1 2"}));
  EXPECT_EQ(pairs_of(t, {{"policy", "fifo"}}, {{"policy", "lru"}}), (PointPairs{{1, 0}, {3, 0}, {3, 2}}));
}

TEST(Pairing, LeavesOutIdlePoints) {
  PointTable t = table_of({"", "", ""}, {texts("setting", "policy", {"lru", "fifo", "clock"})});
  t.columns.push_back(texts("", "labels", {"", "not_exercised", ""}));
  std::size_t left_out = 0;
  EXPECT_TRUE(pair_points(t, {{"policy", "fifo"}}, {{"policy", "lru"}}, left_out).empty());
  EXPECT_EQ(left_out, 1U);
}

}  // namespace
}  // namespace moekv
