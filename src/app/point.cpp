// Traces and backends by what they are made from, and the one call that runs a point.
#include "app/point.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "app/open_trace.hpp"
#include "comm/mpi_session.hpp"
#include "config/schema.hpp"
#include "engine/batcher.hpp"
#include "model/model_driver.hpp"
#include "trace/native_file.hpp"

namespace moekv {
namespace {

constexpr std::size_t most_traces = 4, most_generators = 8;

/// Equal for specifications whose trace is the same.
std::string trace_key(const RunSpec& spec) {
  if (!spec.model.path.empty()) return fmt::format("{}\n{}\n{}", spec.trace.tokens, spec.trace.prompt_tokens, spec.model.path);
  if (!spec.trace.path.empty()) return spec.trace.path;
  std::string key;
  for (const KeyValue& k : resolved_keys(spec, {"trace.synthetic.", "model."})) key += k.path + ": " + k.value + "\n";
  return key;
}

}  // namespace

PointCache::PointCache() : kept_(std::make_shared<KeptBytes>()) {
  kept_->release_by([this](KeptBytes::For purpose) { return release(purpose); });
}

bool PointCache::release(KeptBytes::For purpose) {
  if (generators_.size() > 1) {
    generators_.erase(generators_.begin());
    return true;
  }
  const bool may = purpose == KeptBytes::For::requests_in_flight && !generators_.empty() && generators_.back().inputs != nullptr;
  return may && generators_.back().inputs->drop_latest();
}

TraceSource& PointCache::trace_of(const RunSpec& spec) {
  const std::string key = trace_key(spec);
  const auto it = std::find_if(traces_.begin(), traces_.end(), [&](const Trace& t) { return t.key == key; });
  if (it != traces_.end()) {
    std::rotate(it, it + 1, traces_.end());
  } else {
    if (traces_.size() == most_traces) traces_.erase(traces_.begin());
    traces_.push_back({key, open_trace(spec)});
  }
  return *traces_.back().source;
}

const PointCache::Generator& PointCache::generator_of(const RunSpec& spec, AskedAgain inputs) {
  std::string key = fmt::format("{}\n", spec.threads);
  for (const KeyValue& k : resolved_keys(spec, {"payload.generator.", "model."})) key += k.path + ": " + k.value + "\n";
  const auto it = std::find_if(generators_.begin(), generators_.end(), [&](const Generator& g) { return g.key == key; });
  if (it != generators_.end()) {
    std::rotate(it, it + 1, generators_.end());
  } else {
    if (generators_.size() == most_generators) generators_.erase(generators_.begin());
    generators_.push_back({key, make_qkv_generator(spec.payload.generator, spec.model, spec.threads, kept_), nullptr});
  }
  Generator& generator = generators_.back();
  if (generator.inputs == nullptr && inputs == AskedAgain::yes) generator.inputs = std::make_shared<KeptInputs>(kept_);
  return generator;
}

PointMachinery PointCache::prepare(const RunSpec& spec, int n_processes, AskedAgain inputs) {
  TraceSource& trace = trace_of(spec);
  auto it = std::find_if(devices_.begin(), devices_.end(), [&](const Device& d) { return d.name == spec.backend && d.threads == spec.threads; });
  if (it == devices_.end()) it = devices_.insert(it, {spec.backend, spec.threads, make_backend(spec.backend, spec.threads)});
  it->backend->use_graphs(spec.graphs);
  const Geometry geometry(spec, trace.info(), ranks_of(spec, n_processes));
  (void)Batcher(geometry, trace);
  const std::string decoder_key = fmt::format("{}\n{}", spec.model.path, spec.backend == "cuda" ? "cuda" : "host");
  if (!spec.model.path.empty() && decoder_key != decoder_key_) {
    decoder_ = nullptr;  // the old weights go before the new ones come
    decoder_ = std::make_unique<Decoder>(ModelFile(spec.model.path), make_gemm(spec.backend));
    decoder_key_ = decoder_key;
  }
  PointMachinery made{&trace, it->backend.get(), spec.model.path.empty() ? nullptr : decoder_.get(), &costs_, nullptr, nullptr};
  if (it->backend->has_payload() && spec.model.path.empty() && !uses_recorded_qkv(spec, trace.info())) {
    const Generator& generator = generator_of(spec, inputs);
    made.generator = generator.source;
    made.inputs = generator.inputs;
  }
  return made;
}

void PointCache::clear() {
  traces_.clear();
  generators_.clear();
  devices_.clear();
  decoder_ = nullptr;
  decoder_key_.clear();
  costs_ = {};
}

std::unique_ptr<Transport> own_transport(const RunSpec& spec, Transport& job) {
  if (spec.transport == "mpi" && !MpiSession::launched_by_launcher()) {
    throw UserError(spec.config_path, "transport: mpi needs a launcher", "start with mpirun -n N moekv run ..., or use transport: auto");
  }
  if (spec.transport == "nccl") return make_nccl_transport(job);
  if (spec.transport == "ipc") return make_ipc_transport(job);
  const bool local = spec.transport == "local" || (spec.transport == "auto" && job.n_processes() == 1);
  return local ? make_local_transport() : nullptr;
}

RunOutcome run_point(const RunSpec& spec, const PointMachinery& machinery, Transport& transport, const ReplayHooks& hooks, TraceRecorder* recorder) {
  struct Release {
    Backend& backend;
    ~Release() { backend.release_pools(); }
  } const release{*machinery.backend};
  DriverFactory driver;
  if (machinery.decoder != nullptr)
    driver = model_driver(spec, *machinery.decoder, dynamic_cast<const TokenSource&>(*machinery.trace), transport, recorder);
  ReplayHooks with_inputs = hooks;
  with_inputs.generator = machinery.generator;
  with_inputs.inputs = machinery.inputs;
  RunOutcome outcome = replay(spec, *machinery.trace, *machinery.backend, transport, with_inputs, driver);
  if (recorder != nullptr && outcome.completed) recorder->finish();
  if (transport.process() == 0 && outcome.completed) {
    add_predictions((*machinery.costs)(spec, *machinery.trace, ranks_of(spec, transport.n_processes())), spec, outcome.summary);
  }
  return outcome;
}

void add_point_facts(const RunSpec& spec, const PointMachinery& machinery, Provenance& provenance) {
  add_trace_facts(machinery.trace->info(), provenance);
  if (const std::string device = machinery.backend->device(); !device.empty()) provenance.facts.set("device", device);
  if (!spec.model.path.empty()) {
    provenance.facts.set("model_path", spec.model.path);
    provenance.facts.set("model_digest", native::file_digest(spec.model.path));
  }
  for (KeyValue& key : resolved_keys(spec))
    provenance.parameters.push_back({std::move(key.path), std::move(key.value), std::move(key.unit), std::move(key.doc)});
}

}  // namespace moekv
