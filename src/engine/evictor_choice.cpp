// Evictor, the choice of victims: heads of queues, or the lowest scores, of pages or of tokens.
#include <algorithm>
#include <cmath>
#include <span>
#include <tuple>
#include <utility>

#include "engine/evictor.hpp"

namespace moekv {

/// Under action demote pages that entered join their queues one after another, each after the victims that make room for it. Pages of the step whose
/// turn is still to come are no victims.
std::uint64_t Evictor::take_queue_pages(Shard& shard, EvictList& list, std::uint64_t excess, std::uint64_t step) {
  const auto standing_of = [&](std::uint32_t page) {
    const Page& p = shard.pages()[page];
    return p.waits ? Standing::sheltered : page_standing(shard, p, page, evictable_range(shard.groups()[p.group]));
  };
  std::visit(
      [&](const auto& rule) {
        if constexpr (std::decay_t<decltype(rule)>::family == evict::Family::queue) {
          evict::Queue queue = shard.queue_of(list);
          const auto evict_to = [&](std::uint64_t rest) {
            while (excess > rest) {
              const std::uint32_t page = rule.victim(queue, standing_of);
              if (page == evict::no_unit) return;
              excess -= std::min(excess, weight(shard, shard.pages()[page]));
              doom_page(shard, page, step);
            }
          };
          const std::vector<std::uint32_t> turns = turns_of(shard, list);
          std::uint64_t outside = 0;  // weight of pages that are in no queue yet
          for (const std::uint32_t page : turns) {
            shard.pages()[page].waits = true;
            outside += enters(shard.pages()[page], step) ? weight(shard, shard.pages()[page]) : 0;
          }
          for (const std::uint32_t page : turns) {
            shard.pages()[page].waits = false;
            if (!enters(shard.pages()[page], step)) {
              shard.touch_page(rule, queue, page, step);
              continue;
            }
            outside -= weight(shard, shard.pages()[page]);
            if constexpr (requires { rule.expect(queue, page); }) rule.expect(queue, page);
            evict_to(outside);
            rule.insert(queue, page);
          }
          evict_to(0);
        }
      },
      geometry_->spec().eviction.rule);
  return excess;
}

std::uint64_t Evictor::take_queue_tokens(Shard& shard, EvictList& list, std::uint64_t excess, std::uint64_t step) {
  std::vector<EvictList::Token> sheltered;
  while (excess > 0 && !list.tokens.empty()) {
    const EvictList::Token token = list.tokens.front();
    const Page& page = shard.pages()[token.page];
    const bool stale =
        page.group == no_index || !shard.live(token.page, token.slot) || shard.position(shard.at(token.page, token.slot)) != token.position;
    const Standing s = stale ? Standing::permanent : evictable_range(shard.groups()[page.group]).standing(token.position);
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

float Evictor::state_of(Shard& shard, std::size_t i) const {
  if (scorer_.active()) return scorer_.of(i);
  if (!geometry_->keeps_state()) return 0.0F;
  return std::visit([&](const auto& rule) { return evict::read(rule, shard.state(i)); }, geometry_->spec().eviction.rule);
}

void Evictor::collect(Shard& shard, Group& group, std::uint64_t step, std::vector<Candidate>& out) {
  const EvictionSpec& spec = geometry_->spec().eviction;
  const std::uint32_t length = (*requests_)[group.request].length;
  evict::UnitView view{group.request.value, geometry_->layers()[group.layer].layer.value, 0, step, 0.0F, spec.seed};
  view.total = (*requests_)[group.request].total_tokens;
  const auto place = [&](std::uint32_t position, float state) {
    view.position = position;
    view.age = length - 1 - position;
    view.state = state;
  };
  if (scorer_.active()) scorer_.score(shard, group, step);
  const evict::Traits& rule = traits_of(spec.rule);
  const EvictableRange range = evictable_range(group);
  for (const Chain& chain : group.chains) {
    for (const std::uint32_t p : chain.pages) {
      const Page& page = shard.pages()[p];
      if (page.doomed || page.away) continue;
      if (rule.needs_cost) view.cost = cost_of(shard, group, page);
      if (geometry_->unit() == EvictUnit::token) {
        for (std::uint32_t slot = 0; slot < page.used; ++slot) {
          const std::size_t i = shard.at(p, slot);
          if (!shard.live(p, slot) || range.standing(shard.position(i)) != Standing::evictable) continue;
          place(shard.position(i), state_of(shard, i));
          out.push_back({view, p, slot});
        }
      } else if (page_standing(shard, page, p, range) == Standing::evictable) {
        PageState state;
        std::uint32_t first = no_index;
        for (std::uint32_t slot = 0; slot < page.used; ++slot) {
          if (!shard.live(p, slot)) continue;
          const std::size_t i = shard.at(p, slot);
          state.add(state_of(shard, i));
          first = std::min(first, shard.position(i));
        }
        place(first, state.reduced(spec.page_reducer));
        if (rule.needs_access) view.access = shard.access(p);
        out.push_back({view, p, no_index});
        out.back().late = demotes_ && enters(page, step);
      }
    }
  }
}

void Evictor::score(std::vector<Candidate>& units) const {
  std::visit([&](const auto& rule) { score_units(rule, units); }, geometry_->spec().eviction.rule);
}

std::vector<Evictor::Candidate> Evictor::scored(Shard& shard, Group* only, std::uint64_t step) {
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
  score(candidates);
  return candidates;
}

void Evictor::count_close(float gone, float stays) {
  constexpr float epsilon = 1e-3F;
  const float size = std::max(std::abs(gone), std::abs(stays));
  if (size > 0.0F && stays - gone <= epsilon * size) counters_->step.close_choices += 1;
}

void Evictor::gather(Shard& shard, Choice choice, std::uint64_t step) {
  const Ties ties = geometry_->spec().eviction.ties;
  choice.first = static_cast<std::uint32_t>(turns_.size());
  std::uint64_t weights = 0;
  for (const Candidate& c : scored(shard, choice.only, step)) {
    turns_.push_back({turn_key(c.late, c.score, ties, c.view.position), choice.n++, c.page, c.slot, c.score});
    weights += weight_of(shard, turns_.back());
  }
  // As many as free the excess if they are like the others, and one that stays.
  const std::uint64_t expected = weights == 0 ? choice.n : (choice.excess * choice.n + weights - 1) / weights + 1;
  choice.expected = static_cast<std::uint32_t>(std::min<std::uint64_t>(expected, choice.n));
  choices_.push_back(choice);
  if (turns_.size() >= most_turns) take_gathered(shard, step);
}

void Evictor::take_gathered(Shard& shard, std::uint64_t step) {
  if (choices_.empty()) return;
  std::vector<LowestTask> tasks;
  std::vector<std::uint64_t> keys(turns_.size());
  std::size_t n_lowest = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = turns_[i].key;
  for (const Choice& c : choices_) {
    tasks.push_back({c.first, c.n, c.expected});
    n_lowest += c.expected;
  }
  std::vector<std::uint32_t> lowest(n_lowest);
  const bool known = backend_->find_lowest({keys, tasks, lowest.data()});
  if (known) backend_->sync();
  const std::uint32_t* next = lowest.data();
  for (const Choice& c : choices_) {
    for (std::uint32_t i = 0; known && i < c.expected; ++i) std::swap(turns_[c.first + i], turns_[c.first + *next++]);  // ascending: none moves twice
    const std::uint64_t left = take_turns(shard, c, known ? c.expected : 0, step);
    settle(shard, c.only, c.target, c.at_once, left);
  }
  turns_.clear();
  choices_.clear();
}

std::uint64_t Evictor::take_turns(Shard& shard, const Choice& choice, std::uint32_t n_known, std::uint64_t step) {
  const float below = std::visit([&](const auto& rule) { return evict::threshold(rule, choice.list->control); }, geometry_->spec().eviction.rule);
  const std::span<Turn> turns = std::span(turns_).subspan(choice.first, choice.n);
  const Taken taken = take_in_turn(
      turns, n_known, choice.expected, choice.excess, below, [&](const Turn& turn) { return weight_of(shard, turn); },
      [&](const Turn& turn) { turn.slot == no_index ? doom_page(shard, turn.page, step) : doom_slot(shard, turn.page, turn.slot, step); });
  if (geometry_->needs_mass() && choice.excess > 0 && taken.n > 0 && taken.n < turns.size())
    count_close(turns[taken.n - 1].score, turns[taken.n].score);
  return taken.left;
}

}  // namespace moekv
