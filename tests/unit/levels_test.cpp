// Levels at the ends of windows against a count that asks every page for its format and every entry for its standing.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "support/replay_fixture.hpp"
#include "support/replay_specs.hpp"

namespace moekv {
namespace {

/// What one window ends with, over all shards.
struct Levels {
  std::int64_t distinct = 0, sealed_entries = 0, pages = 0, raw_bytes = 0, code_bytes = 0, bounds_bytes = 0, host_entries = 0, host_bytes = 0;
  std::int64_t evictable = 0, free_bytes = 0, free_run_bytes = 0;
  bool blocks_seen = true;                                                 // all that were ever taken
  std::map<std::uint32_t, std::pair<std::int64_t, std::int64_t>> classes;  // entries, bytes of pages
};

class SlowCount {
 public:
  SlowCount(const RunSpec& spec, const TraceInfo& trace) : spec_(spec), geometry_(spec, trace, spec.cluster.ranks) {}

  /// Blocks of a pool that a step took show until its evictions are executed.
  void see_blocks(const ShardedCache& cache) {
    for (const Shard& shard : cache.shards()) {
      for (const Page& page : shard.pages()) {
        if (page.group == no_index || page.away) continue;
        Pool& pool = pools_[shard.id().value][page.block.pool.value];
        pool.taken = std::max(pool.taken, page.block.index + 1);
        pool.block_bytes = static_cast<std::int64_t>(format_of(shard, page).block_bytes());
      }
    }
  }

  [[nodiscard]] Levels operator()(const ShardedCache& cache, std::uint64_t step) {
    Levels sum;
    std::map<std::uint32_t, std::vector<std::uint32_t>> in_use;
    for (const Shard& shard : cache.shards()) {
      for (std::uint32_t p = 0; p < shard.pages().size(); ++p) {
        const Page& page = shard.pages()[p];
        if (page.group == no_index) continue;
        if (!page.away) in_use[page.block.pool.value].push_back(page.block.index);
        add_page(shard, page, p, sum);
        if (evicts() && !page.away) sum.evictable += evictable_in(cache.requests(), shard, page, p, step);
      }
    }
    for (const auto& [shard, pools] : pools_) {
      std::int64_t longest = 0;
      for (const auto& [id, pool] : pools) {
        std::int64_t run = 0;
        for (std::uint32_t block = 0; block < pool.taken; ++block) {
          const auto& used = in_use[id];
          const bool free = std::find(used.begin(), used.end(), block) == used.end();
          sum.free_bytes += free ? pool.block_bytes : 0;
          run = free ? run + pool.block_bytes : 0;
          longest = std::max(longest, run);
        }
      }
      sum.free_run_bytes += longest;
    }
    return sum;
  }

 private:
  struct Pool {
    std::uint32_t taken = 0;
    std::int64_t block_bytes = 0;
  };

  [[nodiscard]] std::uint32_t width_of(const Shard& shard, const Page& page) const {
    return geometry_.head_group_width(shard.rank(), shard.groups()[page.group].head_group);
  }
  [[nodiscard]] BlockFormat format_of(const Shard& shard, const Page& page) const {
    return page.sealed ? geometry_.sealed_format(width_of(shard, page), page.page_class) : geometry_.raw_format(width_of(shard, page));
  }
  [[nodiscard]] bool evicts() const {
    if (spec_.eviction.action == EvictAction::demote && std::holds_alternative<evict::FlexgenStatic>(spec_.eviction.rule)) return true;
    return spec_.eviction.budget.kind != BudgetKind::unlimited && !std::holds_alternative<evict::Full>(spec_.eviction.rule);
  }

  void add_page(const Shard& shard, const Page& page, std::uint32_t p, Levels& sum) const {
    const BlockFormat format = format_of(shard, page);
    for (std::uint32_t slot = 0; slot < page.used; ++slot) {
      const std::size_t i = shard.at(p, slot);
      const bool by_hash = geometry_.several_copies() && spec_.read.copies == CopyRule::hash;
      const bool first = by_hash ? (shard.smaller_copies(i) & shard.alive_copies(i)) == 0 : (shard.primary_words(p)[slot / 64] >> slot % 64 & 1) != 0;
      sum.distinct += shard.live(p, slot) && first && spec_.read.copies != CopyRule::paper ? 1 : 0;
    }
    if (page.away) {
      sum.host_entries += page.live;
      sum.host_bytes += static_cast<std::int64_t>(format.block_bytes() + format.bounds_bytes());
      return;
    }
    const std::int64_t raw = std::int64_t{page.live} * geometry_.entry_bytes(width_of(shard, page));
    sum.pages += 1;
    sum.raw_bytes += raw;
    sum.bounds_bytes += static_cast<std::int64_t>(geometry_.raw_format(width_of(shard, page)).bounds_bytes());
    sum.code_bytes += page.sealed ? page.live * static_cast<std::int64_t>(format.block_code_bytes()) / geometry_.page_slots() : raw;
    if (!page.sealed) return;
    sum.sealed_entries += page.live;
    sum.classes[page.page_class].first += page.live;
    sum.classes[page.page_class].second += static_cast<std::int64_t>(format.block_bytes());
  }

  /// Whether an entry could leave after the step.
  [[nodiscard]] bool may_go(const RequestTable& requests, const Group& group, std::uint32_t position, std::uint64_t step) const {
    const RequestTable::Row& row = requests[group.request];
    std::uint32_t sinks = std::max<std::uint32_t>(group.protect.sinks, spec_.eviction.protect.sinks);
    if (const auto* streaming = std::get_if<evict::Streaming>(&spec_.eviction.rule)) sinks = std::max<std::uint32_t>(sinks, streaming->start);
    if (position < sinks || position + group.protect.recent >= row.length) return false;
    const bool before_attend = geometry_.evicts_before_attend();
    if (spec_.prefill.evict == PrefillEvict::end && (before_attend ? row.step_begin : row.length) < row.prompt_tokens) return false;
    const bool ends_prompt = row.length == row.prompt_tokens && !before_attend;
    return row.step != step || ends_prompt || position < row.step_begin;
  }

  [[nodiscard]] std::int64_t evictable_in(const RequestTable& requests, const Shard& shard, const Page& page, std::uint32_t p,
                                          std::uint64_t step) const {
    const Group& group = shard.groups()[page.group];
    std::int64_t n = 0;
    for (std::uint32_t slot = 0; slot < page.used; ++slot)
      n += shard.live(p, slot) && may_go(requests, group, shard.position(shard.at(p, slot)), step) ? 1 : 0;
    if (geometry_.unit() == EvictUnit::token) return n;
    const bool fills = page.used < geometry_.page_slots() && !page.sealed && page.touched_step == step && requests[group.request].step == step;
    return fills || n < page.live ? 0 : n;
  }

  const RunSpec& spec_;
  Geometry geometry_;
  std::map<std::uint32_t, std::map<std::uint32_t, Pool>> pools_;  // by shard
};

/// Sums over windows of what was counted, so that a test can say that there was something to count.
StepRecord expect_levels(RunSpec spec, const std::string& backend, const std::vector<RequestInfo>& requests = testing::default_requests()) {
  spec.metrics.window_steps = 1;
  spec.probe.samples = 0;
  testing::RandomTrace trace(spec.model, requests, 11);
  trace.add_logits();
  const auto transport = make_local_transport();
  const auto device = make_backend(backend, 0);
  SlowCount slow(spec, trace.info());
  std::vector<Levels> levels;
  std::map<std::pair<std::int64_t, std::int64_t>, std::pair<std::int64_t, std::int64_t>> classes;
  // Blocks that a request took in its last step, and those that come and go within a step, are never seen.
  bool seen = spec.eviction.action == EvictAction::drop && spec.placement.replan_every_steps == 0 && spec.step_order == StepOrder::standard;
  const RunOutcome out = testing::run_replay(spec, *transport, *device, trace, [&](const StepBatch& batch, ShardedCache& cache, StepDriver&) {
    slow.see_blocks(cache);
    cache.execute_due();
    levels.push_back(slow(cache, batch.step));
    for (const BatchItem& item : batch.items) seen = seen && !item.finishes();
    levels.back().blocks_seen = seen && levels.back().sealed_entries == 0;
  });
  EXPECT_TRUE(out.violations.empty()) << out.violations.front();
  for (std::size_t s = 0; s < out.steps.size() && s < levels.size(); ++s) {
    SCOPED_TRACE("step " + std::to_string(s));
    const StepRecord& fast = out.steps[s];
    const Levels& l = levels[s];
    EXPECT_EQ(fast.sealed_entries, l.sealed_entries);
    EXPECT_EQ(fast.allocated_pages, l.pages);
    EXPECT_EQ(fast.kv_bytes_raw, l.raw_bytes);
    EXPECT_EQ(fast.kv_bytes_codes, l.code_bytes);
    EXPECT_EQ(fast.bounds_bytes, l.bounds_bytes);
    EXPECT_EQ(fast.host_entries, l.host_entries);
    EXPECT_EQ(fast.host_bytes, l.host_bytes);
    EXPECT_EQ(fast.evictable_entries, l.evictable);
    const bool everywhere = spec.placement.layout == Layout::head || spec.placement.layout == Layout::replicated;
    EXPECT_EQ(everywhere ? l.distinct : fast.resident_distinct, l.distinct);
    for (const auto& [page_class, counts] : l.classes) classes[{fast.first_step, page_class}] = counts;
    if (!l.blocks_seen) continue;
    EXPECT_EQ(fast.free_block_bytes, l.free_bytes);
    EXPECT_EQ(fast.free_run_bytes, l.free_run_bytes);
  }
  for (const CodecRecord& c : out.codecs) {
    const auto counts = classes[{c.first_step, c.page_class}];
    EXPECT_EQ(c.entries, counts.first) << "class " << c.page_class << " at step " << c.first_step;
    EXPECT_EQ(c.page_bytes, counts.second) << "class " << c.page_class << " at step " << c.first_step;
  }
  return testing::totals(out);
}

TEST(Levels, AreThoseOfASlowCountWhateverTheRun) {
  StepRecord sum;
  for (const auto& [name, spec] : testing::varied_specs()) {
    SCOPED_TRACE(name);
    combine_rows(sum, expect_levels(spec, spec.backend));
  }
  for (const std::int64_t n : {sum.evictable_entries, sum.sealed_entries, sum.host_entries, sum.bounds_bytes, sum.free_block_bytes}) EXPECT_GT(n, 0);
}

TEST(Levels, AreThoseOfASlowCountForHeadGroupsOfUnequalWidth) {
  ModelShape model = testing::gqa_model(2);
  model.n_kv_heads = 5;
  model.n_heads = 10;
  RunSpec spec = testing::small_spec(model);
  spec.page.head_groups = 2;
  spec.eviction.rule = evict::Lru{};
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  EXPECT_GT(expect_levels(spec, "host").evictable_entries, 0);
  spec.compression.k = spec.compression.v = codec::Int8Token{};
  EXPECT_GT(expect_levels(spec, "host").sealed_entries, 0);
}

TEST(Levels, AreThoseOfASlowCountUnderEveryCopyRuleAndUnit) {
  for (const CopyRule copies : {CopyRule::surviving, CopyRule::hash, CopyRule::paper}) {
    for (const EvictUnit unit : {EvictUnit::page, EvictUnit::token}) {
      RunSpec spec = testing::small_spec();
      testing::use_expert_layout(spec);
      spec.read.scope = ReadScope::routed;
      spec.read.copies = copies;
      spec.eviction.rule = evict::Fifo{};
      spec.eviction.unit = unit;
      spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
      for (const PrefillEvict evict : {PrefillEvict::end, PrefillEvict::chunk}) {
        spec.prefill.evict = evict;
        SCOPED_TRACE(static_cast<int>(copies) * 100 + static_cast<int>(unit) * 10 + static_cast<int>(evict));
        const StepRecord sum = expect_levels(spec, "count", testing::requests_of({{40, 60}, {0, 110}, {30, 70}}));
        EXPECT_GT(sum.evictable_entries, 0);
        EXPECT_GT(sum.free_run_bytes, 0);
        EXPECT_EQ(sum.resident_distinct > 0, copies != CopyRule::paper);
      }
    }
  }
}

}  // namespace
}  // namespace moekv
