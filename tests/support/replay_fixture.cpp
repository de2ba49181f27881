// The random trace and payload, and the loop of a replay without files.
#include "support/replay_fixture.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "core/rng.hpp"
#include "engine/batcher.hpp"
#include "engine/laws.hpp"
#include "rules/codec/element.hpp"

namespace moekv::testing {

RandomTrace::RandomTrace(const ModelShape& model, std::vector<RequestInfo> requests, std::uint64_t seed)
    : requests_(std::move(requests)), seed_(seed) {
  info_.path = "random";
  info_.level = RoutingLevel::weights;
  info_.n_experts = model.gate.n_experts;
  info_.top_k = model.gate.top_k;
  for (std::uint32_t l = 0; l < model.n_layers(); ++l) {
    if (model.layers[l].moe) info_.moe_layers.push_back(static_cast<std::uint16_t>(l));
  }
}

void RandomTrace::read(RequestId r, std::uint32_t begin, std::uint32_t end, std::uint32_t layer_begin, std::uint32_t layer_end, WantLogits want,
                       RoutingRows& out) {
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

void RandomTrace::make_logits(RequestId r, RoutingRows& out) const {
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

void RandomQkv::keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts, float* k, float* v) {
  fill(k, 1, layer, r, begin, end, model_.n_kv_heads * model_.d_k);
  if (v != nullptr) fill(v, 2, layer, r, begin, end, model_.n_kv_heads * model_.d_v);
}

void RandomQkv::queries(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts, float* q) {
  fill(q, 3, layer, r, begin, end, model_.n_heads * model_.d_k);
}

void RandomQkv::sink_logits(LayerId layer, float* out) { fill(out, 4, layer, RequestId(0), 0, 1, model_.n_heads); }

void RandomQkv::fill(float* to, std::uint32_t kind, LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, std::uint32_t width) const {
  for (std::uint32_t p = begin; p < end; ++p) {
    const std::uint64_t row = hash_words(seed_, kind, layer.value, r.value, p);
    for (std::uint32_t i = 0; i < width; ++i, ++to) {
      *to = 4.0F * uniform_float(static_cast<std::uint32_t>(mix64(row + i))) - 2.0F;
      if (rounded_) *to = float_from_bf16(bf16_from_float(*to));
    }
  }
}

ModelShape gqa_model(std::uint32_t n_layers) {
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

ModelShape mla_model() {
  ModelShape m = gqa_model();
  m.name = "test-mla";
  m.n_kv_heads = 1;
  m.latent = {24, 8};
  m.d_k = 32;
  m.d_v = 24;
  m.softmax_scale = 0.2;
  return m;
}

std::vector<RequestInfo> requests_of(const std::vector<std::pair<std::uint32_t, std::uint32_t>>& lengths) {
  std::vector<RequestInfo> out;
  for (const auto& [prompt, output] : lengths) {
    RequestInfo r;
    r.prompt_tokens = prompt;
    r.output_tokens = output;
    r.arrival_ns = 1000 * static_cast<std::int64_t>(out.size());
    out.push_back(r);
  }
  return out;
}

RunSpec small_spec(ModelShape model) {
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

void use_expert_layout(RunSpec& spec, ShardMap map) {
  spec.placement.layout = Layout::expert;
  spec.placement.map = map;
}

const std::vector<RequestInfo>& default_requests() {
  static const std::vector<RequestInfo> requests = requests_of({{40, 9}, {0, 25}, {57, 1}, {13, 20}, {1, 1}});
  return requests;
}

RunOutcome run_replay(const RunSpec& spec, Transport& transport, Backend& backend, TraceSource& trace, const AfterStep& after_step) {
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
  while (driver.probe().settle_some()) {
  }
  RunOutcome out;
  cache.counters().collect(transport, out);
  driver.probe().collect(transport, out);
  out.requests = batcher.records();
  if (transport.process() == 0) out.violations = check_laws(spec, out);
  return out;
}

RunOutcome run_replay(const RunSpec& spec, const std::vector<RequestInfo>& requests, const std::string& backend) {
  RandomTrace trace(spec.model, requests, 11);
  const auto transport = make_local_transport();
  const auto device = make_backend(backend, 0);
  return run_replay(spec, *transport, *device, trace);
}

StepRecord totals(const RunOutcome& out) {
  StepRecord sum;
  for (const StepRecord& s : out.steps) combine_rows(sum, s);
  return sum;
}

void expect_dense(const RunOutcome& out, double tolerance) {
  ASSERT_FALSE(out.probes.empty());
  for (const ProbeRecord& p : out.probes) {
    ASSERT_EQ(p.read_tokens, p.history_tokens) << "request " << p.request << " layer " << p.layer << " position " << p.position;
    ASSERT_NEAR(p.attn_mass_kept, 1.0, 1e-12);
    ASSERT_LE(p.attn_out_err, tolerance) << "request " << p.request << " layer " << p.layer << " position " << p.position;
  }
  EXPECT_TRUE(out.violations.empty()) << out.violations.front();
}

}  // namespace moekv::testing
