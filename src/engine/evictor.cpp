// Budgets, victims and their execution for score rules at both scopes.
#include "engine/evictor.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace moekv {
namespace {

std::uint32_t sinks_of(const EvictionSpec& spec) {
  std::uint32_t sinks = spec.protect.sinks;
  std::visit(
      [&](const auto& rule) {
        if constexpr (requires { rule.start; }) sinks = std::max<std::uint32_t>(sinks, rule.start);
      },
      spec.rule);
  return sinks;
}

}  // namespace

Evictor::Evictor(const Geometry& geometry, const RequestTable& requests, Backend& backend, Counters& counters, Notify notify)
    : geometry_(&geometry),
      requests_(&requests),
      backend_(&backend),
      counters_(&counters),
      notify_(std::move(notify)),
      scorer_(geometry, backend, counters, requests),
      sinks_(sinks_of(geometry.spec().eviction)) {
  const EvictionSpec& spec = geometry.spec().eviction;
  const evict::Traits& rule = traits_of(spec.rule);
  queue_ = rule.family == evict::Family::queue;
  std::visit([&](const auto& allocator) { sharing_ = allocator.over; }, spec.allocator);
  demotes_ = spec.action == EvictAction::demote;
  planned_ = demotes_ && rule.places;
  active_ = planned_ || (rule.family != evict::Family::none && spec.budget.kind != BudgetKind::unlimited);
}

EvictableRange Evictor::evictable_range(const Group& group) const {
  const RequestTable::Row& row = (*requests_)[group.request];
  EvictableRange range = unprotected(std::max(sinks_, group.protect.sinks), group.protect.recent, row.length);
  // Before attend a step that still stores prompt tokens belongs to the prompt: it has not attended yet.
  const bool before_attend = geometry_->evicts_before_attend();
  const bool in_prompt = (before_attend ? row.step_begin : row.length) < row.prompt_tokens;
  if (in_prompt && geometry_->spec().prefill.evict == PrefillEvict::end) range.end = 0;
  // What the step appended is pinned; the chunk that ends a prompt is not, or nothing could leave after it.
  const bool ends_prompt = row.length == row.prompt_tokens && !before_attend;
  if (row.step == step_ && !ends_prompt) range.end = std::min(range.end, row.step_begin);
  return range;
}

Evictor::Standing Evictor::page_standing(const Shard& shard, const Page& page, std::uint32_t index, const EvictableRange& range) const {
  const bool begun = page.used < geometry_->page_slots() && !page.sealed && page.touched_step == step_;
  Standing worst = begun && (*requests_)[shard.groups()[page.group].request].step == step_ ? Standing::sheltered : Standing::evictable;
  if (range.holds(page.min_position, page.max_position)) return worst;
  for (std::uint32_t slot = 0; slot < page.used; ++slot) {
    if (!shard.live(index, slot)) continue;
    const Standing s = range.standing(shard.position(shard.at(index, slot)));
    if (s == Standing::permanent) return s;
    if (s == Standing::sheltered) worst = s;
  }
  return worst;
}

std::uint64_t Evictor::in_budget_units(std::uint64_t entries, std::uint64_t pages, std::uint64_t bytes) const {
  switch (geometry_->spec().eviction.budget.kind) {
    case BudgetKind::pages:
      return pages;
    case BudgetKind::bytes:
      return bytes;
    default:
      return entries;
  }
}

std::uint64_t Evictor::weight(const Shard& shard, const Page& page) const {
  const bool bytes = geometry_->spec().eviction.budget.kind == BudgetKind::bytes;
  return in_budget_units(page.live, 1, bytes ? shard.budget_bytes_of(page) : 0);
}

bool Evictor::due(const EvictList& list, const Group* group, std::uint64_t step, double& target) const {
  const EvictionSpec& spec = geometry_->spec().eviction;
  target = static_cast<double>(list.budget);
  const auto used = static_cast<double>(usage(list));
  switch (spec.trigger) {
    case Trigger::on_full:
      return used > target;
    case Trigger::watermark: {
      const bool over = used > target * spec.high_watermark;
      target = std::floor(target * spec.low_watermark);
      return over;
    }
    case Trigger::every:
      return (step + 1) % spec.every_steps == 0 && used > target;
    case Trigger::prefill_end: {
      if (group == nullptr) return used > target;
      const RequestTable::Row& row = (*requests_)[group->request];
      return used > target && (geometry_->evicts_before_attend() ? row.step_begin : row.length) == row.prompt_tokens;
    }
  }
  return false;
}

void Evictor::decide(Shard& shard, std::uint64_t step, std::uint32_t layer) {
  step_ = step;
  auto& dirty = shard.dirty_groups();
  if (active_) {
    if (geometry_->spec().eviction.scope == EvictScope::shard) {
      decide_list(shard, shard.shard_list(), nullptr, step);
    } else {
      auto& groups = shard.groups();
      const auto key = [&](std::uint32_t g) { return std::tuple(groups[g].request, groups[g].layer, groups[g].head_group); };
      std::sort(dirty.begin(), dirty.end(), [&](std::uint32_t a, std::uint32_t b) { return key(a) < key(b); });
      if (geometry_->allocated() != allocate::When::start) allot(shard, step);
      for (const std::uint32_t g : dirty) {
        const bool asked = layer == no_index || groups[g].layer == layer;
        if (groups[g].in_use && asked && has_capacity(groups[g], step)) decide_list(shard, groups[g].list, &groups[g], step);
      }
    }
    take_gathered(shard, step);
  }
  // A group that is still over its budget, or that waits for its trigger, stays on the list.
  std::erase_if(dirty, [&](std::uint32_t g) {
    Group& group = shard.groups()[g];
    const bool waits = layer != no_index && group.layer != layer;
    const bool stays = active_ && group.in_use && (waits || (planned_ ? group.list.live > 0 : usage(group.list) > group.list.budget));
    group.list.dirty = stays;
    return !stays;
  });
}

void Evictor::decide_list(Shard& shard, EvictList& list, Group* only, std::uint64_t step) {
  if (planned_) return take_planned(shard, only, step);
  double target = 0;
  const bool over = due(list, only, step, target);
  counters_->step.steps_under_pressure += usage(list) > list.budget ? 1 : 0;
  // What the queries of a step read is needed at once, whatever leaves after it.
  const std::uint64_t needed = list.needed_step == step ? in_budget_units(list.needed_live, list.needed_pages, list.needed_bytes) : 0;
  const std::uint64_t at_once = needed > list.budget ? needed - list.budget : 0;
  if (!over) {
    if (!list.turns.empty()) take_queue_pages(shard, list, 0, step);
    counters_->step.overcommit += static_cast<std::int64_t>(at_once);
    return;
  }
  const std::uint64_t excess = usage(list) - static_cast<std::uint64_t>(target);
  if (!queue_) return gather(shard, {&list, only, static_cast<std::uint64_t>(target), excess, at_once, 0, 0, 0}, step);
  const bool pages = geometry_->unit() == EvictUnit::page;
  const std::uint64_t left = pages ? take_queue_pages(shard, list, excess, step) : take_queue_tokens(shard, list, excess, step);
  settle(shard, only, static_cast<std::uint64_t>(target), at_once, left);
}

void Evictor::settle(Shard& shard, const Group* only, std::uint64_t target, std::uint64_t at_once, std::uint64_t left) {
  const std::uint64_t budget = (only != nullptr ? only->list : shard.shard_list()).budget;  // not below target: a watermark may ask for less
  const std::uint64_t above = target + left - std::min(target + left, budget);
  counters_->step.overcommit += static_cast<std::int64_t>(std::max(above, at_once));
  const std::uint32_t group = only != nullptr ? static_cast<std::uint32_t>(only - shard.groups().data()) : no_index;
  allowed_[shard.id().value - first_shard_].push_back({group, target + left});
}

void Evictor::record(Shard& shard, std::uint32_t page, std::uint32_t slot, std::uint64_t step) {
  const Group& group = shard.groups()[shard.pages()[page].group];
  const std::size_t i = shard.at(page, slot);
  const ExpertId expert = group.chains[shard.pages()[page].chain].expert;
  counters_->step.evictions += 1;
  counters_->layers[group.layer].evictions += 1;
  counters_->digest.add({step, geometry_->layers()[group.layer].layer.value, Decision::evict, group.request.value, shard.position(i), expert.value,
                         shard.id().value << 8 | group.head_group, demotes_ ? 2U : 1U});
  if (!demotes_ && geometry_->several_copies() && geometry_->spec().read.copies != CopyRule::paper) notify_(shard, group, i);
}

void Evictor::doom_page(Shard& shard, std::uint32_t page, std::uint64_t step) {
  for (std::uint32_t slot = 0; slot < shard.pages()[page].used; ++slot) {
    if (shard.live(page, slot)) record(shard, page, slot, step);
  }
  shard.pages()[page].doomed = true;
  victims_[shard.id().value - first_shard_].push_back({page, no_index});
}

void Evictor::doom_slot(Shard& shard, std::uint32_t page, std::uint32_t slot, std::uint64_t step) {
  record(shard, page, slot, step);
  victims_[shard.id().value - first_shard_].push_back({page, slot});
}

std::uint64_t Evictor::execute(Shard& shard) {
  std::vector<Victim>& victims = victims_[shard.id().value - first_shard_];
  std::vector<Allowance>& allowed = allowed_[shard.id().value - first_shard_];
  std::uint64_t left = 0;
  if (victims.empty() && allowed.empty()) return left;
  for (const Victim& v : victims) {
    if (v.slot != no_index) {
      shard.kill(v.page, v.slot);
      left += 1;
      continue;
    }
    if (demotes_) {
      left += shard.pages()[v.page].live;
      shard.demote(v.page);
      continue;
    }
    const std::uint32_t used = shard.pages()[v.page].used;
    for (std::uint32_t slot = 0; slot < used; ++slot) {
      if (!shard.live(v.page, slot)) continue;
      left += 1;
      if (shard.kill(v.page, slot)) break;
    }
  }
  victims.clear();
  for (const std::uint64_t age : shard.eviction_ages()) counters_->reuse.eviction_age.add(age);
  shard.eviction_ages().clear();
  for (const Allowance& a : allowed) {
    const std::uint64_t used = usage(a.group != no_index ? shard.groups()[a.group].list : shard.shard_list());
    counters_->step.budget_excess += static_cast<std::int64_t>(used > a.units ? used - a.units : 0);
  }
  allowed.clear();
  return left;
}

std::int64_t Evictor::evictable_in(const Shard& shard, const EvictableRange& range, std::uint32_t index) const {
  const Page& page = shard.pages()[index];
  if (geometry_->unit() == EvictUnit::page) return page_standing(shard, page, index, range) == Standing::evictable ? page.live : 0;
  std::int64_t n = 0;
  for (std::uint32_t slot = 0; slot < page.used; ++slot)
    n += shard.live(index, slot) && range.standing(shard.position(shard.at(index, slot))) == Standing::evictable ? 1 : 0;
  return n;
}

std::int64_t Evictor::evictable_entries(const Shard& shard) const {
  if (!active_) return 0;
  const std::vector<Page>& pages = shard.pages();
  std::int64_t n = 0;
  for (const Group& group : shard.groups()) {
    if (!group.in_use) continue;
    const EvictableRange range = evictable_range(group);
    const auto may_all_go = [&](const Page& page) {
      const bool filled = geometry_->unit() == EvictUnit::token || page.used == geometry_->page_slots();
      return filled && range.holds(page.min_position, page.max_position);
    };
    for (const Chain& chain : group.chains) {
      auto first = chain.pages.begin(), end = chain.pages.end();
      if (!chain.ascending || demotes_) {
        for (; first != end; ++first) n += pages[*first].away ? 0 : evictable_in(shard, range, *first);
        continue;
      }
      // Positions grow along the chain: what may not leave lies at its ends, and all between them may.
      n += first != end ? chain.alive : 0;
      const auto stays = [&](std::uint32_t page) {  // entries
        const Page& p = pages[page];
        // Without dead slots the page's span is that of its live entries.
        if (p.live == p.used && geometry_->unit() == EvictUnit::page && !range.holds(p.min_position, p.max_position)) return std::int64_t{p.live};
        return p.live - evictable_in(shard, range, page);
      };
      for (; first != end && !may_all_go(pages[*first]); ++first) n -= stays(*first);
      for (; first != end && !may_all_go(pages[*(end - 1)]); --end) n -= stays(*(end - 1));
    }
  }
  return n;
}

std::uint64_t Evictor::make_room(Shard& shard, std::uint64_t step) {
  decide(shard, step);
  shard.blame_replan(true);
  const std::uint64_t left = execute(shard);
  shard.blame_replan(false);
  return left;
}

}  // namespace moekv
