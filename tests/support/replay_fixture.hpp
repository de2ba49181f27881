// A small replay for tests: random routing and random q, k, v that need no file, run through the real engine, on any transport.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/transport.hpp"
#include "core/rng.hpp"
#include "device/backend.hpp"
#include "engine/batcher.hpp"
#include "engine/laws.hpp"
#include "engine/step_driver.hpp"
#include "rules/codec/element.hpp"

namespace moekv::testing {

/// Uniform random experts, distinct in a token; every row a hash of (seed, request, position, layer).
class RandomTrace : public TraceSource {
 public:
  RandomTrace(const ModelShape& model, std::vector<RequestInfo> requests, std::uint64_t seed) : requests_(std::move(requests)), seed_(seed) {
    info_.path = "random";
    info_.level = RoutingLevel::weights;
    info_.n_experts = model.gate.n_experts;
    info_.top_k = model.gate.top_k;
    for (std::uint16_t l = 0; l < model.n_layers(); ++l) {
      if (model.layers[l].moe) info_.moe_layers.push_back(l);
    }
  }
  const TraceInfo& info() const override { return info_; }
  std::uint32_t n_requests() const override { return static_cast<std::uint32_t>(requests_.size()); }
  RequestInfo request(RequestId r) const override { return requests_[r.value]; }
  /// Gives logits from now on: the recorded experts have the largest ones.
  void add_logits() { info_.level = RoutingLevel::logits; }
  void read(RequestId r, std::uint32_t begin, std::uint32_t end, std::uint32_t layer_begin, std::uint32_t layer_end, WantLogits want,
            RoutingRows& out) override {
    out.begin = begin;
    out.end = end;
    out.layer_begin = layer_begin;
    out.layer_end = layer_end;
    out.ids.clear();
    out.logits.clear();
    for (std::uint32_t p = begin; p < end; ++p) {
      for (std::uint32_t l = layer_begin; l < layer_end; ++l) {
        const std::size_t first = out.ids.size();
        for (std::uint32_t salt = 0; out.ids.size() < first + info_.top_k; ++salt) {
          const auto e = static_cast<std::uint16_t>(hash_words(seed_, r.value, p, l, salt) % info_.n_experts);
          if (std::find(out.ids.begin() + static_cast<std::ptrdiff_t>(first), out.ids.end(), e) == out.ids.end()) out.ids.push_back(e);
        }
        if (drop_every != 0 && p % drop_every == 1) std::fill(out.ids.begin() + static_cast<std::ptrdiff_t>(first), out.ids.end(), ExpertId::invalid);
      }
    }
    out.weights.assign(out.ids.size(), 1.0F / static_cast<float>(info_.top_k));
    if (want == WantLogits::yes && info_.level == RoutingLevel::logits) make_logits(r, out);
  }
  std::uint32_t drop_every = 0;  // tokens without any expert: positions = 1 modulo this

 private:
  void make_logits(RequestId r, RoutingRows& out) const {
    const std::size_t rows = out.ids.size() / info_.top_k, layers = out.layer_end - out.layer_begin;
    for (std::size_t i = 0; i < rows; ++i) {
      for (std::uint32_t e = 0; e < info_.n_experts; ++e) {
        out.logits.push_back(
            uniform_float(static_cast<std::uint32_t>(hash_words(seed_, 99, r.value, out.begin + i / layers, out.layer_begin + i % layers, e))));
      }
      for (std::uint32_t j = 0; j < info_.top_k; ++j) {
        if (const std::uint16_t e = out.ids[i * info_.top_k + j]; e != ExpertId::invalid) out.logits[i * info_.n_experts + e] += 1.0F;
      }
    }
  }
  TraceInfo info_;
  std::vector<RequestInfo> requests_;
  std::uint64_t seed_;
};

/// Independent uniform values in [-1, 1) with a few large keys, so that softmax is neither flat nor one-hot.
class RandomQkv : public QkvSource {
 public:
  /// `rounded`: values that bf16 holds exactly.
  RandomQkv(const ModelShape& model, std::uint64_t seed, bool rounded = false) : model_(model), seed_(seed), rounded_(rounded) {}
  void keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts, float* k, float* v) override {
    fill(k, 1, layer, r, begin, end, model_.n_kv_heads * model_.d_k);
    if (v != nullptr) fill(v, 2, layer, r, begin, end, model_.n_kv_heads * model_.d_v);
  }
  void queries(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts, float* q) override {
    fill(q, 3, layer, r, begin, end, model_.n_heads * model_.d_k);
  }
  void sink_logits(LayerId layer, float* out) override { fill(out, 4, layer, RequestId(0), 0, 1, model_.n_heads); }

 private:
  void fill(float* to, std::uint32_t kind, LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, std::uint32_t width) const {
    for (std::uint32_t p = begin; p < end; ++p) {
      const std::uint64_t row = hash_words(seed_, kind, layer.value, r.value, p);
      for (std::uint32_t i = 0; i < width; ++i, ++to) {
        *to = 4.0F * uniform_float(static_cast<std::uint32_t>(mix64(row + i))) - 2.0F;
        if (rounded_) *to = float_from_bf16(bf16_from_float(*to));
      }
    }
  }
  ModelShape model_;
  std::uint64_t seed_;
  bool rounded_;
};

inline ModelShape gqa_model(std::uint32_t n_layers = 3) {
  ModelShape m;
  m.name = "test-gqa";
  m.layers.resize(n_layers);
  m.hidden = 64;
  m.n_heads = 8;
  m.n_kv_heads = 4;
  m.d_k = m.d_v = 16;
  m.gate.n_experts = 12;
  m.gate.top_k = 3;
  return m;
}

inline ModelShape mla_model() {
  ModelShape m = gqa_model();
  m.name = "test-mla";
  m.n_kv_heads = 1;
  m.latent = {24, 8};
  m.d_k = 32;
  m.d_v = 24;
  m.softmax_scale = 0.2;
  return m;
}

inline std::vector<RequestInfo> requests_of(std::vector<std::pair<std::uint32_t, std::uint32_t>> lengths) {
  std::vector<RequestInfo> out;
  for (const auto& [prompt, output] : lengths) {
    RequestInfo r;
    r.prompt_tokens = prompt;
    r.output_tokens = output;
    out.push_back(r);
  }
  return out;
}

/// A specification whose every query is probed, fp32 payload, four ranks.
inline RunSpec small_spec(ModelShape model = gqa_model()) {
  RunSpec spec;
  spec.model = std::move(model);
  spec.cluster.ranks = 4;
  spec.payload.element = ElementFormat::fp32;
  spec.compression.k = codec::Fp32{};
  spec.compression.v = codec::Fp32{};
  spec.page.slots = 8;
  spec.prefill.queries = PrefillQueries::all;
  spec.prefill.chunk_tokens = 24;
  spec.batch.concurrency = 3;
  spec.probe.samples = 1U << 30;
  spec.eviction.protect = {2, 4};
  spec.metrics.window_steps = 16;
  return spec;
}

inline void use_expert_layout(RunSpec& spec, ShardMap map = ShardMap::expert_affine) {
  spec.placement.layout = Layout::expert;
  spec.placement.map = map;
}

inline const std::vector<RequestInfo>& default_requests() {
  static const std::vector<RequestInfo> requests = requests_of({{40, 9}, {0, 25}, {57, 1}, {13, 20}, {1, 1}});
  return requests;
}

/// Called after each step, before its evictions are executed.
using AfterStep = std::function<void(const StepBatch&, ShardedCache&, StepDriver&)>;

/// Runs the engine; the outcome is complete on process 0.
inline RunOutcome run_replay(const RunSpec& spec, Transport& transport, Backend& backend, TraceSource& trace, const AfterStep& after_step = {}) {
  Geometry geometry(spec, trace.info(), spec.cluster.ranks, plan_experts(spec, trace, spec.cluster.ranks, transport));
  Batcher batcher(geometry, trace);
  ShardedCache cache(geometry, backend, transport, trace.n_requests());
  RandomQkv qkv(spec.model, 7, spec.payload.element == ElementFormat::bf16);
  StepDriver driver(geometry, trace, &qkv, backend.has_payload(), true, cache, batcher.total_queries() * geometry.layers().size());
  std::uint64_t step = 0;
  for (; !batcher.done(); ++step) {
    if (step > 0 && step % spec.metrics.window_steps == 0) {
      cache.execute_due();
      cache.take_levels();
      cache.counters().flush(step);
    }
    const StepBatch batch = batcher.next();
    driver.run(batch);
    if (after_step) after_step(batch, cache, driver);
    auto model = cache.counters().take_step_model();
    transport.allreduce_max(model);
    std::int64_t total = 0;
    for (const std::int64_t t : model) total += t;
    batcher.finish_step(batch, total, 0);
  }
  cache.execute_due();
  cache.take_levels();
  cache.counters().flush(step);
  RunOutcome out;
  cache.counters().collect(transport, out);
  driver.probe().collect(transport, out);
  out.requests = batcher.records();
  if (transport.process() == 0) out.violations = check_laws(spec, out);
  return out;
}

inline RunOutcome run_replay(const RunSpec& spec, const std::vector<RequestInfo>& requests = default_requests(),
                             const std::string& backend = "host") {
  RandomTrace trace(spec.model, requests, 11);
  const auto transport = make_local_transport();
  const auto device = make_backend(backend, 0);
  return run_replay(spec, *transport, *device, trace);
}

inline StepRecord totals(const RunOutcome& out) {
  StepRecord sum;
  for (const StepRecord& s : out.steps) combine_rows(sum, s);
  return sum;
}

}  // namespace moekv::testing
