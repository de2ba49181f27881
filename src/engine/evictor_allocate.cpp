// Evictor, allocators that act during the run: capacities of the lists of a (request, shard) that share a budget. Lists of other shards do not
// take part, so nothing is exchanged and the choice is the same for any number of processes.
#include <algorithm>
#include <span>
#include <variant>

#include "core/error.hpp"
#include "engine/evictor.hpp"

namespace moekv {

bool Evictor::has_capacity(const Group& group, std::uint64_t step) const {
  const RequestTable::Row& row = (*requests_)[group.request];
  switch (geometry_->allocated()) {
    case allocate::When::first_eviction:
      return row.length < row.prompt_tokens || group.allotted_step != ~0ULL;
    case allocate::When::eviction:
      return group.allotted_step == step;
    default:
      return true;
  }
}

std::vector<Group*> Evictor::sharing(Shard& shard, const Group& group) const {
  std::vector<Group*> lists;
  const bool layers = sharing_ == allocate::Over::layers;
  const auto end = static_cast<std::uint32_t>(geometry_->layers().size());
  for (std::uint32_t layer = layers ? 0 : group.layer; layer < (layers ? end : group.layer + 1); ++layer) {
    for (std::uint32_t hg = 0; hg < geometry_->n_head_groups(shard.rank()); ++hg) {
      if (Group* found = shard.find(group.request, layer, hg); found != nullptr) lists.push_back(found);
    }
  }
  return lists;
}

void Evictor::allot(Shard& shard, std::uint64_t step) {
  RequestId request;
  std::uint32_t layer = no_index;
  for (const std::uint32_t g : shard.dirty_groups()) {  // by (request, layer, head group)
    const Group& group = shard.groups()[g];
    const bool met = layer != no_index && group.request == request && (sharing_ == allocate::Over::layers || group.layer == layer);
    if (met || !group.in_use) continue;
    request = group.request;
    layer = group.layer;
    allot_lists(shard, sharing(shard, group), step);
  }
}

void Evictor::allot_lists(Shard& shard, const std::vector<Group*>& lists, std::uint64_t step) {
  const RequestTable::Row& row = (*requests_)[lists.front()->request];
  const auto allotted = [](const Group* g) { return g->allotted_step != ~0ULL; };
  if (geometry_->allocated() == allocate::When::first_eviction) {
    if (row.length < row.prompt_tokens) return;  // chunks are evicted by equal shares
    if (std::any_of(lists.begin(), lists.end(), allotted)) {
      for (Group* g : lists) g->allotted_step = std::min(g->allotted_step, step);  // a list that came later has its equal share
      return;
    }
  }
  EvictList joint;
  for (const Group* g : lists) {
    joint.live += g->list.live;
    joint.pages += g->list.pages;
    joint.bytes += g->list.bytes;
    joint.budget += g->list.budget;
  }
  double target = 0;
  if (!due(joint, lists.front(), step, target)) return;
  for (Group* g : lists) g->allotted_step = step;
  make_capacities(shard, lists, step);
}

std::vector<double> Evictor::preferences(Shard& shard, const std::vector<Group*>& lists) const {
  const auto* cake = std::get_if<allocate::Cake>(&geometry_->spec().eviction.allocator);
  MOEKV_EXPECT(cake != nullptr);
  const PrefillSpec& prefill = geometry_->spec().prefill;
  std::uint32_t queries = std::min(geometry_->window_queries(), (*requests_)[lists.front()->request].prompt_tokens);
  if (prefill.queries == PrefillQueries::last) queries = std::min(queries, prefill.last);
  std::vector<double> entropy(geometry_->layers().size()), variance(entropy.size()), n_lists(entropy.size());
  for (Group* g : lists) {
    double squared_sums = 0;  // of each entry and query head over the window
    for (const Chain& chain : g->chains) {
      for (const std::uint32_t p : chain.pages) {
        for (std::uint32_t slot = 0; slot < shard.pages()[p].used; ++slot) {
          if (!shard.live(p, slot)) continue;
          for (const float sum : shard.window_mass(shard.at(p, slot))) squared_sums += static_cast<double>(sum) * static_cast<double>(sum);
        }
      }
    }
    entropy[g->layer] += std::max(0.0, g->window_entropy);
    if (queries > 1) variance[g->layer] += std::max(0.0, g->window_squares - squared_sums / queries) / (queries - 1);
    n_lists[g->layer] += 1;
  }
  const std::vector<double> of_layer = cake->preferences(entropy, variance);
  std::vector<double> out;
  for (const Group* g : lists) out.push_back(of_layer[g->layer] / n_lists[g->layer]);
  return out;
}

void Evictor::make_capacities(Shard& shard, const std::vector<Group*>& lists, std::uint64_t step) {
  std::vector<Candidate> units;
  std::vector<std::size_t> ends;  // of each list's units
  for (Group* g : lists) {
    collect(shard, *g, step, units);
    ends.push_back(units.size());
  }
  const bool by_scores = geometry_->window_queries() == 0;
  if (by_scores) score(units);
  const std::vector<double> preferred = by_scores ? std::vector<double>{} : preferences(shard, lists);
  allocate::Request request;
  allocate::Shares shares, fixed;
  for (std::size_t l = 0; l < lists.size(); ++l) {
    const std::span<const Candidate> own(units.begin() + static_cast<std::ptrdiff_t>(l > 0 ? ends[l - 1] : 0),
                                         units.begin() + static_cast<std::ptrdiff_t>(ends[l]));
    auto& scores = request.scores.emplace_back();
    auto& weights = request.weights.emplace_back();
    request.held.push_back(0);
    for (const Candidate& c : own) {
      const std::uint64_t w = c.slot == no_index ? weight(shard, shard.pages()[c.page]) : 1;
      scores.push_back(static_cast<double>(c.score));
      weights.push_back(static_cast<double>(w));
      request.held.back() += w;
    }
    if (!by_scores) scores = {preferred[l]};
    shares.push_back(lists[l]->list.share);
    fixed.push_back(usage(lists[l]->list) - request.held.back());
  }
  set_capacities(lists, shares, capacities(geometry_->spec().eviction.allocator, request, shares, fixed));
}

void Evictor::set_capacities(const std::vector<Group*>& lists, const allocate::Shares& shares, const allocate::Shares& made) {
  std::int64_t error = 0;
  for (std::size_t l = 0; l < lists.size(); ++l) {
    lists[l]->list.budget = made[l];
    error += static_cast<std::int64_t>(made[l]) - static_cast<std::int64_t>(shares[l]);
  }
  counters_->step.allocations += 1;
  counters_->step.allocation_error += error < 0 ? -error : error;
}

}  // namespace moekv
