// The phases of a step that do not depend on who drives it.
#include "engine/driver.hpp"

#include <algorithm>
#include <cstring>

#include "core/error.hpp"
#include "core/threads.hpp"
#include "device/profile.hpp"
#include "engine/phase_timer.hpp"
#include "rules/codec/element.hpp"

namespace moekv {
namespace {

template <std::uint16_t (*from_float)(float)>
void narrow(std::span<const float> from, std::byte* to, int n_threads) {
  constexpr std::size_t worth_threads = 1U << 16;  // values
  auto* out = reinterpret_cast<std::uint16_t*>(to);
  const float* in = from.data();
#pragma omp parallel for simd schedule(static) num_threads(n_threads) if (parallel : from.size() > worth_threads)
  for (std::size_t i = 0; i < from.size(); ++i) out[i] = from_float(in[i]);
}

}  // namespace

Driver::Driver(Geometry& geometry, const TraceInfo& trace, RowsCome rows, QkvSource* qkv, bool payload, bool recorded, ShardedCache& cache,
               std::uint64_t total_queries)
    : geometry_(&geometry),
      cache_(&cache),
      payload_(payload),
      router_(geometry, trace, rows, cache.counters(), cache.transport(), cache.backend()),
      replanner_(geometry, trace, cache.transport(), cache.counters().step),
      probe_(geometry, qkv, payload, recorded, total_queries) {
  const RunSpec& spec = geometry.spec();
  if (spec.routing.key != RoutingKey::query_router) return;
  if (!payload)
    throw UserError(spec.config_path, "routing.key 'query_router' needs queries, which backend 'count' does not have",
                    "use backend: host, or another key");
  query_router_ = std::make_unique<QueryRouter>(spec.routing.query_router_path, spec.seed, spec.model, geometry.n_experts(), geometry.top_k());
}

void Driver::collect_tokens(const StepBatch& batch) {
  items_.clear();
  for (const BatchItem& item : batch.items) {
    if (item.home >= cache_->first_rank() && item.home < cache_->end_rank()) items_.push_back(item);
  }
  const auto before = [](const BatchItem& a, const BatchItem& b) { return a.home < b.home; };
  if (!std::is_sorted(items_.begin(), items_.end(), before)) std::stable_sort(items_.begin(), items_.end(), before);
  tokens_.clear();
  for (const BatchItem& item : items_) {
    for (std::uint32_t p = item.begin; p < item.end; ++p)
      tokens_.push_back({item.request, p, item.home, p >= item.query_begin, false, p >= item.observe_begin});
  }
  StepRecord& count = cache_->counters().step;
  for (const BatchItem& item : items_) {
    (item.prefill() ? count.prefill_tokens : count.decode_tokens) += item.end - item.begin;
    count.tokens += item.end - item.begin;
  }
}

void Driver::choose_by_query(std::span<const float> q) {
  keys_.clear();
  query_router_->choose(q, keys_);
}

void Driver::count_hidden_states(const ReplayLayer& layer) {
  if (layer.row < 0) return;
  // Expert parallelism would move each token's hidden state to its experts and back, 2 bytes a value.
  const auto choice = router_.choice(layer.row);
  const auto routed = std::count_if(choice.begin(), choice.end(), [](std::uint16_t e) { return e != ExpertId::invalid; });
  cache_->counters().step.hidden_state_bytes += std::int64_t{2} * 2 * geometry_->spec().model.hidden * routed;
}

void Driver::convert(std::span<const float> from, std::byte* to) const {
  const ElementFormat format = geometry_->spec().payload.element;
  const int n_threads = thread_count(geometry_->spec().threads);
  if (format == ElementFormat::bf16) return narrow<bf16_from_float>(from, to, n_threads);
  if (format == ElementFormat::fp16) return narrow<fp16_from_float>(from, to, n_threads);
  MOEKV_EXPECT(format == ElementFormat::fp32);
  if (!from.empty()) std::memcpy(to, from.data(), from.size_bytes());
}

const std::byte* Driver::convert(std::span<const float> from, std::vector<std::byte>& to) const {
  to.resize(payload_bytes(from.size()));
  convert(from, to.data());
  return to.data();
}

void Driver::make_payload(const ReplayLayer& layer, LayerInput& input) {
  fill(layer);
  input.k = convert(k32_, k_);
  input.v = geometry_->spec().model.mla() ? nullptr : convert(v32_, v_);
  input.q = convert(q32_, q_);
  probe_q_ = q32_;
}

void Driver::run_layer(std::uint32_t index, PhaseTimer& timer) {
  StepRecord& count = cache_->counters().step;
  const ReplayLayer& layer = geometry_->layers()[index];
  PhaseRange range("model");
  enter(layer, timer);
  range.next("route");
  route(layer);
  timer.lap(count.t_route);
  probe_.mark(layer, tokens_);
  LayerInput input;
  input.layer = index;
  input.tokens = tokens_;
  if (geometry_->needs_experts()) input.experts = keys_;
  if (payload_) {
    range.next("generate");
    make_payload(layer, input);
    if (layer.shape.sinks) {
      sinks_.resize(geometry_->spec().model.n_heads);
      sinks(layer, sinks_.data());
      input.sinks = sinks_.data();
    }
    timer.lap(count.t_generate);
  }
  range.next("layer");
  cache_->layer_step(input, output_, timer);
  if (payload_) {
    probe_.measure(layer, tokens_, keys_, probe_q_, output_);
    timer = {};
  }
  range.next("model");
  leave(layer, timer);
}

std::int64_t Driver::run(const StepBatch& batch) {
  StepRecord& count = cache_->counters().step;
  const auto sum = [&] {
    return count.t_read + count.t_route + count.t_place + count.t_dispatch + count.t_admit + count.t_attend + count.t_combine + count.t_touch +
           count.t_replan;
  };
  const std::int64_t before = sum();
  PhaseTimer timer;  // of the whole step: a phase begins where the one before it ended
  if (replanner_.due(batch.step)) {
    const PhaseRange range("replan");
    cache_->replan(*geometry_, replanner_.plan(count));
    timer.lap(count.t_replan);
  }
  {
    const PhaseRange range("read");
    collect_tokens(batch);
    cache_->begin_step(batch);
    begin(batch);
  }
  timer.lap(count.t_read);
  for (std::uint32_t l = 0; l < geometry_->layers().size(); ++l) run_layer(l, timer);
  cache_->end_step(batch, timer);
  router_.end_step();
  replanner_.observe(router_);
  timer.lap(count.t_route);
  finish(batch, timer);
  count.n_steps += 1;
  const std::int64_t step_ns = sum() - before;
  count.t_step += step_ns;
  return step_ns;
}

}  // namespace moekv
