// Traces and backends by what they are made from, and the one call that runs a point.
#include "app/point.hpp"

#include <algorithm>

#include "app/open_trace.hpp"
#include "comm/mpi_session.hpp"
#include "config/schema.hpp"
#include "engine/batcher.hpp"

namespace moekv {
namespace {

constexpr std::size_t most_traces = 4;

/// Equal for specifications whose trace is the same.
std::string trace_key(const RunSpec& spec) {
  if (!spec.trace.path.empty()) return spec.trace.path;
  std::string key;
  for (const KeyValue& k : resolved_keys(spec)) {
    if (k.path.starts_with("trace.synthetic.") || k.path.starts_with("model.")) key += k.path + ": " + k.value + "\n";
  }
  return key;
}

}  // namespace

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

PointMachinery PointCache::prepare(const RunSpec& spec, int n_processes) {
  TraceSource& trace = trace_of(spec);
  auto it = std::find_if(devices_.begin(), devices_.end(), [&](const Device& d) { return d.name == spec.backend && d.threads == spec.threads; });
  if (it == devices_.end()) it = devices_.insert(it, {spec.backend, spec.threads, make_backend(spec.backend, spec.threads)});
  const Geometry geometry(spec, trace.info(), spec.cluster.ranks > 0 ? spec.cluster.ranks : static_cast<std::uint32_t>(n_processes));
  (void)Batcher(geometry, trace);
  return {&trace, it->backend.get()};
}

void PointCache::clear() {
  traces_.clear();
  devices_.clear();
}

std::unique_ptr<Transport> own_transport(const RunSpec& spec, Transport& job) {
  if (spec.transport == "mpi" && !MpiSession::launched_by_launcher()) {
    throw UserError(spec.config_path, "transport: mpi needs a launcher", "start with mpirun -n N moekv run ..., or use transport: auto");
  }
  if (spec.transport == "nccl") return make_nccl_transport(job);
  const bool local = spec.transport == "local" || (spec.transport == "auto" && job.n_processes() == 1);
  return local ? make_local_transport() : nullptr;
}

RunOutcome run_point(const RunSpec& spec, const PointMachinery& machinery, Transport& transport, const ReplayHooks& hooks) {
  struct Release {
    Backend& backend;
    ~Release() { backend.release_pools(); }
  } const release{*machinery.backend};
  return replay(spec, *machinery.trace, *machinery.backend, transport, hooks);
}

void add_point_facts(const RunSpec& spec, const TraceInfo& trace, Provenance& provenance) {
  add_trace_facts(trace, provenance);
  for (KeyValue& key : resolved_keys(spec))
    provenance.parameters.push_back({std::move(key.path), std::move(key.value), std::move(key.unit), std::move(key.doc)});
}

}  // namespace moekv
