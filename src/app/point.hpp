// What runs one configuration, for moekv run and for every point of a sweep.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/transport.hpp"
#include "device/backend.hpp"
#include "engine/replay.hpp"
#include "results/provenance.hpp"
#include "trace/source.hpp"

namespace moekv {

/// What a replay needs besides its specification.
struct PointMachinery {
  TraceSource* trace = nullptr;
  Backend* backend = nullptr;
};

/// Keeps backends and the latest traces alive from point to point.
class PointCache {
 public:
  /// Trace and backend of `spec`; valid until the next call. No communication. Throws what a configuration can fail with before it runs.
  [[nodiscard]] PointMachinery prepare(const RunSpec& spec, int n_processes);
  /// The trace alone, for predictions.
  [[nodiscard]] TraceSource& trace_of(const RunSpec& spec);
  /// Forgets everything: after a failure nothing is taken over.
  void clear();

 private:
  struct Trace {
    std::string key;
    std::unique_ptr<TraceSource> source;
  };
  struct Device {
    std::string name;
    int threads = 0;
    std::unique_ptr<Backend> backend;
  };
  std::vector<Trace> traces_;  // the latest last
  std::vector<Device> devices_;
};

/// Collective. The transport that `spec` asks for; null for the job's. One that sends from GPU to GPU uses `job` and must end before it.
/// UserError where the job has not what is asked for.
[[nodiscard]] std::unique_ptr<Transport> own_transport(const RunSpec& spec, Transport& job);

/// Collective. Runs the point; its pools are given back, also after a failure.
[[nodiscard]] RunOutcome run_point(const RunSpec& spec, const PointMachinery& machinery, Transport& transport, const ReplayHooks& hooks);

/// What the point adds to the provenance of its process: trace facts and every configuration key.
void add_point_facts(const RunSpec& spec, const TraceInfo& trace, Provenance& provenance);

}  // namespace moekv
