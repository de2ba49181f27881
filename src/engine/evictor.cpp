// Budgets, victims and their execution for score rules at both scopes.
#include "engine/evictor.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace moekv {
namespace {

std::uint32_t sinks_of(const EvictionSpec& spec) {
  std::uint32_t sinks = spec.protect.sinks;
  std::visit([&](const auto& rule) {
    if constexpr (requires { rule.start; }) sinks = std::max<std::uint32_t>(sinks, rule.start);
  }, spec.rule);
  return sinks;
}

bool sees_residents_only(AccessSource access) { return access == AccessSource::mass || access == AccessSource::selected; }

}  // namespace

Evictor::Evictor(const Geometry& geometry, const RequestTable& requests, Backend& backend, Counters& counters, Notify notify)
    : geometry_(&geometry),
      requests_(&requests),
      counters_(&counters),
      notify_(std::move(notify)),
      scorer_(geometry, backend, counters, requests),
      sinks_(sinks_of(geometry.spec().eviction)) {
  const EvictionSpec& spec = geometry.spec().eviction;
  const evict::Family family = std::visit([](const auto& rule) { return rule.family; }, spec.rule);
  queue_ = family == evict::Family::queue;
  std::visit([&](const auto& rule) { sharing_ = rule.over; }, spec.allocator);
  demotes_ = spec.action == EvictAction::demote;
  planned_ = demotes_ && std::visit([](const auto& rule) { return evict::places<std::decay_t<decltype(rule)>>; }, spec.rule);
  active_ = planned_ || (family != evict::Family::none && spec.budget.kind != BudgetKind::unlimited);
}

Evictor::Standing Evictor::standing(const Group& group, std::uint32_t position) const {
  const RequestTable::Row& row = (*requests_)[group.request];
  if (position < std::max(sinks_, group.protect.sinks)) return Standing::permanent;
  if (position + group.protect.recent >= row.length) return Standing::sheltered;
  // Before attend a step that still stores prompt tokens belongs to the prompt: it has not attended yet.
  const bool before_attend = geometry_->evicts_before_attend();
  const bool in_prompt = (before_attend ? row.step_begin : row.length) < row.prompt_tokens;
  if (in_prompt && geometry_->spec().prefill.evict == PrefillEvict::end) return Standing::sheltered;
  // What the step appended is pinned; the chunk that ends a prompt is not, or nothing could leave after it.
  const bool ends_prompt = row.length == row.prompt_tokens && !before_attend;
  if (row.step == step_ && !ends_prompt && position >= row.step_begin) return Standing::sheltered;
  return Standing::evictable;
}

Evictor::Standing Evictor::page_standing(const Shard& shard, const Page& page, std::uint32_t index) const {
  const Group& group = shard.groups()[page.group];
  const bool partial = page.used < geometry_->page_slots() && !page.sealed;
  Standing worst = partial && page.touched_step == step_ && (*requests_)[group.request].step == step_
                       ? Standing::sheltered
                       : Standing::evictable;
  for (std::uint32_t slot = 0; slot < page.used; ++slot) {
    if (!shard.live(index, slot)) continue;
    const Standing s = standing(group, shard.position(shard.at(index, slot)));
    if (s == Standing::permanent) return s;
    if (s == Standing::sheltered) worst = s;
  }
  return worst;
}

void Evictor::touch(Shard& shard, std::uint64_t step) {
  step_ = step;
  auto& queried = shard.queried_groups();
  auto& groups = shard.groups();
  const auto key = [&](std::uint32_t g) { return std::tuple(groups[g].request, groups[g].layer, groups[g].head_group); };
  std::sort(queried.begin(), queried.end(), [&](std::uint32_t a, std::uint32_t b) { return key(a) < key(b); });
  for (const std::uint32_t g : queried) touch_group(shard, groups[g], step);
  adapt_thresholds(shard);
  queried.clear();
}

void Evictor::adapt_thresholds(Shard& shard) {
  std::visit([&](const auto& rule) {
    if (shard.queried_groups().empty()) return;
    if (geometry_->spec().eviction.scope == EvictScope::shard) return evict::end_step(rule, shard.shard_list().control);
    for (const std::uint32_t g : shard.queried_groups()) evict::end_step(rule, shard.groups()[g].list.control);
  }, geometry_->spec().eviction.rule);
}

void Evictor::touch_group(Shard& shard, Group& group, std::uint64_t step) {
  for (const std::uint32_t c : group.order) {
    Chain& chain = group.chains[c];
    const AccessSource access = geometry_->spec().eviction.access;
    const bool by_chain = access == AccessSource::routed && geometry_->chains_are_exact();
    if (by_chain && chain.expert.valid() && (group.query_experts[chain.expert.value / 64] >> (chain.expert.value % 64) & 1U) == 0) continue;
    touch_chain(shard, group, chain, step);
  }
}

Evictor::Lookups Evictor::look_up(Shard& shard, Group& group, Chain& chain) {
  Lookups found;
  if (sees_residents_only(geometry_->spec().eviction.access)) {
    for (const std::uint32_t p : chain.pages) {  // evicted pages have no mass and no bounds in the replay: lookups of resident pages only
      if (!page_accessed(shard.pages()[p])) continue;
      found.lookups += 1;
      found.hits += 1;
      found.requested += shard.pages()[p].live;
    }
    return found;
  }
  if (chain.shadow_experts.empty()) {
    return {static_cast<std::int64_t>(chain.shadow_live.size()), chain.shadow_hits, chain.written, chain.written - chain.alive, chain.shadow_cold};
  }
  for (std::uint32_t s = 0; s < chain.shadow_live.size(); ++s) {
    if (!shadow_accessed(group, chain, s)) continue;
    found.lookups += 1;
    found.hits += chain.shadow_live[s] > 0 ? 1 : 0;
    found.requested += chain.shadow_written[s];
    found.missed += chain.shadow_written[s] - chain.shadow_live[s];
    if (chain.shadow_live[s] == 0) counters_->missed_under(group.layer, &chain.shadow_experts[s * group.query_experts.size()], group.query_experts);
  }
  return found;
}

bool Evictor::page_accessed(const Page& page) const {
  const EvictionSpec& spec = geometry_->spec().eviction;
  return spec.access == AccessSource::selected ? page.used_step == static_cast<std::uint32_t>(step_) : static_cast<double>(page.mass) >= spec.access_mass;
}

void Evictor::note_lookups(const Shard& shard, const Group& group, const Chain& chain) const {
  const AccessSource access = geometry_->spec().eviction.access;
  if (access == AccessSource::mass || access == AccessSource::selected) {
    for (const std::uint32_t p : chain.pages) {
      const Page& page = shard.pages()[p];
      if (page_accessed(page)) shard.note(AccessKind::hit, group, chain, page.shadow);
    }
    return;
  }
  for (std::uint32_t s = 0; s < chain.shadow_live.size(); ++s) {
    if (shadow_accessed(group, chain, s)) shard.note(chain.shadow_live[s] > 0 ? AccessKind::hit : AccessKind::miss, group, chain, s);
  }
}

template <class Rule>
void Evictor::touch_pages(const Rule& rule, Shard& shard, Group& group, Chain& chain, std::uint64_t step) {
  const EvictionSpec& spec = geometry_->spec().eviction;
  for (const std::uint32_t p : chain.pages) {
    const Page& page = shard.pages()[p];
    const bool accessed = sees_residents_only(spec.access) ? page_accessed(page) : shadow_accessed(group, chain, page.shadow);
    // A page that enters is accessed by entering; one that lies in the host tier was not read.
    const bool counts = !demotes_ || (!page.away && !enters(page, step));
    if (!accessed || !counts) continue;
    if (demotes_ && Rule::family == evict::Family::queue) {
      shard.take_turn(p);
    } else {
      shard.touch_page(rule, p, step);
    }
  }
  if (demotes_) shard.mark_dirty(group);
}

bool Evictor::shadow_accessed(const Group& group, const Chain& chain, std::uint32_t shadow) {
  if (chain.shadow_experts.empty()) return true;
  std::uint64_t any = 0;
  const std::size_t words = group.query_experts.size();
  for (std::size_t w = 0; w < words; ++w) any |= chain.shadow_experts[shadow * words + w] & group.query_experts[w];
  return any != 0;
}

void Evictor::touch_chain(Shard& shard, Group& group, Chain& chain, std::uint64_t step) {
  const EvictionSpec& spec = geometry_->spec().eviction;
  auto& pages = shard.pages();
  const auto [lookups, hits, requested, missed, cold] = demotes_ ? look_up_tiers(shard, group, chain, step) : look_up(shard, group, chain);
  if (shard.records_accesses()) note_lookups(shard, group, chain);
  if (chain.expert.valid() || !chain.shadow_experts.empty()) counters_->looked_up_under(group.layer, chain.expert, lookups, lookups - hits);
  std::visit([&](const auto& rule) {
    if constexpr (evict::follows_access<std::decay_t<decltype(rule)>>) touch_pages(rule, shard, group, chain, step);
  }, spec.rule);
  if (spec.access == AccessSource::mass) {
    for (const std::uint32_t p : chain.pages) pages[p].mass = 0;
  }

  evict::Control& control = (spec.scope == EvictScope::shard ? shard.shard_list() : group.list).control;
  control.lookups += static_cast<std::uint64_t>(lookups);
  control.hits += static_cast<std::uint64_t>(hits);
  StepRecord& count = counters_->step;
  LayerRecord& layer = counters_->layers[group.layer];
  count.n_req += lookups;
  count.n_hit += hits;
  count.n_miss += lookups - hits;
  count.cold_misses += cold;
  layer.n_req += lookups;
  layer.n_hit += hits;
  const std::int64_t entry = geometry_->entry_bytes(geometry_->head_group_width(shard.rank(), group.head_group));
  count.requested_bytes += requested * entry;
  count.missed_bytes += missed * entry;
  const ClusterModel& network = geometry_->spec().cluster.network;
  (shard.rank() == group.home ? count.hit_local : network.same_node(shard.rank(), group.home) ? count.hit_node : count.hit_remote) += hits;
  counters_->digest.add({step, geometry_->layers()[group.layer].layer.value, Decision::lookup, group.request.value,
                         static_cast<std::uint32_t>(missed), chain.expert.value, shard.id().value << 8 | group.head_group,
                         static_cast<std::uint64_t>(lookups) << 32 | static_cast<std::uint64_t>(hits)});
}

std::uint64_t Evictor::in_budget_units(std::uint64_t entries, std::uint64_t pages, std::uint64_t bytes) const {
  switch (geometry_->spec().eviction.budget.kind) {
    case BudgetKind::pages: return pages;
    case BudgetKind::bytes: return bytes;
    default: return entries;
  }
}

std::uint64_t Evictor::weight(const Shard& shard, const Page& page) const {
  const bool bytes = geometry_->spec().eviction.budget.kind == BudgetKind::bytes;
  return in_budget_units(page.live, 1, bytes ? shard.block_bytes_of(page) : 0);
}

bool Evictor::due(const EvictList& list, const Group* group, std::uint64_t step, double& target) const {
  const EvictionSpec& spec = geometry_->spec().eviction;
  target = static_cast<double>(list.budget);
  const auto used = static_cast<double>(usage(list));
  switch (spec.trigger) {
    case Trigger::on_full: return used > target;
    case Trigger::watermark: {
      const bool over = used > target * spec.high_watermark;
      target = std::floor(target * spec.low_watermark);
      return over;
    }
    case Trigger::every: return (step + 1) % spec.every_steps == 0 && used > target;
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
  // What the queries of a step read is needed at once, whatever leaves after it.
  const std::uint64_t needed = list.needed_step == step ? in_budget_units(list.needed_live, list.needed_pages, list.needed_bytes) : 0;
  const std::uint64_t at_once = needed > list.budget ? needed - list.budget : 0;
  if (!over) {
    if (!list.turns.empty()) take_queue_pages(shard, list, 0, step);
    counters_->step.overcommit += static_cast<std::int64_t>(at_once);
    return;
  }
  const std::uint64_t excess = usage(list) - static_cast<std::uint64_t>(target);
  counters_->step.steps_under_pressure += 1;
  std::uint64_t left = 0;
  if (!queue_) {
    left = take_scored(shard, list, only, excess, step);
  } else {
    left = geometry_->unit() == EvictUnit::page ? take_queue_pages(shard, list, excess, step) : take_queue_tokens(shard, list, excess, step);
  }
  counters_->step.overcommit += static_cast<std::int64_t>(std::max(left, at_once));
  const std::uint32_t group = only != nullptr ? static_cast<std::uint32_t>(only - shard.groups().data()) : no_index;
  allowed_[shard.id().value - first_shard_].push_back({group, static_cast<std::uint64_t>(target) + left});
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
  std::uint64_t left = 0;
  for (const Victim& v : victims_[shard.id().value - first_shard_]) {
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
  victims_[shard.id().value - first_shard_].clear();
  for (const Allowance& a : allowed_[shard.id().value - first_shard_]) {
    const std::uint64_t used = usage(a.group != no_index ? shard.groups()[a.group].list : shard.shard_list());
    counters_->step.budget_excess += static_cast<std::int64_t>(used > a.units ? used - a.units : 0);
  }
  allowed_[shard.id().value - first_shard_].clear();
  return left;
}

std::uint64_t Evictor::make_room(Shard& shard, std::uint64_t step) {
  decide(shard, step);
  shard.blame_replan(true);
  const std::uint64_t left = execute(shard);
  shard.blame_replan(false);
  return left;
}

}  // namespace moekv
