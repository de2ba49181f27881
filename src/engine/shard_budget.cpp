// Shard, budgets: what a group may hold, and how many pages that is.
#include <algorithm>
#include <array>
#include <numeric>

#include "engine/shard.hpp"

namespace moekv {

void Shard::start_budget(Group& group, std::uint32_t request_tokens) {
  group.list.budget = group.list.share = budget_of(group, request_tokens);
  const std::uint32_t model_group = geometry_->model_head_group(rank_, group.head_group);
  group.protect = geometry_->protection(group.layer, model_group);
  if (geometry_->starts_unequal() && !scope_shard_) {
    const auto [capacity, made] = capacities_.try_emplace(request_tokens);
    if (made) {
      capacity->second = geometry_->first_capacities(request_tokens);
      const std::uint64_t sum = std::accumulate(capacity->second.begin(), capacity->second.end(), std::uint64_t{0});
      const std::uint64_t equal = capacity->second.size() * geometry_->request_total(request_tokens);
      allocation_error_ += static_cast<std::int64_t>(sum > equal ? sum - equal : equal - sum);
    }
    const std::size_t i = std::size_t{group.layer} * geometry_->n_model_head_groups() + model_group;
    group.list.budget = geometry_->shard_share(geometry_->layers()[group.layer], id_, capacity->second[i], shadow_home(group));
  }
  if (recorder_ != nullptr && !scope_shard_) note_budget(&group, group.list);
}

ShardId Shard::shadow_home(const Group& group) const {
  const Placement& placement = geometry_->placement();
  return placement.map == ShardMap::eplb && placement.shadowed != nullptr ? placement.home_shard(group.home, group.request) : ShardId(0);
}

std::uint64_t Shard::budget_of(const Group& group, std::uint32_t request_tokens) {
  const ReplayLayer& replay = geometry_->layers()[group.layer];
  const bool planned = geometry_->placement().map == ShardMap::eplb;  // each layer has weights of its own
  const ShardId home = shadow_home(group);
  const std::array<std::uint32_t, 4> key{static_cast<std::uint32_t>(geometry_->layout(replay)), planned ? group.layer : 0, home.value, request_tokens};
  const auto [budget, unknown] = budgets_.try_emplace(key, 0);
  if (unknown) budget->second = geometry_->request_budget(replay, id_, request_tokens, home);
  return budget->second;
}

void Shard::note_budget(const Group* group, const EvictList& list) const {
  AccessEvent event{id_.value, AccessEvent::whole_shard, 0, 0, ExpertId::invalid, 0, AccessKind::opened, 0, AccessEvent::unlimited};
  const bool planned = traits_of(geometry_->spec().eviction.rule).places;
  if (planned) event.count = 0;  // its capacity is what it holds
  if (geometry_->spec().eviction.budget.kind != BudgetKind::unlimited) event.count = capacity_pages(list);
  if (group != nullptr) {
    event.request = group->request.value;
    event.layer = geometry_->layers()[group->layer].layer.value;
    event.head_group = static_cast<std::uint16_t>(group->head_group);
  }
  recorder_->add(event);
}

std::uint32_t Shard::capacity_pages(const EvictList& list) const {
  switch (geometry_->spec().eviction.budget.kind) {
    case BudgetKind::pages: return static_cast<std::uint32_t>(list.budget);
    case BudgetKind::bytes: return static_cast<std::uint32_t>(list.budget / (raw_pools_.front().block_bytes + raw_pools_.front().beside_bytes));
    default: return static_cast<std::uint32_t>(std::max<std::uint64_t>(1, list.budget / slots_));
  }
}

}  // namespace moekv
