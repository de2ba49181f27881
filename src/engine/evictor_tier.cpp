// Evictor, action demote: look-ups where no page is lost, pages that enter queues, plans that need no budget.
#include <algorithm>
#include <tuple>
#include <utility>

#include "engine/evictor.hpp"

namespace moekv {

Evictor::Lookups Evictor::look_up_tiers(Shard& shard, Group& group, Chain& chain, std::uint64_t step) {
  const bool by_content = geometry_->spec().eviction.access == AccessSource::selected;
  Lookups found;
  EvictList* list = nullptr;
  for (const std::uint32_t p : chain.pages) {
    const Page& page = shard.pages()[p];
    const bool accessed = by_content ? page_accessed(page) : shadow_accessed(group, chain, page.shadow);
    if (!accessed) continue;
    list = &shard.list_of(page);
    found.lookups += 1;
    found.requested += page.live;
    if (!shard.looks_up_chains()) note_reuse(by_content ? shard.look_up_page(group, p) : shard.look_up_shadow(group, chain, page.shadow), 1);
    const bool returned = page.returned && enters(page, step), hit = !page.away && !returned;
    shard.note(hit ? AccessKind::hit : AccessKind::miss, group, chain, page.shadow);
    if (hit) {
      found.hits += 1;
      continue;
    }
    found.missed += page.live;
    counters_->step.hit_host += 1;
    counters_->step.premature_evictions += returned && list->lookups - page.left_at <= shard.capacity_pages(*list) ? 1 : 0;
    if (!chain.shadow_experts.empty())
      counters_->missed_under(group.layer, &chain.shadow_experts[page.shadow * group.query_experts.size()], group.query_experts);
  }
  if (list != nullptr) list->lookups += static_cast<std::uint64_t>(found.lookups);
  return found;
}

std::vector<std::uint32_t> Evictor::turns_of(Shard& shard, EvictList& list) const {
  std::vector<std::uint32_t> pages = std::exchange(list.turns, {});
  std::erase_if(pages, [&](std::uint32_t p) { return shard.pages()[p].group == no_index; });  // of a request that finished
  const auto key = [&](std::uint32_t p) {
    const Page& page = shard.pages()[p];
    const Group& group = shard.groups()[page.group];
    const Chain& chain = group.chains[page.chain];
    return std::tuple(group.request, group.layer, group.head_group, chain.side, chain.expert, page.min_position);
  };
  std::sort(pages.begin(), pages.end(), [&](std::uint32_t a, std::uint32_t b) { return key(a) < key(b); });
  return pages;
}

void Evictor::take_planned(Shard& shard, Group* only, std::uint64_t step) {
  std::visit([&](const auto& rule) {
    if constexpr (evict::places<std::decay_t<decltype(rule)>>) {
      for (const Candidate& c : scored(shard, only, step)) {
        if (rule.leaves(c.view)) doom_page(shard, c.page, step);
      }
    }
  }, geometry_->spec().eviction.rule);
}

float Evictor::cost_of(const Shard& shard, const Group& group, const Page& page) const {
  return static_cast<float>(geometry_->spec().cluster.network.message_ns(shard.rank(), group.home, static_cast<std::int64_t>(shard.block_bytes_of(page))));
}

}  // namespace moekv
