// A sliding window of counts, summed over processes only when a plan is made.
#include "engine/replanner.hpp"

#include <algorithm>
#include <cmath>

namespace moekv {

Replanner::Replanner(const Geometry& geometry, const TraceInfo& trace, Transport& transport, StepRecord& count)
    : geometry_(&geometry), trace_(&trace), transport_(&transport), plan_(geometry.plan()) {
  const PlacementSpec& placement = geometry.spec().placement;
  every_ = plan_ != nullptr ? placement.replan_every_steps : 0;
  window_ = placement.window_steps > 0 ? placement.window_steps : std::min(placement.replan_every_steps, max_window_steps);
  if (plan_ != nullptr) book_shadows(*plan_, count);
  if (every_ == 0) return;
  for (const ReplayLayer& layer : geometry.layers()) {
    if (layer.key_row >= 0 && std::find(rows_.begin(), rows_.end(), layer.key_row) == rows_.end()) rows_.push_back(layer.key_row);
  }
  counts_.resize(trace.moe_layers.size() * geometry.n_experts());
}

void Replanner::observe(const Router& router) {
  if (every_ == 0) return;
  const std::size_t n = geometry_->n_experts();
  std::vector<std::uint32_t> step(rows_.size() * n);
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    for (const std::uint16_t e : router.choice(rows_[r])) {
      if (e != ExpertId::invalid) step[r * n + e] += 1;
    }
  }
  const auto add = [&](const std::vector<std::uint32_t>& counts, std::int64_t sign) {
    for (std::size_t i = 0; i < counts.size(); ++i) counts_[static_cast<std::size_t>(rows_[i / n]) * n + i % n] += sign * std::int64_t{counts[i]};
  };
  add(step, 1);
  steps_.push_back(std::move(step));
  if (steps_.size() <= window_) return;
  add(steps_.front(), -1);
  steps_.pop_front();
}

double Replanner::busiest(const ExpertPlan& plan, std::uint32_t layer, const std::int64_t* load) const {
  std::vector<double> shards(geometry_->n_shards());
  double everywhere = 0;
  for (std::uint32_t e = 0; e < plan.n_experts; ++e) {
    const std::size_t i = std::size_t{layer} * plan.n_experts + e;
    const auto tokens = static_cast<double>(load[e]);
    if (!plan.shadowed.empty() && plan.shadowed[i] != 0) {
      everywhere += tokens / static_cast<double>(shards.size());
      continue;
    }
    for (std::uint32_t r = plan.first[i]; r < plan.first[i + 1]; ++r) shards[plan.shard[r]] += tokens / (plan.first[i + 1] - plan.first[i]);
  }
  return everywhere + *std::max_element(shards.begin(), shards.end());
}

void Replanner::book_shadows(const ExpertPlan& plan, StepRecord& count) const {
  if (transport_->process() != 0) return;
  for (std::size_t i = 0; i < plan.shadowed.size(); ++i) {
    if (plan.shadowed[i] == 0) continue;
    count.shadow_plans += 1;
    const bool known = &plan != plan_.get() && plan_->shadowed[i] != 0;
    if (!known) count.shadow_weight_bytes += shadow_bytes(geometry_->spec()) * (geometry_->n_ranks() - 1);
  }
}

std::shared_ptr<const ExpertPlan> Replanner::plan(StepRecord& count) {
  std::vector<std::int64_t> counts = counts_;
  transport_->allreduce_sum(counts);
  auto next = plan_experts(geometry_->spec(), *trace_, geometry_->n_ranks(), counts);
  book_shadows(*next, count);
  for (const ReplayLayer& layer : geometry_->layers()) {
    if (layer.key_row < 0 || transport_->process() != 0) continue;
    const std::int64_t* load = &counts[static_cast<std::size_t>(layer.key_row) * geometry_->n_experts()];
    std::int64_t sum = 0;
    for (std::uint32_t e = 0; e < geometry_->n_experts(); ++e) sum += load[e];
    count.plan_load_max_before += std::llround(busiest(*plan_, layer.layer.value, load));
    count.plan_load_max_after += std::llround(busiest(*next, layer.layer.value, load));
    count.plan_load_mean += std::llround(static_cast<double>(sum) / geometry_->n_shards());
  }
  plan_ = next;
  return next;
}

}  // namespace moekv
