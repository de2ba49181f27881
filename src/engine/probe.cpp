// Draws the sample and fills the probe rows.
#include "engine/probe.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "core/rng.hpp"
#include "core/threads.hpp"
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

constexpr std::uint64_t most_waiting = 64ULL << 20, most_results = 64ULL << 20;  // bytes

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

void Probe::record(const ReplayLayer& layer, const HomeToken& t, std::int64_t history, std::size_t read) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  ProbeRecord row;
  row.request = t.request.value;
  row.layer = layer.layer.value;
  row.position = t.position;
  row.history_tokens = history;
  row.read_tokens = static_cast<std::int64_t>(read);
  row.attn_out_err = row.attn_cosine = row.attn_mass_kept = row.attn_kl = row.topk_recall = row.max_abs_err = nan;
  rows_.push_back(row);
}

void Probe::compare(const ExactResult& truth, const Waiting& w) {
  const Fidelity f = compare_with_exact(truth, geometry_->spec().model, w.query.begin(), w.reads, w.o.data(), geometry_->spec().probe.top_k);
  ProbeRecord& row = rows_[w.row];
  row.attn_out_err = f.out_err;
  row.attn_cosine = f.cosine;
  row.attn_mass_kept = f.mass_kept;
  row.attn_kl = f.kl;
  row.topk_recall = f.topk_recall;
  row.max_abs_err = f.max_abs_err;
}

std::vector<std::shared_ptr<const ExactResult>> Probe::exact_of(std::span<Waiting* const> asked) {
  const ModelShape& model = geometry_->spec().model;
  const ExactQuery& first = asked.front()->query;
  std::vector<float> sinks(first.shape.sinks ? model.n_heads : 0);
  if (first.shape.sinks) qkv_->sink_logits(first.layer, sinks.data());
  const auto experts = history_.find({first.request.value, first.layer.value});
  std::vector<ExactQuery> queries;
  for (Waiting* w : asked) {
    if (w->q.empty()) {
      w->q.resize(std::size_t{model.n_heads} * model.d_k);
      qkv_->queries(w->query.layer, w->query.request, w->query.position, w->query.position + 1, {}, w->q.data());
    }
    ExactQuery query = w->query;
    query.q = w->q.data();
    query.sinks = first.shape.sinks ? sinks.data() : nullptr;
    if (experts != history_.end()) {
      query.experts = experts->second.data();
      query.top_k = geometry_->top_k();
    }
    queries.push_back(query);
  }
  std::vector<std::shared_ptr<const ExactResult>> results;
  for (ExactResult& exact : exact_attention(*qkv_, model, queries, thread_count(geometry_->spec().threads))) {
    results.push_back(std::make_shared<const ExactResult>(std::move(exact)));
    const ExactQuery& query = queries[results.size() - 1];
    if (inputs_ != nullptr) inputs_->add({query.layer, query.request, query.position}, results.back());
  }
  return results;
}

std::shared_ptr<const ExactResult> Probe::kept_exact(const ExactQuery& query) const {
  return inputs_ == nullptr ? nullptr : inputs_->find(KeptInputs::Query{query.layer, query.request, query.position});
}

void Probe::settle_group(std::span<Waiting> group) {
  std::vector<Waiting*> asked;
  std::uint64_t bytes = 0;  // of their results
  const auto ask = [&] {
    if (asked.empty()) return;
    const auto results = exact_of(asked);
    for (std::size_t i = 0; i < asked.size(); ++i) compare(*results[i], *asked[i]);
    asked.clear();
    bytes = 0;
  };
  for (Waiting& w : group) {
    if (const auto kept = kept_exact(w.query)) {
      compare(*kept, w);
      continue;
    }
    asked.push_back(&w);
    bytes += std::uint64_t{geometry_->spec().model.n_heads} * (w.query.position + 1 - w.query.begin()) * sizeof(double);
    if (bytes > most_results) ask();
  }
  ask();
}

bool Probe::settle_some() {
  if (waiting_.empty()) return false;
  const auto differs = [request = waiting_.front().query.request, layer = waiting_.front().query.layer](const Waiting& w) {
    return w.query.request != request || w.query.layer != layer;
  };
  const auto group = std::stable_partition(waiting_.begin(), waiting_.end(), differs);  // the others keep their order
  settle_group({group, waiting_.end()});
  waiting_.erase(group, waiting_.end());
  if (waiting_.empty()) waiting_bytes_ = 0;
  return true;
}

void Probe::measure(const ReplayLayer& layer, std::span<const HomeToken> tokens, std::span<const std::uint16_t> keys, std::span<const float> q,
                    const LayerOutput& output) {
  if (!active_ && !sample_.active()) return;
  const RunSpec& spec = geometry_->spec();
  const ModelShape& model = spec.model;
  const std::size_t q_values = std::size_t{model.n_heads} * model.d_k, o_values = std::size_t{model.n_heads} * model.d_v;
  const bool affine = spec.payload.generator.expert_affinity > 0;
  if (affine && !keys.empty()) remember_keys(layer, tokens, keys);
  // Generated q, k and v know nothing of the routing: how well routed reads serve them would measure the generator.
  const bool meaningless = spec.read.scope == ReadScope::routed && !recorded_ && !affine;

  if (sample_.active()) sample_.begin_layer(layer, tokens);
  std::size_t query = 0;
  for (const HomeToken& t : tokens) {
    if (!t.query) continue;
    const std::size_t index = query++;
    if (!t.probe) continue;
    const std::vector<HeadReads>& reads = output.probe_reads[index];
    const std::vector<std::uint32_t> read = positions_read(reads);
    Waiting w;
    w.query = {layer.layer, layer.shape, t.request, t.position, nullptr, nullptr, static_cast<double>(geometry_->softmax_scale()), nullptr, 0};
    if (!q.empty()) w.q.assign(&q[index * q_values], &q[index * q_values] + q_values);
    if (sample_.contains(t.request, layer.layer)) {
      std::shared_ptr<const ExactResult> truth = kept_exact(w.query);
      Waiting* const asked[] = {&w};
      if (truth == nullptr) truth = exact_of(asked).front();
      sample_.add(t.request, *truth, model.n_heads, w.query.begin(), read);
    }
    if (!active_ || !chosen(t.request, layer.layer, t.position)) continue;
    record(layer, t, t.position + 1 - w.query.begin(), read.size());
    if (meaningless) continue;
    w.o.assign(&output.o[index * o_values], &output.o[index * o_values] + o_values);
    w.reads = reads;
    w.row = rows_.size() - 1;
    waiting_bytes_ += (w.q.size() + w.o.size()) * sizeof(float) + w.reads.size() * read.size() * sizeof(std::uint32_t);
    waiting_.push_back(std::move(w));
  }
  sample_.end_layer();
  if (deferred_ && waiting_bytes_ <= most_waiting) return;
  while (settle_some()) {
  }
}

void Probe::collect(Transport& transport, RunOutcome& out) {
  out.probes = gather_rows(transport, rows_);
  std::sort(out.probes.begin(), out.probes.end(), [](const ProbeRecord& a, const ProbeRecord& b) {
    return std::tuple(a.request, a.layer, a.position) < std::tuple(b.request, b.layer, b.position);
  });
}

}  // namespace moekv
