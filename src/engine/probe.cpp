// Draws the sample and fills the probe rows.
#include "engine/probe.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/rng.hpp"
#include "engine/exact.hpp"

namespace moekv {
namespace {

/// Those that any head read, ascending.
std::vector<std::uint32_t> positions_read(std::span<const HeadReads> reads) {
  std::vector<std::uint32_t> read;
  for (const HeadReads& r : reads) read.insert(read.end(), r.positions.begin(), r.positions.end());
  std::sort(read.begin(), read.end());
  read.erase(std::unique(read.begin(), read.end()), read.end());
  return read;
}

/// Without q and experts.
ExactQuery query_of(const ReplayLayer& layer, const HomeToken& t, std::span<const float> sinks, double scale) {
  return {layer.layer, layer.shape, t.request, t.position, nullptr, sinks.empty() ? nullptr : sinks.data(), scale, nullptr, 0};
}

}  // namespace

Probe::Probe(const Geometry& geometry, QkvSource* qkv, bool payload, bool recorded, std::uint64_t total_queries)
    : geometry_(&geometry), qkv_(qkv), active_(payload && geometry.spec().probe.samples > 0 && total_queries > 0), recorded_(recorded) {
  if (!active_) return;
  const double share = static_cast<double>(geometry.spec().probe.samples) / static_cast<double>(total_queries);
  threshold_ = share >= 1.0 ? ~0ULL : static_cast<std::uint64_t>(share * 0x1p64);
}

bool Probe::chosen(RequestId request, LayerId layer, std::uint32_t position) const {
  return hash_words(geometry_->spec().probe.seed, 0x70U, request.value, layer.value, position) <= threshold_;
}

void Probe::mark(const ReplayLayer& layer, std::span<HomeToken> tokens) const {
  for (HomeToken& t : tokens) t.probe = active_ && t.query && chosen(t.request, layer.layer, t.position);
  if (sample_.active()) sample_.mark(layer, tokens);
}

void Probe::remember_keys(const ReplayLayer& layer, std::span<const HomeToken> tokens, std::span<const std::uint16_t> keys) {
  const std::size_t k = geometry_->top_k();
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::vector<std::uint16_t>& history = history_[{tokens[i].request.value, layer.layer.value}];
    if (history.size() < (tokens[i].position + std::size_t{1}) * k) history.resize((tokens[i].position + std::size_t{1}) * k, ExpertId::invalid);
    std::copy_n(&keys[i * k], k, &history[tokens[i].position * k]);
  }
}

void Probe::record(const ReplayLayer& layer, const HomeToken& t, std::int64_t history, std::size_t read, const Fidelity& f) {
  ProbeRecord row;
  row.request = t.request.value;
  row.layer = layer.layer.value;
  row.position = t.position;
  row.history_tokens = history;
  row.read_tokens = static_cast<std::int64_t>(read);
  row.attn_out_err = f.out_err;
  row.attn_cosine = f.cosine;
  row.attn_mass_kept = f.mass_kept;
  row.attn_kl = f.kl;
  row.topk_recall = f.topk_recall;
  row.max_abs_err = f.max_abs_err;
  rows_.push_back(row);
}

std::shared_ptr<const ExactResult> Probe::exact_of(ExactQuery query, const float* q) {
  const KeptInputs::Query name{query.layer, query.request, query.position};
  if (inputs_ != nullptr) {
    if (std::shared_ptr<const ExactResult> kept = inputs_->find(name)) return kept;
  }
  const ModelShape& model = geometry_->spec().model;
  std::vector<float> made;
  if (q == nullptr) {
    made.resize(std::size_t{model.n_heads} * model.d_k);
    qkv_->queries(query.layer, query.request, query.position, query.position + 1, {}, made.data());
    q = made.data();
  }
  query.q = q;
  auto exact = std::make_shared<const ExactResult>(exact_attention(*qkv_, model, query));
  if (inputs_ != nullptr) inputs_->add(name, exact);
  return exact;
}

void Probe::measure(const ReplayLayer& layer, std::span<const HomeToken> tokens, std::span<const std::uint16_t> keys, std::span<const float> q,
                    const LayerOutput& output) {
  if (!active_ && !sample_.active()) return;
  const RunSpec& spec = geometry_->spec();
  const ModelShape& model = spec.model;
  const bool affine = spec.payload.generator.expert_affinity > 0;
  if (affine && !keys.empty()) remember_keys(layer, tokens, keys);
  std::vector<float> sinks(layer.shape.sinks ? model.n_heads : 0);
  if (layer.shape.sinks) qkv_->sink_logits(layer.layer, sinks.data());
  // Generated q, k and v know nothing of the routing: how well routed reads serve them would measure the generator.
  const bool meaningless = spec.read.scope == ReadScope::routed && !recorded_ && !affine;

  if (sample_.active()) sample_.begin_layer(layer, tokens);
  std::size_t query = 0;
  for (const HomeToken& t : tokens) {
    if (!t.query) continue;
    const std::size_t index = query++;
    if (!t.probe) continue;
    ExactQuery exact = query_of(layer, t, sinks, static_cast<double>(geometry_->softmax_scale()));
    if (affine && !keys.empty()) {
      exact.experts = history_[{t.request.value, layer.layer.value}].data();
      exact.top_k = geometry_->top_k();
    }
    const std::vector<HeadReads>& reads = output.probe_reads[index];
    const std::vector<std::uint32_t> read = positions_read(reads);
    const bool in_sample = sample_.contains(t.request, layer.layer);
    std::shared_ptr<const ExactResult> truth;
    if (in_sample || !meaningless) truth = exact_of(exact, q.empty() ? nullptr : &q[index * model.n_heads * model.d_k]);
    if (in_sample) sample_.add(t.request, *truth, model.n_heads, exact.begin(), read);
    if (!active_ || !chosen(t.request, layer.layer, t.position)) continue;
    Fidelity f;
    if (meaningless) {
      const double nan = std::numeric_limits<double>::quiet_NaN();
      f = {nan, nan, nan, nan, nan, nan};
    } else {
      f = compare_with_exact(*truth, model, exact.begin(), reads, &output.o[index * model.n_heads * model.d_v], spec.probe.top_k);
    }
    record(layer, t, t.position + 1 - exact.begin(), read.size(), f);
  }
  sample_.end_layer();
}

void Probe::collect(Transport& transport, RunOutcome& out) const {
  for (const auto& part : transport.gather(std::as_bytes(std::span(rows_)))) {
    const std::size_t n = part.size() / sizeof(ProbeRecord);
    const std::size_t first = out.probes.size();
    out.probes.resize(first + n);
    if (n > 0) std::memcpy(static_cast<void*>(&out.probes[first]), part.data(), part.size());
  }
  std::sort(out.probes.begin(), out.probes.end(), [](const ProbeRecord& a, const ProbeRecord& b) {
    return std::tuple(a.request, a.layer, a.position) < std::tuple(b.request, b.layer, b.position);
  });
}

}  // namespace moekv
