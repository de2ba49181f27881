// What another router costs and gains against the recorded choice, or in a model's loop against the model's own gate.
#include <algorithm>
#include <cmath>

#include "engine/copies.hpp"
#include "engine/router.hpp"
#include "rules/route/gate.hpp"

namespace moekv {

void Router::compare_load(const ReplayLayer& layer) {
  const std::uint32_t k = geometry_->top_k();
  view_tokens(layer.row);
  for (const route::TokenView& token : views_) {
    for (std::uint32_t j = 0; j < k; ++j) {
      if (token.recorded_ids[j] != ExpertId::invalid) counters_->expert_load[token.recorded_ids[j]].recorded_load += 1;
    }
  }
  const Placement& placement = geometry_->placement();
  if (placement.layout != Layout::expert || geometry_->spec().routing.key == RoutingKey::query_router) return;
  if (layer.key_is_previous_token && rows_come_ != RowsCome::from_trace) return;  // a chunk of a model's prompt is keyed by the token before it
  if (layer.key_row != layer.row) view_tokens(layer.key_row);
  const std::uint32_t ahead = layer.key_is_previous_token ? 1 : 0;  // the choice of a token names where the next one is stored
  const auto far = [&](const BatchItem& item, const route::TokenView& token, const std::uint16_t* ids) {
    if (token.position + ahead >= item.total_tokens) return std::ptrdiff_t{0};
    const CopySet copies = plan_copies(placement, item.home, item.request, layer.layer.value, token.position + ahead, {ids, k});
    return std::count_if(copies.shard.begin(), copies.shard.begin() + copies.n_copies, [&](ShardId s) { return placement.owner(s) != item.home; });
  };
  std::size_t t = 0;
  for (const BatchItem& item : items_) {
    for (std::uint32_t position = item.begin; position < item.end; ++position, ++t) {
      counters_->step.copies_far += far(item, views_[t], &choices_[layer.key_row].ids[t * k]);
      counters_->step.copies_far_recorded += far(item, views_[t], views_[t].recorded_ids);
    }
  }
}

double Router::recorded_weight(const route::TokenView& token, std::uint16_t expert) const {
  const std::uint16_t* ids = token.recorded_ids;
  const std::uint16_t* end = ids + geometry_->top_k();
  if (token.recorded_weights == nullptr || std::find(ids, end, expert) != end) return 0;
  const std::uint16_t* reference = std::find_if(ids, end, [](std::uint16_t e) { return e != ExpertId::invalid; });
  if (reference == end) return 0;
  const ScoreFunction f = rule_geometry_.gate.score;
  const float z = route::finite_logit(token.logits[*reference]), own = route::finite_logit(token.logits[expert]);
  const auto weight = static_cast<double>(token.recorded_weights[reference - ids]);
  const auto reference_score = static_cast<double>(route::score(f, z, z));
  return reference_score > 0 ? std::min(1e3, weight * static_cast<double>(route::score(f, own, z)) / reference_score) : 0;
}

void Router::compare(const route::TokenView& token, const std::uint16_t* ids) {
  const std::uint32_t k = geometry_->top_k();
  std::uint32_t recorded = 0, chosen = 0, both = 0;
  double lost = 0, gained = 0;
  for (std::uint32_t j = 0; j < k; ++j) {
    chosen += ids[j] != ExpertId::invalid ? 1 : 0;
    if (token.logits != nullptr && ids[j] != ExpertId::invalid) gained += recorded_weight(token, ids[j]);
    const std::uint16_t r = token.recorded_ids[j];
    if (r == ExpertId::invalid) continue;
    recorded += 1;
    if (std::find(ids, ids + k, r) != ids + k) {
      both += 1;
    } else if (token.recorded_weights != nullptr) {
      lost += static_cast<double>(token.recorded_weights[j]);
    }
  }
  StepRecord& count = counters_->step;
  count.routed_pairs += 1;
  count.routed_changed += both == recorded && both == chosen ? 0 : 1;
  count.experts_kept += both;
  count.experts_either += recorded + chosen - both;
  count.gate_mass_lost_ppm += std::llround(1e6 * lost);
  count.gate_mass_gained_ppm += std::llround(1e6 * gained);
}

}  // namespace moekv
