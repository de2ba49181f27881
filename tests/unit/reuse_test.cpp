// When pages are looked up again and how old they are when they go: by hand, and against a plain list of the access log of replays.
#include "engine/reuse.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <map>
#include <optional>
#include <random>
#include <tuple>

#include "engine/replay.hpp"
#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

void expect_before(const ReuseClock::Before& b, std::uint32_t pages, std::uint64_t time, std::uint64_t distance) {
  EXPECT_EQ(std::tuple(b.pages, b.time, b.distance), std::tuple(pages, time, distance));
}

TEST(ReuseClock, TwoUnitsByHand) {
  ReuseClock clock;
  const std::uint32_t a = clock.add(), b = clock.add();
  expect_before(clock.look_up(a, 2), 0, 0, 0);
  expect_before(clock.look_up(b, 3), 0, 0, 0);
  expect_before(clock.look_up(a, 2), 2, 5, 4);  // a0 a1 | b0 b1 b2 | a0: since the last a0 there were a1 and three of b
  expect_before(clock.look_up(a, 3), 2, 2, 1);
  expect_before(clock.look_up(b, 3), 3, 8, 5);
  EXPECT_EQ(clock.now(), 13);
  clock.remove(b);
  expect_before(clock.look_up(a, 3), 3, 6, 2);  // pages that are gone are in no distance, their lookups stay in the time
}

/// A list of pages, most recently looked up first, and the times: slow and obvious.
struct PlainList {
  std::vector<std::uint64_t> recency;
  std::map<std::uint64_t, std::uint64_t> last;
  std::uint64_t now = 0;

  /// (time, distance), or nothing on the first lookup.
  std::optional<std::pair<std::uint64_t, std::uint64_t>> look_up(std::uint64_t page) {
    std::optional<std::pair<std::uint64_t, std::uint64_t>> before;
    const auto it = std::find(recency.begin(), recency.end(), page);
    if (it != recency.end()) {
      before = {now - last[page], static_cast<std::uint64_t>(it - recency.begin())};
      recency.erase(it);
    }
    recency.insert(recency.begin(), page);
    last[page] = now++;
    return before;
  }
};

TEST(ReuseClock, RandomUnitsAgainstAPlainList) {
  std::mt19937 random(5);
  for (int trial = 0; trial < 20; ++trial) {
    ReuseClock clock;
    PlainList plain;
    std::vector<std::pair<std::uint32_t, std::uint32_t>> units;  // number, pages
    std::uint64_t names = 0;
    std::vector<std::uint64_t> name;
    for (int i = 0; i < 400; ++i) {
      if (units.empty() || random() % 10 == 0) {
        units.emplace_back(clock.add(), 0);
        name.push_back(1000 * names++);
      }
      const std::size_t u = random() % units.size();
      if (random() % 25 == 0) {
        clock.remove(units[u].first);
        std::erase_if(plain.recency, [&](std::uint64_t p) { return p / 1000 == name[u] / 1000; });
        units.erase(units.begin() + static_cast<std::ptrdiff_t>(u));
        name.erase(name.begin() + static_cast<std::ptrdiff_t>(u));
        continue;
      }
      units[u].second += units[u].second == 0 || random() % 2 == 0 ? 1 : 0;
      const ReuseClock::Before before = clock.look_up(units[u].first, units[u].second);
      for (std::uint32_t p = 0; p < units[u].second; ++p) {
        const auto expected = plain.look_up(name[u] + p);
        ASSERT_EQ(expected.has_value(), p < before.pages);
        ASSERT_EQ(expected.value_or(std::pair(before.time, before.distance)), std::pair(before.time, before.distance));
      }
      ASSERT_EQ(clock.now(), plain.now);
    }
  }
}

TEST(LogBins, HoldPowersOfTwo) {
  LogBins bins;
  for (const std::uint64_t x : {0U, 1U, 2U, 3U, 4U, 7U, 8U}) bins.add(x);
  bins.add(5, 10);
  EXPECT_EQ((std::vector<std::int64_t>(bins.count.begin(), bins.count.begin() + 5)), (std::vector<std::int64_t>{1, 1, 2, 12, 1}));
  EXPECT_EQ(bins.total[3], 4 + 7 + 50);
  EXPECT_EQ(std::pair(LogBins::low(0), LogBins::high(0)), std::pair(std::uint64_t{0}, std::uint64_t{0}));
  EXPECT_EQ(std::pair(LogBins::low(3), LogBins::high(3)), std::pair(std::uint64_t{4}, std::uint64_t{7}));
  EXPECT_EQ(LogBins::high(64), ~std::uint64_t{0});
}

/// What an access log says, page by page.
class LogReader {
 public:
  explicit LogReader(const RunSpec& spec) : spec_(spec) {}

  void take(std::span<const AccessEvent> events) {
    std::map<List, std::uint64_t> begin;
    for (const auto& [key, list] : lists_) begin[key] = list.now;
    for (const AccessEvent& e : events) {
      if (e.kind == AccessKind::finished) finish(e);
      if (e.kind == AccessKind::opened || e.kind == AccessKind::finished) continue;
      const List key = list_of(e);
      for (std::uint32_t p = e.first; p < e.first + e.count; ++p) {
        const Page page{e.shard, e.request, e.layer, e.head_group, e.side, e.expert, p};
        const std::uint64_t id = ids_.try_emplace(page, ids_.size()).first->second;
        PlainList& list = lists_[key];
        if (e.kind == AccessKind::written) entered_[id] = list.now;
        if (e.kind == AccessKind::recalled) entered_[id] = begin[key];  // it came back before the step's lookups
        if (e.kind == AccessKind::evicted) leave(id, list);
        if (e.kind == AccessKind::hit || e.kind == AccessKind::miss) look_up(id, list);
      }
    }
  }

  ReuseCounts counts;
  std::int64_t first = 0;

 private:
  using List = std::tuple<std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t>;
  using Page = std::tuple<std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t>;

  [[nodiscard]] List list_of(const AccessEvent& e) const {
    if (spec_.eviction.scope == EvictScope::shard) return {e.shard, 0, 0, 0};
    return {e.shard, e.request, e.layer, e.head_group};
  }
  void look_up(std::uint64_t id, PlainList& list) {
    const auto before = list.look_up(id);
    if (!before) {
      first += 1;
      return;
    }
    counts.reuse_time.add(before->first);
    counts.reuse_distance.add(before->second);
  }
  void leave(std::uint64_t id, PlainList& list) {
    counts.eviction_age.add(list.now - entered_.at(id));
    if (spec_.eviction.access == AccessSource::mass) std::erase(list.recency, id);
  }
  void finish(const AccessEvent& e) {
    for (const auto& [page, id] : ids_) {
      if (std::get<0>(page) != e.shard || std::get<1>(page) != e.request) continue;
      for (auto& [key, list] : lists_) std::erase(list.recency, id);
    }
  }

  const RunSpec& spec_;
  std::map<List, PlainList> lists_;
  std::map<Page, std::uint64_t> ids_;
  std::map<std::uint64_t, std::uint64_t> entered_;
};

void expect_bins(const RunOutcome& out, HistogramOf of, const LogBins& expected) {
  LogBins found;
  for (const HistogramRecord& r : out.histograms) {
    if (r.histogram != static_cast<std::int64_t>(of)) continue;
    const auto bin = static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(r.low)));
    EXPECT_EQ(static_cast<std::uint64_t>(r.high), LogBins::high(bin));
    found.count[bin] += r.count;
    found.total[bin] += r.total;
  }
  EXPECT_EQ(found.count, expected.count) << to_string(of);
  EXPECT_EQ(found.total, expected.total) << to_string(of);
  std::int64_t n = 0;
  for (const std::int64_t c : found.count) n += c;
  EXPECT_GT(n, 20) << to_string(of);
}

void expect_log(const std::string& what, const RunSpec& spec) {
  SCOPED_TRACE(what);
  testing::RandomTrace trace(spec.model, testing::requests_of({{40, 60}, {0, 90}, {57, 30}, {13, 40}}), 11);
  const auto transport = make_local_transport();
  const auto backend = make_backend(spec.backend, 0);
  LogReader log(spec);
  ReplayHooks hooks;
  hooks.accesses = [&](std::uint64_t, std::span<const AccessEvent> events) { log.take(events); };
  const RunOutcome out = replay(spec, trace, *backend, *transport, hooks);
  EXPECT_TRUE(out.violations.empty()) << out.violations.front();
  expect_bins(out, HistogramOf::eviction_age, log.counts.eviction_age);
  expect_bins(out, HistogramOf::reuse_distance, log.counts.reuse_distance);
  expect_bins(out, HistogramOf::reuse_time, log.counts.reuse_time);
  EXPECT_EQ(testing::totals(out).first_lookups, log.first);
}

RunSpec logged_spec() {
  RunSpec spec = testing::small_spec();
  spec.backend = "count";
  spec.probe.samples = 0;
  spec.eviction.rule = evict::Lru{};
  spec.eviction.budget = {BudgetKind::pages, 2, 1, 1};
  spec.eviction.protect = {0, 0};
  spec.prefill.evict = PrefillEvict::chunk;
  testing::use_expert_layout(spec, ShardMap::hash);
  spec.read.scope = ReadScope::routed;
  return spec;
}

TEST(Reuse, EveryKindOfLookupAgainstTheAccessLog) {
  RunSpec spec = logged_spec();
  expect_log("pages by expert", spec);
  spec.eviction.scope = EvictScope::shard;
  spec.eviction.budget.amount = 12;
  expect_log("one budget a shard", spec);
  spec.page.key = PageKey::shard;
  expect_log("pages of any expert, one budget a shard", spec);
  spec = logged_spec();
  spec.page.key = PageKey::shard;
  expect_log("pages of any expert", spec);
  spec.eviction.action = EvictAction::demote;
  expect_log("pages of any expert, demoted", spec);
  spec.page.key = PageKey::automatic;
  expect_log("pages by expert, demoted", spec);
  spec = logged_spec();
  spec.placement = {};
  spec.read.scope = ReadScope::all;
  spec.eviction.access = AccessSource::dense;
  spec.eviction.unit = EvictUnit::token;
  spec.eviction.rule = evict::Fifo{};
  spec.eviction.budget = {BudgetKind::tokens, 20, 1, 1};
  expect_log("slots that are used again", spec);
}

TEST(Reuse, LookupsByAttention) {
  RunSpec spec = logged_spec();
  spec.backend = "host";
  spec.eviction.access = AccessSource::mass;
  spec.eviction.access_mass = 0.2;
  spec.placement = {};
  spec.read.scope = ReadScope::all;
  spec.eviction.budget.amount = 5;
  spec.eviction.protect = {0, 16};  // the open page stays, so the log's names of pages are exact
  spec.compression.k = spec.compression.v = codec::Int8Token{};
  expect_log("mass", spec);
}

TEST(Levels, WhatMayLeaveAndWhatLiesBetweenFreeBlocksByHand) {
  RunSpec spec = testing::small_spec(testing::gqa_model(1));
  spec.cluster.ranks = 1;
  spec.probe.samples = 0;
  spec.metrics.window_steps = 20;
  spec.eviction.rule = evict::Fifo{};
  spec.eviction.budget = {BudgetKind::pages, 100, 1, 1};
  // After 20 steps a request of 30 tokens has pages of positions 0-7 (sinks 0, 1), 8-15 and 16-19 (the last four are recent).
  const RunOutcome pages = testing::run_replay(spec, testing::requests_of({{0, 30}}), "count");
  EXPECT_EQ(pages.steps[0].evictable_entries, 8);
  EXPECT_EQ(pages.steps[0].written_distinct, 20);
  EXPECT_EQ(pages.steps[0].resident_distinct, 20);
  EXPECT_EQ(pages.steps[1].written_distinct, 0) << "finished";
  spec.eviction.unit = EvictUnit::token;
  spec.eviction.budget = {BudgetKind::tokens, 100, 1, 1};
  EXPECT_EQ(testing::run_replay(spec, testing::requests_of({{0, 30}}), "count").steps[0].evictable_entries, 14) << "positions 2 to 15";
  // Pages of three requests take blocks in turn; after 20 steps the one of 17 tokens is gone: blocks 1, 4 and 7 of 0 to 8 are free.
  spec.eviction = {};
  const RunOutcome three = testing::run_replay(spec, testing::requests_of({{0, 30}, {0, 17}, {0, 30}}), "count");
  EXPECT_EQ(three.steps[0].evictable_entries, 0) << "nothing evicts";
  EXPECT_EQ(three.steps[0].free_block_bytes, 3 * three.steps[0].free_run_bytes);
  EXPECT_EQ(three.steps[0].kv_bytes_stored, 6 * three.steps[0].free_run_bytes);
  EXPECT_EQ(three.steps[0].written_distinct, 40);
}

}  // namespace
}  // namespace moekv
