// Geometry, budgets: the share of a request, what a static allocator makes of it over layers and head groups, and a shard's part.
#include <algorithm>

#include "engine/geometry.hpp"
#include "engine/head_table.hpp"

namespace moekv {
namespace {

bool counts_entries(const BudgetSpec& budget) { return budget.kind == BudgetKind::fraction || budget.kind == BudgetKind::tokens; }

}  // namespace

std::uint64_t Geometry::request_total(std::uint32_t request_tokens) const {
  const BudgetSpec& budget = spec_->eviction.budget;
  if (budget.kind != BudgetKind::fraction) return budget.amount;
  return (2 * std::uint64_t{request_tokens} * budget.numerator + budget.denominator) / (2 * budget.denominator);  // rounded once
}

std::uint64_t Geometry::shard_share(const ReplayLayer& layer, ShardId shard, std::uint64_t total, ShardId home) const {
  switch (layout(layer)) {
    case Layout::expert: {
      std::uint64_t copies = top_k_;
      if (placement_.dedup == Dedup::shard) copies = std::min<std::uint64_t>(copies, placement_.n_shards);
      if (placement_.dedup == Dedup::rank) copies = std::min<std::uint64_t>(copies, placement_.n_ranks);
      const std::vector<std::uint64_t>& weight = shard_weight_[placement_.map == ShardMap::eplb ? layer.layer.value : 0];
      const std::uint64_t all = counts_entries(spec_->eviction.budget) ? total * copies : total;
      if (n_shadowed(layer) == 0) return weighted_share(all, weight, shard.value);
      std::vector<std::uint64_t> with_shadows = weight;
      with_shadows[home.value] += expert_unit * n_shadowed(layer);
      return weighted_share(all, with_shadows, shard.value);
    }
    case Layout::token:
      return equal_share(total, placement_.n_shards, shard.value);
    default:
      return total;
  }
}

void Geometry::read_allocator() {
  std::visit(
      [&](const auto& rule) {
        using Rule = std::decay_t<decltype(rule)>;
        allocated_ = rule.when;
        if constexpr (allocate::needs_mass<Rule>) window_queries_ = rule.window;
        if constexpr (allocate::needs_table<Rule>) {
          const std::uint32_t n = n_model_head_groups();
          std::vector<double> table = read_head_table(spec_->eviction.allocator_path, Rule::table, spec_->model.n_layers(), n);
          if constexpr (requires { rule.full(table); }) {  // heads are classed among all of the model, whatever is replayed
            const std::vector<bool> full = rule.full(table);
            std::copy(full.begin(), full.end(), table.begin());
          }
          for (const ReplayLayer& layer : layers_) {
            const double* row = &table[std::size_t{layer.layer.value} * n];
            shares_.insert(shares_.end(), row, row + n);
          }
        }
      },
      allocator());
}

ProtectSpec Geometry::protection(std::uint32_t layer, std::uint32_t model_group) const {
  ProtectSpec protect = spec_->eviction.protect;
  if (const auto* duo = std::get_if<allocate::Duo>(&allocator());
      duo != nullptr && shares_[std::size_t{layer} * n_model_head_groups() + model_group] == 0)
    protect = {std::max(protect.sinks, duo->sink), std::max(protect.recent, duo->recent)};
  return protect;
}

allocate::Shares Geometry::first_capacities(std::uint32_t request_tokens) const {
  const std::uint64_t n = n_model_head_groups(), equal = request_total(request_tokens);
  allocate::Request request;
  Allocator made = allocator();
  if (!shares_.empty()) {  // every list for itself; what streaming heads protect is their capacity
    if (auto* duo = std::get_if<allocate::Duo>(&made); duo != nullptr) {
      duo->sink = std::max(duo->sink, spec_->eviction.protect.sinks);
      duo->recent = std::max(duo->recent, spec_->eviction.protect.recent);
    }
    for (const double share : shares_) request.scores.push_back({share});
    return capacities(made, request, allocate::Shares(shares_.size(), equal), allocate::Shares(shares_.size(), 0));
  }
  // Layers against each other, alike for every head group.
  std::uint64_t protect = 0;
  if (counts_entries(spec_->eviction.budget)) {
    protect = std::min(equal, std::uint64_t{spec_->eviction.protect.sinks} + spec_->eviction.protect.recent);
    request.held.assign(layers_.size(), request_tokens - std::min<std::uint64_t>(protect, request_tokens));
  }
  request.window = protect;
  request.scores.assign(layers_.size(), {0.0});
  const allocate::Shares of_layers = capacities(made, request, allocate::Shares(layers_.size(), equal), allocate::Shares(layers_.size(), protect));
  allocate::Shares out;
  for (const std::uint64_t capacity : of_layers) out.insert(out.end(), n, capacity);
  return out;
}

}  // namespace moekv
