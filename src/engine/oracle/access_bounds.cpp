// One pass over the trace with the run's own pages and nine reference caches side by side.
#include "engine/oracle/access_bounds.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "engine/oracle/reference_cache.hpp"
#include "engine/summary_list.hpp"

namespace moekv {
namespace {

constexpr std::array rules = {ReferenceRule::bypass, ReferenceRule::forced, ReferenceRule::lru, ReferenceRule::random};
constexpr std::array<std::int64_t BoundRecord::*, 4> miss_fields = {&BoundRecord::opt_bypass_miss, &BoundRecord::opt_forced_miss, &BoundRecord::lru_miss,
                                                                    &BoundRecord::random_miss};
constexpr std::size_t forced_index = 1, lru_index = 2;

class Pass {
 public:
  Pass(const AccessTrace& trace, std::uint64_t seed) : trace_(trace), held_(trace.n_pages()), usage_(trace.budgets().size()), open_(usage_.size()) {
    out_.pooled.shard = -1;
    const auto n_budgets = static_cast<std::uint32_t>(usage_.size());
    for (const ReferenceRule rule : rules) {
      sharded_.emplace_back(rule, trace.n_pages(), n_budgets, seed);
      pooled_.emplace_back(rule, trace.n_pages(), 1, seed);
    }
    std::map<std::uint32_t, std::size_t> rows;
    for (const AccessTrace::Budget& b : trace.budgets()) rows.try_emplace(b.shard, 0);
    for (auto& [shard, row] : rows) {
      row = out_.shards.size();
      out_.shards.emplace_back().shard = shard;
    }
    for (const AccessTrace::Budget& b : trace.budgets()) row_of_.push_back(rows.at(b.shard));
    shard_capacity_.resize(out_.shards.size());
    changed_at_.resize(usage_.size(), AccessTrace::never);
  }

  AccessBounds run() {
    for (std::uint32_t step = 0; step < trace_.n_steps(); ++step) {
      // The step before ends after the evictions that it made due, of every shard.
      trace_.for_each_op(step, [&](const AccessTrace::Op& op) {
        if (op.kind == AccessKind::evicted) leave(op.id);
      });
      if (step > 0) end_step(step - 1);
      trace_.for_each_op(step, [&](const AccessTrace::Op& op) { apply(op, step); });
    }
    for (const BoundRecord& s : out_.shards) {
      for_each_field(BoundRecord::metrics, [&](const auto& m) {
        if (m.combine != Combine::key) out_.total.*m.member += s.*m.member;
      });
    }
    out_.pooled.n_req = out_.total.n_req;
    out_.pooled.n_miss = out_.total.n_miss;
    out_.pooled.written_pages = out_.total.written_pages;
    return std::move(out_);
  }

 private:
  void apply(const AccessTrace::Op& op, std::uint32_t step) {
    switch (op.kind) {
      case AccessKind::evicted:
        return;
      case AccessKind::opened:
        return resize(op.id, [&] { open_[op.id] = true; });
      case AccessKind::finished:
        return finish(trace_.tenants()[op.id]);
      case AccessKind::written:
        for (std::size_t r = 0; r < rules.size(); ++r) (void)touch(r, op, step);
        row(op.id).written_pages += 1;
        return enter(op.id);
      case AccessKind::recalled:  // after its lookup, which every cache saw
        return enter(op.id);
      default:
        return look_up(op, step);
    }
  }

  BoundRecord& row(std::uint32_t page) { return out_.shards[row_of_[trace_.budget_of(page)]]; }

  /// Whether the sharded and the pooled cache of a rule had the page.
  std::pair<bool, bool> touch(std::size_t rule, const AccessTrace::Op& op, std::uint32_t step) {
    const std::uint32_t budget = trace_.budget_of(op.id);
    if (changed_at_[budget] != step) {
      changed_at_[budget] = step;
      changed_.push_back(budget);
    }
    return {sharded_[rule].touch(budget, op.id, step, op.next), pooled_[rule].touch(0, op.id, step, op.next)};
  }

  void look_up(const AccessTrace::Op& op, std::uint32_t step) {
    const bool hit = op.kind == AccessKind::hit;
    out_.wrong_outcomes += hit != held_[op.id] ? 1 : 0;
    BoundRecord& r = row(op.id);
    r.n_req += 1;
    r.n_miss += hit ? 0 : 1;
    for (std::size_t i = 0; i < rules.size(); ++i) {
      const auto [own, pool] = touch(i, op, step);
      r.*miss_fields[i] += own ? 0 : 1;
      out_.pooled.*miss_fields[i] += pool ? 0 : 1;
      if (i != lru_index) continue;
      MissAnatomy& a = out_.anatomy;
      a.capacity += pool ? 0 : 1;
      a.placement_lost += pool && !own ? 1 : 0;
      a.placement_gained += !pool && own ? 1 : 0;
      a.policy_lost += own && !hit ? 1 : 0;
      a.policy_gained += !own && hit ? 1 : 0;
    }
  }

  void enter(std::uint32_t page) {
    if (held_[page]) return;
    held_[page] = true;
    const std::uint32_t budget = trace_.budget_of(page);
    resize(budget, [&] { usage_[budget] += 1; });
  }

  void leave(std::uint32_t page) {
    if (!held_[page]) return;
    held_[page] = false;
    const std::uint32_t budget = trace_.budget_of(page);
    changed_.push_back(budget);
    resize(budget, [&] { usage_[budget] -= 1; });
  }

  void finish(const AccessTrace::Tenant& tenant) {
    for (const std::uint32_t page : tenant.pages) {
      leave(page);
      for (std::size_t r = 0; r < rules.size(); ++r) {
        sharded_[r].remove(trace_.budget_of(page), page);
        pooled_[r].remove(0, page);
      }
    }
    for (const std::uint32_t budget : tenant.budgets) resize(budget, [&] { open_[budget] = false; });
  }

  /// What a budget's caches may hold: its pages, or what the run holds there where that is more.
  [[nodiscard]] std::int64_t capacity(std::uint32_t budget) const {
    return open_[budget] ? std::max<std::int64_t>(trace_.budgets()[budget].pages, usage_[budget]) : 0;
  }

  template <class Change>
  void resize(std::uint32_t budget, Change&& change) {
    const std::int64_t before = capacity(budget);
    change();
    const std::int64_t difference = capacity(budget) - before;
    total_capacity_ += difference;
    shard_capacity_[row_of_[budget]] += difference;
  }

  void end_step(std::uint32_t step) {
    for (const std::uint32_t budget : changed_) {
      const auto pages = static_cast<std::uint64_t>(capacity(budget));
      BoundRecord& r = out_.shards[row_of_[budget]];
      for (std::size_t i = 0; i < rules.size(); ++i) {
        const auto overcommit = static_cast<std::int64_t>(sharded_[i].end_step(budget, step, pages));
        if (i == forced_index) r.overcommit_pages += overcommit;
      }
      r.capacity_pages = std::max(r.capacity_pages, shard_capacity_[row_of_[budget]]);
    }
    changed_.clear();
    for (std::size_t i = 0; i < rules.size(); ++i) {
      const auto overcommit = static_cast<std::int64_t>(pooled_[i].end_step(0, step, static_cast<std::uint64_t>(total_capacity_)));
      if (i == forced_index) out_.pooled.overcommit_pages += overcommit;
    }
    out_.pooled.capacity_pages = std::max(out_.pooled.capacity_pages, total_capacity_);
  }

  const AccessTrace& trace_;
  AccessBounds out_;
  std::vector<ReferenceCaches> sharded_, pooled_;
  std::vector<std::size_t> row_of_;           // [budgets] row of their shard
  std::vector<bool> held_;                    // [pages] by the run
  std::vector<std::int64_t> usage_;           // [budgets] pages that the run holds
  std::vector<bool> open_;
  std::vector<std::int64_t> shard_capacity_;  // [rows]
  std::vector<std::uint32_t> changed_, changed_at_;
  std::int64_t total_capacity_ = 0;
};

}  // namespace

AccessBounds bound_accesses(const AccessTrace& trace, std::uint64_t seed) { return Pass(trace, seed).run(); }

std::vector<std::string> check_bounds(const AccessBounds& b, std::int64_t n_req, std::int64_t n_miss) {
  std::vector<std::string> broken;
  const auto expect = [&](bool holds, const std::string& law) {
    if (!holds) broken.push_back("law " + law);
  };
  const auto equal = [&](const char* left, std::int64_t x, const char* right, std::int64_t y) {
    expect(x == y, fmt::format("{} = {} does not hold: {} against {}", left, right, x, y));
  };
  const auto ordered = [&](const char* where, const char* left, std::int64_t x, const char* right, std::int64_t y) {
    expect(x <= y, fmt::format("{} <= {} does not hold {}: {} against {}", left, right, where, x, y));
  };
  if (n_req >= 0) equal("lookups of the log", b.total.n_req, "n_req of the run", n_req);
  if (n_miss >= 0) equal("misses of the log", b.total.n_miss, "n_miss of the run", n_miss);
  equal("lookups that contradict writes and evictions", b.wrong_outcomes, "0", 0);
  const MissAnatomy& a = b.anatomy;
  equal("sum of miss classes", a.compulsory + a.capacity + a.placement_lost - a.placement_gained + a.policy_lost - a.policy_gained, "n_miss", b.total.n_miss);
  for (const BoundRecord& s : b.shards) {
    const std::string where = fmt::format("in shard {}", s.shard);
    ordered(where.c_str(), "opt_bypass_miss", s.opt_bypass_miss, "n_miss", s.n_miss);
    ordered(where.c_str(), "opt_bypass_miss", s.opt_bypass_miss, "opt_forced_miss", s.opt_forced_miss);
    ordered(where.c_str(), "opt_forced_miss", s.opt_forced_miss, "lru_miss", s.lru_miss);
    ordered(where.c_str(), "opt_forced_miss", s.opt_forced_miss, "random_miss", s.random_miss);
  }
  ordered("", "pooled opt_bypass_miss", b.pooled.opt_bypass_miss, "opt_bypass_miss of the shards", b.total.opt_bypass_miss);
  return broken;
}

std::vector<Summary> summarise_bounds(const AccessBounds& b) {
  SummaryList list;
  const MissAnatomy& a = b.anatomy;
  const BoundRecord &t = b.total, &p = b.pooled;
  const auto count = [&](const char* name, const char* definition, std::int64_t value) {
    list.add(name, {"1", ClaimClass::counted, definition}, static_cast<double>(value));
  };
  const auto ratio = [&](const char* name, const char* definition, std::int64_t top, std::int64_t bottom) {
    list.add_ratio(name, {"1", ClaimClass::counted, definition}, static_cast<double>(top), static_cast<double>(bottom));
  };
  count("miss_compulsory", "first lookups of pages that no write made: 0 until prefix reuse is modelled", a.compulsory);
  count("miss_capacity", "lookups that miss in one pooled LRU of the capacity of all budgets", a.capacity);
  count("miss_placement", "misses that divided budgets add to the pooled LRU, net: lost - gained", a.placement_lost - a.placement_gained);
  count("miss_placement_lost", "lookups that hit in the pooled LRU and miss in the LRU of their budget", a.placement_lost);
  count("miss_placement_gained", "lookups that miss in the pooled LRU and hit in the LRU of their budget", a.placement_gained);
  count("miss_policy", "misses of the run minus those of the LRU of each budget, to which missed pages come back: lost - gained",
        a.policy_lost - a.policy_gained);
  count("miss_policy_lost", "lookups that hit in the LRU of their budget and missed in the run", a.policy_lost);
  count("miss_policy_gained", "lookups that miss in the LRU of their budget and hit in the run", a.policy_gained);
  ratio("opt_miss_ratio", "misses of the offline optimum (opt.bypass) of each budget / n_req", t.opt_bypass_miss, t.n_req);
  ratio("opt_forced_miss_ratio", "misses of the offline optimum that keeps what a step touched (opt.forced) / n_req", t.opt_forced_miss, t.n_req);
  ratio("opt_pooled_miss_ratio", "misses of the offline optimum (opt.bypass) of one pooled cache / n_req", p.opt_bypass_miss, t.n_req);
  ratio("lru_miss_ratio", "misses of an LRU of each budget to which missed pages come back / n_req", t.lru_miss, t.n_req);
  ratio("random_miss_ratio", "misses of random victims of each budget, to which missed pages come back / n_req", t.random_miss, t.n_req);
  ratio("policy_gap", "(n_miss - misses of opt.bypass) / n_req", t.n_miss - t.opt_bypass_miss, t.n_req);
  ratio("policy_efficiency", "(hits of the run - hits of random victims) / (hits of opt.bypass - hits of random victims)", t.random_miss - t.n_miss,
        t.random_miss - t.opt_bypass_miss);
  ratio("opt_admission_share", "(misses of opt.forced - of opt.bypass) / (misses of the run - of opt.bypass): the part of the gap that is admission",
        t.opt_forced_miss - t.opt_bypass_miss, t.n_miss - t.opt_bypass_miss);
  count("opt_overcommit_pages", "pages that steps touched beyond their budgets' capacity, summed over steps", t.overcommit_pages);
  return list.take();
}

}  // namespace moekv
