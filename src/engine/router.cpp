// Choices of the routing rule and the storing key made from them.
#include "engine/router.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.hpp"
#include "core/rng.hpp"
#include "rules/route/group.hpp"

namespace moekv {

Router::Router(const Geometry& geometry, const TraceInfo& trace, RowsCome rows, Counters& counters, Transport& transport, Backend& backend)
    : geometry_(&geometry),
      trace_(&trace),
      counters_(&counters),
      transport_(&transport),
      backend_(&backend),
      rows_come_(rows),
      choices_(trace.moe_layers.size()) {
  const RunSpec& spec = geometry.spec();
  rule_geometry_ = {geometry.n_experts(), geometry.top_k(), spec.seed, spec.model.gate};
  rule_geometry_.gate.n_experts = geometry.n_experts();
  rule_geometry_.gate.top_k = geometry.top_k();
  recorded_ = std::holds_alternative<route::Recorded>(spec.routing.rule);
  wants_logits_ = traits_of(spec.routing.rule).needs_logits;
  first_row_ = static_cast<std::uint32_t>(trace.moe_layers.size());
  for (const ReplayLayer& layer : geometry.layers()) {
    for (const int row : {layer.row, layer.key_row}) {
      if (row < 0) continue;
      first_row_ = std::min(first_row_, static_cast<std::uint32_t>(row));
      end_row_ = std::max(end_row_, static_cast<std::uint32_t>(row) + 1);
    }
  }
  first_row_ = std::min(first_row_, end_row_);
  check_rule();
  make_memory();
}

void Router::check_rule() const {
  const RunSpec& spec = geometry_->spec();
  const std::string_view name = traits_of(spec.routing.rule).name;
  if (wants_logits_ && trace_->has_routing() && trace_->level < RoutingLevel::candidates) {
    throw UserError(trace_->path, fmt::format("routing.router '{}' chooses from gate logits, and the trace has the chosen experts only", name),
                    "use a trace with logits, make labelled ones with moekv trace import --pseudo-logits, or choose router recorded, hash or rr");
  }
  if (const char* why = refusal(spec.routing.rule, rule_geometry_); why != nullptr && end_row_ > first_row_) {
    throw UserError(spec.config_path, fmt::format("routing.router '{}': {}", name, why), "change its parameters or the model's gate");
  }
}

void Router::make_memory() {
  const route::Traits& rule = traits_of(geometry_->spec().routing.rule);
  if (!rule.updates) return;
  if (rule.reads_cache) counters_->listen_to_experts();
  const std::size_t e = geometry_->n_experts();
  memory_.resize(choices_.size());
  for (Memory& m : memory_) {
    m.values.assign(3 * e + 2 * route::max_arms + 1, 0.0F);
    m.point(e);
    std::fill_n(m.view.load, e, 1.0F);
  }
  counts_.assign(choices_.size() * (2 * e + 1), 0);
}

void Router::Memory::point(std::size_t n_experts) {
  float *at = values.data(), *arms = at + 3 * n_experts;
  view = {at, at + n_experts, at + 2 * n_experts, arms, arms + route::max_arms, arms + 2 * route::max_arms, view.arm};
}

void Router::begin(const StepBatch& batch, std::span<const BatchItem> items) {
  step_ = batch.step;
  items_.assign(items.begin(), items.end());
  rows_.resize(std::max(rows_.size(), items_.size()));
  for (Choices& c : choices_) c.made = false;
  if (rows_come_ == RowsCome::from_trace) return;
  const std::size_t n_rows = end_row_ - first_row_;
  for (std::size_t i = 0; i < items_.size(); ++i) {
    const std::size_t cells = (items_[i].end - items_[i].begin) * n_rows;
    rows_[i].begin = items_[i].begin;
    rows_[i].end = items_[i].end;
    rows_[i].layer_begin = first_row_;
    rows_[i].layer_end = end_row_;
    rows_[i].ids.resize(cells * geometry_->top_k());
    rows_[i].weights.resize(cells * geometry_->top_k());
    rows_[i].logits.resize(cells * geometry_->n_experts());
  }
}

void Router::give(int row, std::span<const float> logits, std::span<const std::uint16_t> ids, std::span<const float> weights) {
  const std::size_t k = geometry_->top_k(), e = geometry_->n_experts(), n_rows = end_row_ - first_row_;
  std::size_t token = 0;
  for (std::size_t i = 0; i < items_.size(); ++i) {
    for (std::size_t t = 0; t < items_[i].end - items_[i].begin; ++t, ++token) {
      const std::size_t cell = t * n_rows + static_cast<std::size_t>(row) - first_row_;
      std::copy_n(&ids[token * k], k, &rows_[i].ids[cell * k]);
      std::copy_n(&weights[token * k], k, &rows_[i].weights[cell * k]);
      std::copy_n(&logits[token * e], e, &rows_[i].logits[cell * e]);
    }
  }
}

void Router::read(const StepBatch& batch, std::span<const BatchItem> items, TraceSource& trace) {
  begin(batch, items);
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
  const auto index = static_cast<std::uint32_t>(&layer - geometry_->layers().data());
  for (const std::uint16_t e : choices_[layer.row].ids) {
    if (e == ExpertId::invalid) continue;
    counters_->expert_load[e].load += 1;
    counters_->load_in_layer(Entity::expert, index, e, 1);
  }
  if (!recorded_) compare_load(layer);
}

void Router::view_tokens(int row) {
  const std::uint32_t k = geometry_->top_k();
  const std::uint32_t e = geometry_->n_experts();
  views_.clear();
  for (std::size_t i = 0; i < items_.size(); ++i) {
    const RoutingRows& rows = rows_[i];
    const std::size_t n_layers = rows.layer_end - rows.layer_begin;
    for (std::uint32_t position = items_[i].begin; position < items_[i].end; ++position) {
      const std::size_t at = (position - rows.begin) * n_layers + (static_cast<std::size_t>(row) - rows.layer_begin);
      route::TokenView view{items_[i].request.value, position, trace_->moe_layers[row]};
      view.recorded_ids = &rows.ids[at * k];
      view.recorded_weights = rows.weights.empty() ? nullptr : &rows.weights[at * k];
      view.logits = rows.logits.empty() ? nullptr : &rows.logits[at * e];
      view.state = state(row);
      view.prefill = position < items_[i].prompt_tokens;
      views_.push_back(view);
    }
  }
}

void Router::choose(int row, Choices& out) {
  const std::uint32_t k = geometry_->top_k();
  view_tokens(row);
  out.ids.resize(views_.size() * k);
  out.weights.resize(views_.size() * k);
  if (const auto* rule = std::get_if<route::Topk>(&geometry_->spec().routing.rule);
      rule != nullptr && backend_->gate({rule, &rule_geometry_, views_, {out.ids.data(), out.weights.data()}})) {
    backend_->sync();
    return;
  }
  std::size_t begin = 0, end = 0;
  for (std::size_t i = 0; i < items_.size(); ++i) {
    end += items_[i].end - items_[i].begin;
    if (i + 1 < items_.size() && items_[i + 1].home == items_[i].home) continue;  // the tokens of a home rank are one group
    const auto n = static_cast<std::uint32_t>(end - begin);
    std::visit(
        [&](const auto& rule) {
          if constexpr (route::ChoosesByGroup<std::decay_t<decltype(rule)>>) {
            floats_.resize(std::max<std::size_t>(floats_.size(), route::scratch_floats(geometry_->n_experts(), n)));
            words_.resize(std::max<std::size_t>(words_.size(), route::scratch_words(geometry_->n_experts(), n)));
          }
          route::choose_all(rule, rule_geometry_, &views_[begin], n, {&out.ids[begin * k], &out.weights[begin * k]}, {floats_.data(), words_.data()});
        },
        geometry_->spec().routing.rule);
    begin = end;
  }
}

void Router::route_row(int row) {
  const std::uint32_t k = geometry_->top_k();
  Choices& out = choices_[row];
  out.made = true;
  choose(row, out);
  std::int64_t* load = counts_.empty() ? nullptr : &counts_[static_cast<std::size_t>(row) * (2 * std::size_t{geometry_->n_experts()} + 1)];
  for (std::size_t t = 0; t < views_.size(); ++t) {
    const std::uint16_t* ids = &out.ids[t * k];
    if (!recorded_) compare(views_[t], ids);
    for (std::uint32_t j = 0; j < k; ++j) {
      if (load != nullptr && ids[j] != ExpertId::invalid) load[ids[j]] += 1;
      counters_->digest.add({step_, views_[t].layer, Decision::route, views_[t].request, views_[t].position, ids[j], j, 0});
    }
  }
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
  std::size_t n_tokens = 0;
  for (const BatchItem& item : items_) n_tokens += item.end - item.begin;
  out.resize(n_tokens * k);
  std::size_t t = 0;
  for (const BatchItem& item : items_) {
    for (std::uint32_t position = item.begin; position < item.end; ++position, ++t) {
      std::uint16_t* to = &out[t * k];
      const bool in_step = rows_come_ == RowsCome::from_trace && position > item.begin;
      if (position == 0 || (item.begin == 0 && !in_step)) {
        hash_key(item.request, layer.key_row, to);
      } else if (in_step) {
        std::copy_n(&ids[(t - 1) * k], k, to);
      } else {
        std::copy_n(&last_.at(item.request.value)[static_cast<std::size_t>(layer.key_row) * k], k, to);
      }
    }
  }
}

void Router::update_memory() {
  const std::size_t e = geometry_->n_experts(), width = 2 * e + 1;
  for (std::size_t l = 0; !counters_->expert_missed.empty() && l < geometry_->layers().size(); ++l) {
    const int row = geometry_->layers()[l].key_row;  // the choices of this row named what was looked up
    if (row < 0) continue;
    std::int64_t* counts = &counts_[static_cast<std::size_t>(row) * width];
    for (std::size_t i = 0; i < e; ++i) counts[e + i] += counters_->expert_missed[l * e + i];
    counts[2 * e] += counters_->expert_lookups[l];
  }
  std::fill(counters_->expert_missed.begin(), counters_->expert_missed.end(), 0);
  std::fill(counters_->expert_lookups.begin(), counters_->expert_lookups.end(), 0);
  transport_->allreduce_sum(counts_);
  std::vector<std::int64_t> model = counters_->step_model();
  transport_->allreduce_max(model);
  const std::int64_t model_ns = std::accumulate(model.begin(), model.end(), std::int64_t{0});
  for (std::size_t row = first_row_; row < end_row_; ++row) {
    const std::int64_t* counts = &counts_[row * width];
    const route::StepCounts step{counts, counts + e, counts[2 * e], model_ns, step_ + 1, trace_->moe_layers[row]};
    std::visit(
        [&](const auto& rule) {
          if constexpr (requires { rule.update(rule_geometry_, step, memory_[row].view); }) rule.update(rule_geometry_, step, memory_[row].view);
        },
        geometry_->spec().routing.rule);
  }
  std::fill(counts_.begin(), counts_.end(), 0);
}

void Router::end_step() {
  if (!memory_.empty()) update_memory();
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
