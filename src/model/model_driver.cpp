// One step of a model: the residual streams of this process's tokens go from layer to layer, each attention through the caches.
#include "model/model_driver.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/phase_timer.hpp"
#include "model/predictions.hpp"

namespace moekv {
namespace {

std::vector<std::uint32_t> positions_of(std::span<const HomeToken> tokens) {
  std::vector<std::uint32_t> out;
  for (const HomeToken& t : tokens) out.push_back(t.position);
  return out;
}

/// Sums of squares of a - b and of b.
std::pair<double, double> squares(std::span<const float> a, std::span<const float> b) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    error += (x - y) * (x - y);
    norm += y * y;
  }
  return {error, norm};
}

double ratio(double error, double norm) { return norm > 0 ? std::sqrt(error / norm) : 0.0; }

}  // namespace

ModelDriver::ModelDriver(Geometry& geometry, ShardedCache& cache, const Decoder& decoder, const TokenSource& tokens,
                         std::unique_ptr<KvHistory> history, std::unique_ptr<ReferenceRun> reference, TraceRecorder* recorder,
                         std::uint64_t total_queries)
    : Driver(geometry, tokens.info(), RowsCome::by_layer, history.get(), true, true, cache, total_queries),
      decoder_(&decoder),
      tokens_file_(&tokens),
      history_(std::move(history)),
      reference_(std::move(reference)),
      recorder_(recorder),
      numbers_(geometry.spec().payload.element) {}

ModelDriver::~ModelDriver() = default;

void ModelDriver::keep_tracks() {
  keeps_tracks_ = true;
  tracks_.resize(geometry_->layers().size());
}

void ModelDriver::begin(const StepBatch& batch) {
  router_.begin(batch, items_);
  batch_ = batch;
  numbers_.begin_step(batch.step);
}

void ModelDriver::enter(const ReplayLayer& layer, PhaseTimer& timer) {
  if (&layer == &geometry_->layers().front()) {
    if (reference_) reference_->run(batch_);
    if (recorder_ != nullptr) recorder_->begin_step(items_);
    std::vector<std::uint32_t> inputs;
    for (const HomeToken& t : tokens_) inputs.push_back(tokens_file_->inputs(t.request)[t.position]);
    decoder_->embed(inputs, x_);
    angles_ = decoder_->angles(positions_of(tokens_));
  }
  decoder_->attention_inputs(layer.layer.value, x_, angles_, {q32_, k32_, v32_});
  numbers_.attention_inputs(layer.layer, tokens_, q32_, k32_, v32_);
  if (recorder_ != nullptr) recorder_->add_qkv(layer.layer.value, q32_, k32_, v32_);
  if (history_) remember_history(layer);
  timer.lap(cache_->counters().step.t_model);
}

void ModelDriver::remember_history(const ReplayLayer& layer) {
  const std::size_t width = k32_.size() / std::max<std::size_t>(1, tokens_.size());
  std::size_t token = 0;
  for (const BatchItem& item : items_) {
    const std::size_t n = item.end - item.begin;
    history_->add(layer.layer, item.request, std::span(k32_).subspan(token * width, n * width), std::span(v32_).subspan(token * width, n * width));
    token += n;
  }
}

void ModelDriver::route(const ReplayLayer& layer) {
  if (query_router_ == nullptr) {
    router_.keys(layer, keys_);
  } else {
    keys_.clear();
    if (layer.key_row >= 0) choose_by_query(q32_);
  }
}

void ModelDriver::sinks(const ReplayLayer& layer, float* out) {
  const std::vector<float>& own = decoder_->sinks(layer.layer.value);
  std::copy(own.begin(), own.end(), out);
}

void ModelDriver::leave(const ReplayLayer& layer, PhaseTimer& timer) {
  const std::uint32_t l = layer.layer.value;
  decoder_->add_attention(l, output_.o, x_);
  decoder_->ffn_input(l, x_, h_);
  if (layer.row >= 0) {
    run_experts(layer);
  } else {
    decoder_->add_dense(l, h_, x_);
  }
  numbers_.values(NumberCheck::Stage::residual, layer.layer, tokens_, x_);
  if (keeps_tracks_) tracks_[l] = {output_.o, x_};
  if (reference_) measure_drift(layer);
  timer.lap(cache_->counters().step.t_model);
}

void ModelDriver::run_experts(const ReplayLayer& layer) {
  StepRecord& count = cache_->counters().step;
  decoder_->gate(layer.layer.value, h_, gate_);
  numbers_.values(NumberCheck::Stage::gate, layer.layer, tokens_, gate_.logits);
  router_.give(layer.row, gate_.logits, gate_.ids, gate_.weights);
  std::int64_t route_ns = 0;
  PhaseTimer timer;
  router_.route(layer);
  timer.lap(route_ns);
  count.t_route += route_ns;
  count.t_model -= route_ns;  // `leave` times all of this as the model's
  count_hidden_states(layer);
  decoder_->add_experts(layer.layer.value, h_, router_.choice(layer.row), router_.weights(layer.row), x_);
  if (recorder_ != nullptr)
    recorder_->add_routing(static_cast<std::uint32_t>(layer.row), gate_.logits, router_.choice(layer.row), router_.weights(layer.row));
}

bool ModelDriver::in_tail(const BatchItem& item, std::uint32_t position) const {
  const std::uint32_t from = geometry_->spec().score.from_position;
  return position >= (from > 0 ? from : item.prompt_tokens);
}

void ModelDriver::measure_drift(const ReplayLayer& layer) {
  const LayerTrack& track = reference_->driver().tracks()[layer.layer.value];
  const std::size_t n_layers = geometry_->layers().size(), n = std::max<std::size_t>(1, tokens_.size());
  const std::size_t width = output_.o.size() / n, hidden = x_.size() / n;
  std::size_t token = 0;
  for (const BatchItem& item : items_) {
    if (drift_.size() < (item.request.value + 1) * n_layers) drift_.resize((item.request.value + 1) * n_layers);
    DriftRow& row = drift_[item.request.value * n_layers + layer.layer.value];
    row.request = item.request.value;
    row.layer = layer.layer.value;
    for (std::uint32_t p = item.begin; p < item.end; ++p, ++token) {
      const auto part = [&](const std::vector<float>& all, std::size_t size) { return std::span(all).subspan(token * size, size); };
      const auto [ae, a] = squares(part(output_.o, width), part(track.attention, width));
      const auto [re, r] = squares(part(x_, hidden), part(track.residual, hidden));
      row.n_tokens += 1;
      for (Squares* s : {&row.all, &row.tail}) {
        if (s == &row.tail && !in_tail(item, p)) continue;
        s->attention_error += ae;
        s->attention += a;
        s->residual_error += re;
        s->residual += r;
      }
    }
  }
}

void ModelDriver::finish(const StepBatch&, PhaseTimer& timer) {
  if (recorder_ != nullptr) recorder_->end_step();
  if (!keeps_tracks_) score();
  for (const BatchItem& item : items_) {
    if (history_ && item.finishes()) history_->forget(item.request);
  }
  timer.lap(cache_->counters().step.t_model);
}

void ModelDriver::score() {
  std::vector<std::uint32_t> targets;
  for (const HomeToken& t : tokens_) targets.push_back(tokens_file_->targets(t.request)[t.position]);
  const std::vector<Prediction> predictions =
      predict(*decoder_, x_, reference_ ? std::span<const float>(reference_->driver().residual()) : std::span<const float>(), targets);
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    const Prediction& p = predictions[i];
    const bool finite = std::isfinite(p.nll) && (!reference_ || (std::isfinite(p.nll_reference) && std::isfinite(p.kl)));
    if (!finite) numbers_.note(NumberCheck::Stage::prediction, geometry_->layers().back().layer, tokens_[i]);
    scores_.push_back({tokens_[i].request.value, tokens_[i].position, targets[i], p.nll, p.nll_reference, p.kl, p.same_top1});
  }
}

void ModelDriver::collect(Transport& transport, RunOutcome& out) {
  Driver::collect(transport, out);
  numbers_.collect("", transport, out);
  if (reference_) reference_->driver().numbers_.collect(" of the reference", transport, out);
  out.tokens = gather_rows(transport, scores_);
  std::sort(out.tokens.begin(), out.tokens.end(),
            [](const TokenRecord& a, const TokenRecord& b) { return std::tuple(a.request, a.position) < std::tuple(b.request, b.position); });
  if (!reference_) return;
  std::vector<DriftRow> rows = gather_rows(transport, drift_);
  // A sum per request, added in the order of requests: equal for any number of processes.
  std::erase_if(rows, [](const DriftRow& r) { return r.n_tokens == 0; });
  std::sort(rows.begin(), rows.end(),
            [](const DriftRow& a, const DriftRow& b) { return std::tuple(a.layer, a.request) < std::tuple(b.layer, b.request); });
  for (auto it = rows.begin(); it != rows.end();) {
    DriftRecord record;
    Squares all, tail;
    record.layer = static_cast<std::int64_t>(it->layer);
    for (; it != rows.end() && static_cast<std::int64_t>(it->layer) == record.layer; ++it) {
      record.n_tokens += static_cast<std::int64_t>(it->n_tokens);
      for (double Squares::*const member : {&Squares::attention_error, &Squares::attention, &Squares::residual_error, &Squares::residual}) {
        all.*member += it->all.*member;
        tail.*member += it->tail.*member;
      }
    }
    record.attention_drift = ratio(all.attention_error, all.attention);
    record.attention_drift_tail = ratio(tail.attention_error, tail.attention);
    record.residual_drift = ratio(all.residual_error, all.residual);
    record.residual_drift_tail = ratio(tail.residual_error, tail.residual);
    out.drifts.push_back(record);
  }
}

}  // namespace moekv
