// Choices of the routing rule and the storing key made from them.
#include "engine/router.hpp"

#include <algorithm>
#include <cmath>

#include "core/rng.hpp"

namespace moekv {

Router::Router(const Geometry& geometry, const TraceInfo& trace, Counters& counters)
    : geometry_(&geometry), trace_(&trace), counters_(&counters), choices_(trace.moe_layers.size()) {
  const RunSpec& spec = geometry.spec();
  rule_geometry_ = {geometry.n_experts(), geometry.top_k(), spec.seed, spec.model.gate};
  rule_geometry_.gate.n_experts = geometry.n_experts();
  rule_geometry_.gate.top_k = geometry.top_k();
  recorded_ = std::holds_alternative<route::Recorded>(spec.routing.rule);
  wants_logits_ = std::visit([](const auto& rule) { return rule.needs_logits; }, spec.routing.rule);
  first_row_ = static_cast<std::uint32_t>(trace.moe_layers.size());
  for (const ReplayLayer& layer : geometry.layers()) {
    for (const int row : {layer.row, layer.key_row}) {
      if (row < 0) continue;
      first_row_ = std::min(first_row_, static_cast<std::uint32_t>(row));
      end_row_ = std::max(end_row_, static_cast<std::uint32_t>(row) + 1);
    }
  }
  first_row_ = std::min(first_row_, end_row_);
}

void Router::read(const StepBatch& batch, std::span<const BatchItem> items, TraceSource& trace) {
  step_ = batch.step;
  items_.assign(items.begin(), items.end());
  rows_.resize(std::max(rows_.size(), items_.size()));
  for (Choices& c : choices_) c.made = false;
  if (first_row_ == end_row_) return;
  for (std::size_t i = 0; i < items_.size(); ++i) {
    trace.read(items_[i].request, items_[i].begin, items_[i].end, first_row_, end_row_, wants_logits_ ? WantLogits::yes : WantLogits::no, rows_[i]);
  }
}

void Router::route(const ReplayLayer& layer) {
  if (layer.row < 0) return;
  for (const int row : {layer.key_row, layer.row}) {
    if (!choices_[row].made) route_row(row);
  }
  for (const std::uint16_t e : choices_[layer.row].ids) {
    if (e != ExpertId::invalid) counters_->expert_load[e].load += 1;
  }
}

void Router::route_row(int row) {
  const std::uint32_t k = geometry_->top_k();
  const std::uint32_t e = geometry_->n_experts();
  Choices& out = choices_[row];
  std::size_t tokens = 0;
  for (const BatchItem& item : items_) tokens += item.end - item.begin;
  out.ids.resize(tokens * k);
  out.weights.resize(tokens * k);
  out.made = true;
  const std::uint32_t layer = trace_->moe_layers[row];
  std::size_t t = 0;
  for (std::size_t i = 0; i < items_.size(); ++i) {
    const RoutingRows& rows = rows_[i];
    const std::size_t n_layers = rows.layer_end - rows.layer_begin;
    for (std::uint32_t position = items_[i].begin; position < items_[i].end; ++position, ++t) {
      const std::size_t at = (position - rows.begin) * n_layers + (static_cast<std::size_t>(row) - rows.layer_begin);
      route::TokenView view{items_[i].request.value, position, layer};
      view.recorded_ids = &rows.ids[at * k];
      view.recorded_weights = rows.weights.empty() ? nullptr : &rows.weights[at * k];
      view.logits = rows.logits.empty() ? nullptr : &rows.logits[at * e];
      std::uint16_t* ids = &out.ids[t * k];
      std::visit([&](const auto& rule) { rule.choose(rule_geometry_, view, {ids, &out.weights[t * k]}); }, geometry_->spec().routing.rule);
      if (!recorded_) compare(view, ids);
      for (std::uint32_t j = 0; j < k; ++j) {
        counters_->digest.add({step_, layer, Decision::route, view.request, position, ids[j], j, 0});
      }
    }
  }
}

void Router::compare(const route::TokenView& token, const std::uint16_t* ids) {
  const std::uint32_t k = geometry_->top_k();
  std::uint32_t recorded = 0, chosen = 0, both = 0;
  double lost = 0;
  for (std::uint32_t j = 0; j < k; ++j) {
    chosen += ids[j] != ExpertId::invalid ? 1 : 0;
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
}

void Router::hash_key(RequestId request, int row, std::uint16_t* out) const {
  const std::uint32_t e = geometry_->n_experts();
  const std::uint64_t h = hash_words(geometry_->spec().seed, 0x6BU, request.value, row);
  for (std::uint32_t j = 0; j < geometry_->top_k(); ++j) out[j] = static_cast<std::uint16_t>((h + j) % e);
}

void Router::keys(const ReplayLayer& layer, std::vector<std::uint16_t>& out) const {
  out.clear();
  if (layer.key_row < 0) return;
  const std::uint32_t k = geometry_->top_k();
  const std::vector<std::uint16_t>& ids = choices_[layer.key_row].ids;
  if (!layer.key_is_previous_token) {
    out = ids;
    return;
  }
  out.resize(ids.size());
  std::size_t t = 0;
  for (const BatchItem& item : items_) {
    for (std::uint32_t position = item.begin; position < item.end; ++position, ++t) {
      std::uint16_t* to = &out[t * k];
      if (position == 0) {
        hash_key(item.request, layer.key_row, to);
      } else if (position > item.begin) {
        std::copy_n(&ids[(t - 1) * k], k, to);
      } else {
        std::copy_n(&last_.at(item.request.value)[static_cast<std::size_t>(layer.key_row) * k], k, to);
      }
    }
  }
}

void Router::end_step() {
  const std::uint32_t k = geometry_->top_k();
  std::size_t t = 0;
  for (const BatchItem& item : items_) {
    t += item.end - item.begin;
    if (item.finishes()) {
      last_.erase(item.request.value);
      continue;
    }
    std::vector<std::uint16_t>& last = last_[item.request.value];
    last.resize(choices_.size() * k);
    for (std::size_t row = 0; row < choices_.size(); ++row) {
      if (choices_[row].made) std::copy_n(&choices_[row].ids[(t - 1) * k], k, &last[row * k]);
    }
  }
}

}  // namespace moekv
