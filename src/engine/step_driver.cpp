// One step from the trace: rows, keys, q, k, v, then each layer, then the record.
#include "engine/step_driver.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "engine/phase_timer.hpp"
#include "rules/codec/element.hpp"

namespace moekv {
namespace {

void convert(ElementFormat format, const std::vector<float>& from, std::vector<std::byte>& to) {
  const std::size_t bytes = element_bits(format) / 8;
  to.resize(from.size() * bytes);
#pragma omp parallel for schedule(static)
  for (std::size_t i = 0; i < from.size(); ++i) store_raw(format, to.data() + i * bytes, 0, from[i]);
}

}  // namespace

StepDriver::StepDriver(Geometry& geometry, TraceSource& trace, QkvSource* qkv, bool payload, bool recorded_qkv, ShardedCache& cache,
                       std::uint64_t total_queries)
    : geometry_(&geometry),
      trace_(&trace),
      qkv_(qkv),
      payload_(payload),
      cache_(&cache),
      router_(geometry, trace.info(), cache.counters(), cache.transport()),
      replanner_(geometry, trace.info(), cache.transport(), cache.counters().step),
      probe_(geometry, qkv, payload, recorded_qkv, total_queries) {
  const RunSpec& spec = geometry.spec();
  if (spec.routing.key != RoutingKey::query_router) return;
  if (!payload)
    throw UserError(spec.config_path, "routing.key 'query_router' needs queries, which backend 'count' does not have",
                    "use backend: host, or another key");
  query_router_ = std::make_unique<QueryRouter>(spec.routing.query_router_path, spec.seed, spec.model, geometry.n_experts(), geometry.top_k());
}

void StepDriver::collect_tokens(const StepBatch& batch) {
  items_.clear();
  for (const BatchItem& item : batch.items) {
    if (item.home >= cache_->first_rank() && item.home < cache_->end_rank()) items_.push_back(item);
  }
  std::stable_sort(items_.begin(), items_.end(), [](const BatchItem& a, const BatchItem& b) { return a.home < b.home; });
  tokens_.clear();
  for (const BatchItem& item : items_) {
    for (std::uint32_t p = item.begin; p < item.end; ++p) tokens_.push_back({item.request, p, item.home, p >= item.query_begin, false});
  }
  StepRecord& count = cache_->counters().step;
  for (const BatchItem& item : items_) {
    (item.prefill() ? count.prefill_tokens : count.decode_tokens) += item.end - item.begin;
    count.tokens += item.end - item.begin;
  }
}

void StepDriver::choose_by_query(const ReplayLayer& layer) {
  keys_.clear();
  if (layer.key_row < 0) return;
  const ModelShape& model = geometry_->spec().model;
  for (const BatchItem& item : items_) {
    q32_.resize(std::size_t{item.end - item.begin} * model.n_heads * model.d_k);
    qkv_->queries(layer.layer, item.request, item.begin, item.end, {}, q32_.data());
    query_router_->choose(q32_, keys_);
  }
}

void StepDriver::fill(const ReplayLayer& layer) {
  const ModelShape& model = geometry_->spec().model;
  const std::uint32_t top_k = keys_.empty() ? 0 : geometry_->top_k();
  std::size_t n_queries = 0;
  for (const HomeToken& t : tokens_) n_queries += t.query ? 1 : 0;
  k32_.resize(tokens_.size() * model.n_kv_heads * model.d_k);
  v32_.resize(model.mla() ? 0 : tokens_.size() * model.n_kv_heads * model.d_v);
  q32_.resize(n_queries * model.n_heads * model.d_k);
  std::size_t token = 0, query = 0;
  for (const BatchItem& item : items_) {
    const std::uint32_t n = item.end - item.begin;
    const auto experts = [&](std::size_t first) { return TokenExperts{top_k > 0 ? &keys_[first * top_k] : nullptr, top_k}; };
    qkv_->keys_values(layer.layer, item.request, item.begin, item.end, experts(token), &k32_[token * model.n_kv_heads * model.d_k],
                      model.mla() ? nullptr : &v32_[token * model.n_kv_heads * model.d_v]);
    if (item.query_begin < item.end) {
      const std::uint32_t skipped = item.query_begin - item.begin;
      qkv_->queries(layer.layer, item.request, item.query_begin, item.end, experts(token + skipped), &q32_[query * model.n_heads * model.d_k]);
    }
    token += n;
    query += item.end - item.query_begin;
  }
}

void StepDriver::make_payload(const ReplayLayer& layer, LayerInput& input) {
  fill(layer);
  const ElementFormat format = geometry_->spec().payload.element;
  convert(format, k32_, k_);
  convert(format, v32_, v_);
  convert(format, q32_, q_);
  input.k = k_.data();
  input.v = geometry_->spec().model.mla() ? nullptr : v_.data();
  input.q = q_.data();
  if (layer.shape.sinks) {
    sinks_.resize(geometry_->spec().model.n_heads);
    qkv_->sink_logits(layer.layer, sinks_.data());
    input.sinks = sinks_.data();
  }
}

std::int64_t StepDriver::run(const StepBatch& batch) {
  StepRecord& count = cache_->counters().step;
  const auto sum = [&] {
    return count.t_read + count.t_route + count.t_place + count.t_dispatch + count.t_admit + count.t_attend + count.t_combine + count.t_touch + count.t_replan;
  };
  const std::int64_t before = sum();
  if (replanner_.due(batch.step)) {
    PhaseTimer stall;
    cache_->replan(*geometry_, replanner_.plan(count));
    stall.lap(count.t_replan);
  }
  collect_tokens(batch);
  cache_->begin_step(batch);
  PhaseTimer timer;
  router_.read(batch, items_, *trace_);
  timer.lap(count.t_read);
  for (std::uint32_t l = 0; l < geometry_->layers().size(); ++l) {
    const ReplayLayer& layer = geometry_->layers()[l];
    PhaseTimer phase;
    router_.route(layer);
    if (query_router_ != nullptr) {
      choose_by_query(layer);
    } else {
      router_.keys(layer, keys_);
    }
    phase.lap(count.t_route);
    if (layer.row >= 0) {
      // Expert parallelism would move each token's hidden state to its experts and back, 2 bytes a value.
      const auto routed =
          std::count_if(router_.choice(layer.row).begin(), router_.choice(layer.row).end(), [](std::uint16_t e) { return e != ExpertId::invalid; });
      count.hidden_state_bytes += std::int64_t{2} * 2 * geometry_->spec().model.hidden * routed;
    }
    probe_.mark(layer, tokens_);
    LayerInput input{l,       tokens_, geometry_->needs_experts() ? std::span<const std::uint16_t>(keys_) : std::span<const std::uint16_t>(),
                     nullptr, nullptr, nullptr,
                     nullptr};
    PhaseTimer generate;
    if (payload_) make_payload(layer, input);
    generate.lap(count.t_generate);
    cache_->layer_step(input, output_);
    if (payload_) probe_.measure(layer, tokens_, keys_, q32_, output_);
  }
  cache_->end_step(batch);
  PhaseTimer end;
  router_.end_step();
  replanner_.observe(router_);
  end.lap(count.t_route);
  count.n_steps += 1;
  const std::int64_t step_ns = sum() - before;
  count.t_step += step_ns;
  return step_ns;
}

}  // namespace moekv
