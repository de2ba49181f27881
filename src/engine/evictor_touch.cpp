// Evictor, the accesses of a step: look-ups, queues, states and thresholds.
#include <algorithm>
#include <bit>

#include "engine/evictor.hpp"

namespace moekv {
namespace {

bool sees_residents_only(AccessSource access) { return access == AccessSource::mass || access == AccessSource::selected; }

}  // namespace

void Evictor::touch(Shard& shard, std::uint64_t step) {
  step_ = step;
  mark_unreached(shard);
  auto& queried = shard.queried_groups();
  if (queried.empty()) return;
  auto& groups = shard.groups();
  const auto key = [&](std::uint32_t g) { return std::tuple(groups[g].request, groups[g].layer, groups[g].head_group); };
  std::sort(queried.begin(), queried.end(), [&](std::uint32_t a, std::uint32_t b) { return key(a) < key(b); });
  for (const std::uint32_t g : queried) touch_group(shard, groups[g], step);
  adapt_thresholds(shard);
  queried.clear();
}

void Evictor::mark_unreached(Shard& shard) const {
  const RunSpec& spec = geometry_->spec();
  if (spec.eviction.access != AccessSource::dense || spec.read.scope != ReadScope::routed || spec.placement.layout != Layout::expert) return;
  for (Group& group : shard.groups()) {
    if (!group.in_use) continue;
    const RequestTable::Row& row = (*requests_)[group.request];
    if (row.step == step_ && row.query_begin < row.length) shard.mark_queried(group, step_, {});
  }
}

void Evictor::adapt_thresholds(Shard& shard) {
  std::visit(
      [&](const auto& rule) {
        if (geometry_->spec().eviction.scope == EvictScope::shard) return evict::end_step(rule, shard.shard_list().control);
        for (const std::uint32_t g : shard.queried_groups()) evict::end_step(rule, shard.groups()[g].list.control);
      },
      geometry_->spec().eviction.rule);
}

void Evictor::touch_group(Shard& shard, Group& group, std::uint64_t step) {
  const bool keyed = geometry_->layers()[group.layer].key_row >= 0;
  const bool by_chain = keyed && geometry_->spec().eviction.access == AccessSource::routed && geometry_->chains_are_exact();
  for (const std::uint32_t c : group.order) {
    Chain& chain = group.chains[c];
    if (by_chain && (!chain.expert.valid() || (group.query_experts[chain.expert.value / 64] >> (chain.expert.value % 64) & 1U) == 0)) continue;
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
      note_reuse(shard.look_up_page(group, p), 1);
    }
    return found;
  }
  if (chain.shadow_experts.empty()) {
    return {static_cast<std::int64_t>(chain.shadow_live.size()), chain.shadow_hits, chain.written, chain.written - chain.alive, chain.shadow_cold};
  }
  for (std::uint32_t s = 0; s < chain.shadow_live.size(); ++s) {
    if (!shadow_accessed(group, chain, s)) continue;
    found.lookups += 1;
    note_reuse(shard.look_up_shadow(group, chain, s), 1);
    found.hits += chain.shadow_live[s] > 0 ? 1 : 0;
    found.requested += chain.shadow_written[s];
    found.missed += chain.shadow_written[s] - chain.shadow_live[s];
    if (chain.shadow_live[s] == 0) counters_->missed_under(group.layer, &chain.shadow_experts[s * group.query_experts.size()], group.query_experts);
  }
  return found;
}

void Evictor::note_reuse(const ReuseClock::Before& before, std::uint32_t pages) const {
  counters_->reuse.add(before);
  counters_->step.first_lookups += pages - before.pages;
}

bool Evictor::page_accessed(const Page& page) const {
  const EvictionSpec& spec = geometry_->spec().eviction;
  return spec.access == AccessSource::selected ? page.used_step == static_cast<std::uint32_t>(step_)
                                               : static_cast<double>(page.mass) >= spec.access_mass;
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

void Evictor::move_run(evict::Queue& queue, std::uint8_t list, const Chain& chain) {
  std::size_t first = 0, end = chain.run;
  if (end > 0 && queue.list(list).tail == chain.pages[end - 1]) return;                             // it lies there already
  const auto queued = [&](std::uint32_t page) { return queue.node(page).list != evict::no_list; };  // a sink page left the queue for good
  while (first < end && !queued(chain.pages[first])) ++first;
  while (first < end && !queued(chain.pages[end - 1])) --end;
  if (first < end) queue.move_run(list, chain.pages[first], chain.pages[end - 1]);
}

template <class Rule>
void Evictor::touch_pages(const Rule& rule, Shard& shard, Group& group, Chain& chain, std::uint64_t step) {
  const EvictionSpec& spec = geometry_->spec().eviction;
  const bool by_content = sees_residents_only(spec.access);
  const bool all = !by_content && !demotes_ && chain.shadow_experts.empty();
  constexpr std::size_t ahead = 8;  // pages whose nodes are on their way
  const bool turns = demotes_ && Rule::family == evict::Family::queue;
  EvictList& list = spec.scope == EvictScope::shard ? shard.shard_list() : group.list;
  evict::Queue queue = shard.queue_of(list);
  std::size_t i = 0;
  if constexpr (requires { Rule::recency_list; }) {
    if (all) {
      move_run(queue, Rule::recency_list, chain);
      i = chain.run;
    }
  }
  for (; i < chain.pages.size(); ++i) {
    const std::uint32_t p = chain.pages[i];
    if (Rule::family == evict::Family::queue && i + ahead < chain.pages.size()) queue.prefetch(chain.pages[i + ahead]);
    if (!all) {
      const Page& page = shard.pages()[p];
      const bool accessed = by_content ? page_accessed(page) : shadow_accessed(group, chain, page.shadow);
      // A page that enters is accessed by entering; one that lies in the host tier was not read.
      if (!accessed || (demotes_ && (page.away || enters(page, step)))) continue;
    }
    if (turns) {
      list.turns.push_back(p);
    } else {
      shard.touch_page(rule, queue, p, step);
    }
  }
  if (all) chain.run = static_cast<std::uint32_t>(chain.pages.size());
  if (demotes_) shard.mark_dirty(group);
}

bool Evictor::shadow_accessed(const Group& group, const Chain& chain, std::uint32_t shadow) const {
  if (chain.shadow_experts.empty() || geometry_->layers()[group.layer].key_row < 0) return true;
  std::uint64_t any = 0;
  const std::size_t words = group.query_experts.size();
  for (std::size_t w = 0; w < words; ++w) any |= chain.shadow_experts[shadow * words + w] & group.query_experts[w];
  return any != 0;
}

void Evictor::touch_chain(Shard& shard, Group& group, Chain& chain, std::uint64_t step) {
  const EvictionSpec& spec = geometry_->spec().eviction;
  auto& pages = shard.pages();
  const auto [lookups, hits, requested, missed, cold] = demotes_ ? look_up_tiers(shard, group, chain, step) : look_up(shard, group, chain);
  if (shard.looks_up_chains() && lookups > 0)
    note_reuse(shard.look_up_chain(group, chain, static_cast<std::uint32_t>(lookups)), static_cast<std::uint32_t>(lookups));
  if (shard.records_accesses() && !demotes_) note_lookups(shard, group, chain);
  if (chain.expert.valid() || !chain.shadow_experts.empty()) counters_->looked_up_under(group.layer, chain.expert, lookups, lookups - hits);
  std::visit(
      [&](const auto& rule) {
        if constexpr (evict::follows_access<std::decay_t<decltype(rule)>>) touch_pages(rule, shard, group, chain, step);
      },
      spec.rule);
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
  count.requested_entries += requested;
  count.missed_entries += missed;
  count.requested_bytes += requested * entry;
  count.missed_bytes += missed * entry;
  const ClusterModel& network = geometry_->spec().cluster.network;
  (shard.rank() == group.home ? count.hit_local : network.same_node(shard.rank(), group.home) ? count.hit_node : count.hit_remote) += hits;
  counters_->digest.add({step, geometry_->layers()[group.layer].layer.value, Decision::lookup, group.request.value,
                         static_cast<std::uint32_t>(missed), chain.expert.value, shard.id().value << 8 | group.head_group,
                         static_cast<std::uint64_t>(lookups) << 32 | static_cast<std::uint64_t>(hits)});
}

}  // namespace moekv
