// Selection in the engine: identity, growth with the budget, the chosen pages against plain loops over a request's keys, accesses, bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "engine/exact.hpp"
#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

using testing::RandomQkv;
using testing::RandomTrace;
using testing::run_replay;
using testing::small_spec;
using testing::totals;

select::Quest quest(std::uint32_t budget, select::QuestVariant variant = select::QuestVariant::kernel) {
  select::Quest rule;
  rule.budget_pages = budget;
  rule.variant = variant;
  rule.dense_layers = 1;
  return rule;
}

const std::vector<RequestInfo>& requests() {
  static const std::vector<RequestInfo> few = testing::requests_of({{40, 16}, {0, 25}, {33, 3}, {1, 1}});
  return few;
}

std::vector<RunSpec> layouts() {
  std::vector<RunSpec> all;
  const auto add = [&](auto change, ModelShape model = testing::gqa_model()) {
    RunSpec spec = small_spec(std::move(model));
    change(spec);
    all.push_back(spec);
  };
  add([](RunSpec&) {});
  add([](RunSpec& s) { s.page.head_groups = 4; });
  add([](RunSpec& s) { testing::use_expert_layout(s); });
  add([](RunSpec& s) {
    testing::use_expert_layout(s);
    s.placement.dedup = Dedup::rank;
    s.read.copies = CopyRule::hash;
  });
  add([](RunSpec& s) {
    s.placement.layout = Layout::token;
    s.placement.map = ShardMap::block_cyclic;
    s.cluster.ranks = 1;
    s.cluster.shards_per_rank = 2;
  });
  add([](RunSpec& s) { s.placement.layout = Layout::head; });
  add([](RunSpec& s) { s.placement.layout = Layout::head; s.cluster.ranks = 8; });
  add([](RunSpec& s) { s.model.layers[2].attention = AttentionKind::window; s.model.layers[2].window_tokens = 21; });
  add([](RunSpec& s) { s.read.scope = ReadScope::routed; testing::use_expert_layout(s); });
  add([](RunSpec&) {}, testing::mla_model());
  return all;
}

TEST(Selection, OfAllPagesIsDenseAttention) {
  for (RunSpec spec : layouts()) {
    SCOPED_TRACE(spec.model.name + " layout " + std::to_string(static_cast<int>(spec.placement.layout)));
    const RunOutcome dense = run_replay(spec, requests());
    for (const select::QuestVariant variant : {select::QuestVariant::kernel, select::QuestVariant::accuracy}) {
      select::Quest rule = quest(64, variant);
      rule.prompt = select::PromptReads::selected;
      rule.dense_layers = 0;
      spec.read.select = rule;
      const RunOutcome chosen = run_replay(spec, requests());
      const StepRecord sum = totals(chosen);
      EXPECT_EQ(chosen.digest, dense.digest);
      EXPECT_GT(sum.pages_considered, 100);
      EXPECT_EQ(sum.pages_selected, sum.pages_considered);
      EXPECT_EQ(sum.bounds_bytes_read, 0);
      EXPECT_EQ(sum.entries_wanted, totals(dense).entries_wanted);
      ASSERT_EQ(chosen.probes.size(), dense.probes.size());
      for (std::size_t i = 0; i < dense.probes.size(); ++i) {
        ASSERT_EQ(chosen.probes[i].read_tokens, dense.probes[i].read_tokens);
        ASSERT_EQ(chosen.probes[i].attn_out_err, dense.probes[i].attn_out_err);
        ASSERT_EQ(chosen.probes[i].attn_mass_kept, dense.probes[i].attn_mass_kept);
      }
      EXPECT_TRUE(chosen.violations.empty()) << chosen.violations.front();
    }
  }
}

TEST(Selection, KeepsMoreMassWithEveryPage) {
  for (RunSpec spec : layouts()) {
    std::vector<ProbeRecord> before;
    std::int64_t read_before = 0;
    double gained = 0;
    for (const std::uint32_t budget : {1U, 2U, 3U, 5U}) {
      spec.read.select = quest(budget);
      const RunOutcome out = run_replay(spec);
      EXPECT_TRUE(out.violations.empty()) << out.violations.front();
      const StepRecord sum = totals(out);
      EXPECT_GE(sum.pages_selected, read_before);
      EXPECT_EQ(sum.bounds_bytes_read > 0, sum.pages_selected < sum.pages_considered);
      if (budget == 1) {
        EXPECT_LT(sum.pages_selected, sum.pages_considered);
      }
      read_before = sum.pages_selected;
      for (std::size_t i = 0; i < before.size(); ++i) {
        ASSERT_GE(out.probes[i].attn_mass_kept, before[i].attn_mass_kept - 1e-12);
        gained += out.probes[i].attn_mass_kept - before[i].attn_mass_kept;
      }
      before = out.probes;
    }
    EXPECT_GT(gained, 0.5);
  }
}

/// Keys, queries and choices of one request and layer, from nothing but the generator: pages of `slots` consecutive positions.
class SlowSelection {
 public:
  SlowSelection(const RunSpec& spec, const select::Quest& rule) : spec_(spec), rule_(rule), qkv_(spec.model, 7) {}

  /// Positions that the query heads of KV heads [first, first + width) read at `position`, when `position + 1` tokens are stored.
  std::set<std::uint32_t> operator()(const ProbeRecord& row, std::uint32_t first, std::uint32_t width) {
    const ModelShape& m = spec_.model;
    const auto position = static_cast<std::uint32_t>(row.position);
    const LayerId layer(static_cast<std::uint16_t>(row.layer));
    const RequestId request(static_cast<std::uint32_t>(row.request));
    std::vector<float> q(std::size_t{m.n_heads} * m.d_k), k(std::size_t{position + 1} * m.n_kv_heads * m.d_k);
    qkv_.queries(layer, request, position, position + 1, {}, q.data());
    qkv_.keys_values(layer, request, 0, position + 1, {}, k.data(), nullptr);
    const std::uint32_t slots = spec_.page.slots, n_pages = position / slots + 1, group = m.group_size();
    std::vector<std::pair<double, std::uint32_t>> scores;  // negative, so that ascending order is best first and lowest page first
    for (std::uint32_t p = 0; p < n_pages; ++p) {
      double total = 0;
      for (std::uint32_t h = first * group; h < (first + width) * group; ++h) {
        for (std::uint32_t d = 0; d < m.d_k; ++d) {
          double most = -INFINITY;
          for (std::uint32_t t = p * slots; t < std::min((p + 1) * slots, position + 1); ++t)
            most = std::max(most, static_cast<double>(q[h * m.d_k + d]) * static_cast<double>(k[(std::size_t{t} * m.n_kv_heads + h / group) * m.d_k + d]));
          total += most;  // the largest product is at the smallest or the largest key
        }
      }
      scores.emplace_back(-total, p);
    }
    std::set<std::uint32_t> pages;
    std::size_t wanted = std::max(3U, rule_.budget_pages);
    if (rule_.variant == select::QuestVariant::kernel) {
      pages.insert(n_pages - 1);
      scores.pop_back();
      wanted = rule_.budget_pages - 1;
    }
    std::sort(scores.begin(), scores.end());
    for (std::size_t i = 0; i < std::min(wanted, scores.size()); ++i) pages.insert(scores[i].second);
    std::set<std::uint32_t> out;
    for (const std::uint32_t p : pages) {
      for (std::uint32_t t = p * slots; t < std::min((p + 1) * slots, position + 1); ++t) out.insert(t);
    }
    return out;
  }
  RandomQkv& qkv() { return qkv_; }

 private:
  const RunSpec& spec_;
  select::Quest rule_;
  RandomQkv qkv_;
};

/// Mean over heads of the exact mass of what each head read.
double mass_of(SlowSelection& slow, const RunSpec& spec, const ProbeRecord& row, std::uint32_t width, std::set<std::uint32_t>& read) {
  const ModelShape& m = spec.model;
  const LayerId layer(static_cast<std::uint16_t>(row.layer));
  const RequestId request(static_cast<std::uint32_t>(row.request));
  const auto position = static_cast<std::uint32_t>(row.position);
  std::vector<float> q(std::size_t{m.n_heads} * m.d_k);
  slow.qkv().queries(layer, request, position, position + 1, {}, q.data());
  const double scale = m.softmax_scale > 0 ? m.softmax_scale : 1.0 / std::sqrt(static_cast<double>(m.d_k));
  const ExactQuery query{layer, m.layers[static_cast<std::size_t>(row.layer)], request, position, q.data(), nullptr, scale, nullptr, 0};
  const ExactResult exact = exact_attention(slow.qkv(), m, query);
  double mass = 0;
  for (std::uint32_t first = 0; first < m.n_kv_heads; first += width) {
    const std::set<std::uint32_t> positions = slow(row, first, width);
    read.insert(positions.begin(), positions.end());
    for (std::uint32_t h = first * m.group_size(); h < (first + width) * m.group_size(); ++h) {
      for (const std::uint32_t t : positions) mass += exact.weights[h * (position + std::size_t{1}) + t] / m.n_heads;
    }
  }
  return mass;
}

class SlowAndFast : public ::testing::TestWithParam<std::tuple<int, std::uint32_t, select::QuestVariant>> {};

TEST_P(SlowAndFast, ReadTheSamePages) {
  const auto [kind, budget, variant] = GetParam();
  RunSpec spec = small_spec(kind == 2 ? testing::mla_model() : testing::gqa_model());
  spec.page.head_groups = kind == 1 ? 4 : 1;
  if (kind == 3) {  // sealed pages keep the bounds of their raw keys
    spec.compression.k = codec::Int4Token{};
    spec.compression.v = codec::Int4Token{};
    spec.compression.sink_tokens = 0;
  }
  const select::Quest rule = quest(budget, variant);
  spec.read.select = rule;
  const RunOutcome out = run_replay(spec, requests());
  SlowSelection slow(spec, rule);
  std::size_t chosen = 0;
  for (const ProbeRecord& row : out.probes) {
    const bool selecting = row.layer >= rule.dense_layers && row.position >= requests()[static_cast<std::size_t>(row.request)].prompt_tokens;
    if (!selecting) {
      ASSERT_NEAR(row.attn_mass_kept, 1.0, 1e-9);
      continue;
    }
    std::set<std::uint32_t> read;
    const double mass = mass_of(slow, spec, row, spec.model.n_kv_heads / spec.page.head_groups, read);
    ASSERT_EQ(row.read_tokens, static_cast<std::int64_t>(read.size())) << "request " << row.request << " layer " << row.layer << " position " << row.position;
    ASSERT_NEAR(row.attn_mass_kept, mass, 1e-8) << "request " << row.request << " layer " << row.layer << " position " << row.position;
    chosen += row.attn_mass_kept < 1 - 1e-9 ? 1 : 0;
  }
  EXPECT_GT(chosen, 20U);
}

INSTANTIATE_TEST_SUITE_P(Kinds, SlowAndFast,
                         ::testing::Combine(::testing::Values(0, 1, 2, 3), ::testing::Values(1U, 2U, 4U),
                                            ::testing::Values(select::QuestVariant::kernel, select::QuestVariant::accuracy)));

template <std::size_t i = 0, class F>
void for_each_select_rule(F&& f) {
  if constexpr (i < std::variant_size_v<SelectRule>) {
    f(std::variant_alternative_t<i, SelectRule>{});
    for_each_select_rule<i + 1>(f);
  }
}

TEST(EverySelectRule, ReplaysWithinTheLawsOnAnyNumberOfThreads) {
  for_each_select_rule([](auto rule) {
    SCOPED_TRACE(std::string(rule.name));
    if constexpr (requires { rule.budget_pages; }) rule.budget_pages = 3;
    if constexpr (requires { rule.dense_layers; }) rule.dense_layers = 0;
    RunSpec spec = small_spec();
    testing::use_expert_layout(spec);
    spec.read.select = rule;
    std::vector<RunOutcome> runs;
    for (const int threads : {1, 3}) {
      RandomTrace trace(spec.model, testing::default_requests(), 11);
      const auto transport = make_local_transport();
      const auto backend = make_host_backend(threads);
      runs.push_back(run_replay(spec, *transport, *backend, trace));
    }
    EXPECT_EQ(runs[0].digest, runs[1].digest);
    EXPECT_TRUE(runs[0].violations.empty()) << runs[0].violations.front();
    const StepRecord sum = totals(runs[0]);
    EXPECT_EQ(sum.pages_selected < sum.pages_considered, selects(spec.read.select));
  });
}

RunSpec cached_spec() {
  RunSpec spec = small_spec();
  spec.read.select = quest(2);
  spec.eviction.rule = evict::Lru{};
  spec.eviction.access = AccessSource::selected;
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  spec.eviction.protect = {0, 8};
  return spec;
}

TEST(SelectedAccess, LooksUpWhatWasRead) {
  RunSpec spec = cached_spec();
  spec.eviction.rule = evict::Full{};
  spec.eviction.budget = {};
  spec.read.select = quest(2);
  spec.model.layers.resize(2);
  testing::RandomTrace trace(spec.model, testing::requests_of({{64, 24}}), 5);
  const auto transport = make_local_transport();
  const auto backend = make_host_backend(0);
  std::int64_t before = 0, wanted = 0;
  const auto check = [&](const StepBatch& batch, ShardedCache& cache, StepDriver&) {
    const BatchItem& item = batch.items.front();
    const std::int64_t pages = (item.end + spec.page.slots - 1) / spec.page.slots;
    wanted += item.prefill() ? 2 * pages : pages + std::min<std::int64_t>(2, pages);  // layer 0 is dense, layer 1 selects for output tokens
    ASSERT_EQ(cache.counters().step.n_req + before, wanted) << "step " << batch.step;
    if ((batch.step + 1) % spec.metrics.window_steps == 0) before += cache.counters().step.n_req;
  };
  const RunOutcome out = run_replay(spec, *transport, *backend, trace, check);
  const StepRecord sum = totals(out);
  EXPECT_EQ(sum.n_req, wanted);
  EXPECT_EQ(sum.n_hit, sum.n_req) << "what is evicted has no bounds, so nothing asks for it";
  EXPECT_EQ(sum.requested_bytes > 0, true);
}

TEST(SelectedAccess, ClassicRulesFollowIt) {
  RunSpec spec = cached_spec();
  spec.eviction.budget = {BudgetKind::pages, 5, 1, 1};
  spec.probe.samples = 0;
  const auto digest = [&](const EvictRule& rule, AccessSource access) {
    spec.eviction.rule = rule;
    spec.eviction.access = access;
    const RunOutcome out = run_replay(spec, testing::requests_of({{24, 120}, {16, 120}}));
    EXPECT_GT(totals(out).evictions, 0);
    EXPECT_TRUE(out.violations.empty()) << out.violations.front();
    return to_hex(out.digest);
  };
  std::set<std::string> all;
  const std::vector<EvictRule> rules{evict::Fifo{}, evict::Lru{}, evict::Lfu{}, evict::Sieve{}, evict::Clock{}};
  for (const EvictRule& rule : rules)
    all.insert(digest(rule, AccessSource::selected));
  EXPECT_GE(all.size(), 4U) << "rules of access differ once accesses are sparse";
  EXPECT_NE(digest(evict::Lru{}, AccessSource::selected), digest(evict::Lru{}, AccessSource::dense));
}

TEST(SelectedAccess, ProtectsWhatQueriesLookFor) {  // a page that is read stays, one that is not goes: LRU keeps more mass than FIFO, MRU less
  RunSpec spec = cached_spec();
  spec.eviction.budget = {BudgetKind::pages, 4, 1, 1};
  const auto mass = [&](const EvictRule& rule) {
    spec.eviction.rule = rule;
    const RunOutcome out = run_replay(spec, testing::requests_of({{24, 60}, {16, 30}}));
    double sum = 0;
    for (const ProbeRecord& p : out.probes) sum += p.attn_mass_kept;
    return sum;
  };
  EXPECT_NE(mass(evict::Lru{}), mass(evict::Mru{}));
}

TEST(BoundsBytes, AreCountedInMetadataAndInAByteBudget) {
  RunSpec spec = cached_spec();
  const std::int64_t block = std::int64_t{4} * 2 * 16 * 8 * 4, bounds = std::int64_t{4} * 2 * 16 * 4;  // heads x (K, V) x d x slots x fp32
  spec.eviction.budget = {BudgetKind::bytes, static_cast<std::uint64_t>(5 * (block + bounds) - 1), 1, 1};
  spec.eviction.protect = {0, 4};
  spec.model.layers.resize(2);
  RandomTrace trace(spec.model, testing::requests_of({{24, 60}}), 5);
  const auto transport = make_local_transport();
  const auto backend = make_host_backend(0);
  std::int64_t most = 0;
  const auto check = [&](const StepBatch& batch, ShardedCache& cache, StepDriver&) {
    if (batch.step < 2) return;
    std::int64_t pages = 0, bytes = 0, metadata = 0;
    for (const Shard& shard : cache.shards()) {
      const Shard::Usage u = shard.usage();
      pages += u.pages;
      bytes += u.bounds_bytes;
      metadata += u.metadata_bytes;
    }
    EXPECT_EQ(bytes, pages * bounds);
    EXPECT_GT(metadata, bytes);
    most = std::max(most, pages);
  };
  const RunOutcome out = run_replay(spec, *transport, *backend, trace, check);
  EXPECT_GT(totals(out).evictions, 0);
  EXPECT_LE(most, 2 * 5) << "four pages of a layer fit, and one that the step admitted; without bounds five would";
  EXPECT_GE(backend->memory().bounds_bytes, most * bounds);
}

}  // namespace
}  // namespace moekv
