// Evictor, the choice of victims: heads of queues, or the lowest scores, of pages or of tokens.
#include <algorithm>
#include <tuple>

#include "engine/evictor.hpp"

namespace moekv {

std::uint64_t Evictor::take_queue_pages(Shard& shard, EvictList& list, std::uint64_t excess, std::uint64_t step) {
  std::uint32_t at = list.head;
  while (excess > 0 && at != no_index) {
    const std::uint32_t next = shard.pages()[at].next;
    const Standing s = page_standing(shard, shard.pages()[at], at);
    if (s == Standing::permanent) shard.unlink(at);
    if (s == Standing::evictable) {
      const std::uint64_t w = weight(shard, shard.pages()[at]);
      doom_page(shard, at, step);
      excess -= std::min(excess, w);
    }
    at = next;
  }
  return excess;
}

std::uint64_t Evictor::take_queue_tokens(Shard& shard, EvictList& list, std::uint64_t excess, std::uint64_t step) {
  std::vector<EvictList::Token> sheltered;
  while (excess > 0 && !list.tokens.empty()) {
    const EvictList::Token token = list.tokens.front();
    const Page& page = shard.pages()[token.page];
    const bool stale = page.group == no_index || !shard.live(token.page, token.slot) || shard.position(shard.at(token.page, token.slot)) != token.position;
    const Standing s = stale ? Standing::permanent : standing(shard.groups()[page.group].request, token.position);
    list.tokens.pop_front();
    if (s == Standing::evictable) {
      doom_slot(shard, token.page, token.slot, step);
      excess -= 1;
    } else if (s == Standing::sheltered) {
      sheltered.push_back(token);
    }
  }
  list.tokens.insert(list.tokens.begin(), sheltered.begin(), sheltered.end());
  return excess;
}

void Evictor::collect(Shard& shard, Group& group, std::uint64_t step, std::vector<Candidate>& out) {
  const EvictionSpec& spec = geometry_->spec().eviction;
  const auto score = [&](std::uint32_t position, float state) {
    const evict::UnitView view{group.request.value, geometry_->layers()[group.layer].layer.value, position, step, state, spec.seed};
    return std::visit([&](const auto& rule) -> float {
      if constexpr (requires { rule.score(view); }) return rule.score(view);
      return 0.0F;
    }, spec.rule);
  };
  const bool mass = geometry_->needs_mass();
  for (const Chain& chain : group.chains) {
    for (const std::uint32_t p : chain.pages) {
      const Page& page = shard.pages()[p];
      if (page.doomed) continue;
      if (geometry_->unit() == EvictUnit::token) {
        for (std::uint32_t slot = 0; slot < page.used; ++slot) {
          if (!shard.live(p, slot)) continue;
          const std::size_t i = shard.at(p, slot);
          if (standing(group.request, shard.position(i)) == Standing::evictable)
            out.push_back({score(shard.position(i), mass ? shard.state(i) : 0), shard.position(i), p, slot});
        }
      } else if (page_standing(shard, page, p) == Standing::evictable) {
        float sum = 0, most = 0;
        std::uint32_t first = no_index;
        for (std::uint32_t slot = 0; slot < page.used; ++slot) {
          if (!shard.live(p, slot)) continue;
          const std::size_t i = shard.at(p, slot);
          const float state = mass ? shard.state(i) : 0;
          sum += state;
          most = std::max(most, state);
          first = std::min(first, shard.position(i));
        }
        const float reduced = spec.page_reducer == Reducer::max ? most : spec.page_reducer == Reducer::sum ? sum : sum / static_cast<float>(page.live);
        out.push_back({score(first, reduced), first, p, no_index});
      }
    }
  }
}

std::uint64_t Evictor::take_scored(Shard& shard, EvictList&, Group* only, std::uint64_t excess, std::uint64_t step) {
  std::vector<Candidate> candidates;
  if (only != nullptr) {
    collect(shard, *only, step, candidates);
  } else {
    std::vector<Group*> groups;
    for (Group& group : shard.groups()) {
      if (group.in_use) groups.push_back(&group);
    }
    std::sort(groups.begin(), groups.end(), [](const Group* a, const Group* b) {
      return std::tuple(a->request, a->layer, a->head_group) < std::tuple(b->request, b->layer, b->head_group);
    });
    for (Group* group : groups) collect(shard, *group, step, candidates);
  }
  // Lowest score first; among equals the smallest position goes (newest wins), then the earlier group.
  const auto before = [](const Candidate& a, const Candidate& b) { return std::tie(a.score, a.position) < std::tie(b.score, b.position); };
  std::stable_sort(candidates.begin(), candidates.end(), before);
  for (const Candidate& c : candidates) {
    if (excess == 0) break;
    const std::uint64_t w = c.slot == no_index ? weight(shard, shard.pages()[c.page]) : 1;
    if (c.slot == no_index) {
      doom_page(shard, c.page, step);
    } else {
      doom_slot(shard, c.page, c.slot, step);
    }
    excess -= std::min(excess, w);
  }
  return excess;
}

}  // namespace moekv
