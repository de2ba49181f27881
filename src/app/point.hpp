// What runs one configuration, for moekv run and for every point of a sweep.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/transport.hpp"
#include "device/backend.hpp"
#include "engine/kept_inputs.hpp"
#include "engine/plan_cost.hpp"
#include "engine/replay.hpp"
#include "model/decoder.hpp"
#include "model/trace_recorder.hpp"
#include "results/provenance.hpp"
#include "trace/kept_bytes.hpp"
#include "trace/qkv.hpp"
#include "trace/source.hpp"

namespace moekv {

/// What a replay needs besides its specification.
struct PointMachinery {
  TraceSource* trace = nullptr;
  Backend* backend = nullptr;
  const Decoder* decoder = nullptr;  // of a model in the loop, whose trace is a TokenSource
  KnownCosts* costs = nullptr;
  std::shared_ptr<QkvSource> generator;  // null where q, k and v are not generated
  std::shared_ptr<KeptInputs> inputs;    // beside a generator: what it made for other points; null where there are none
};

/// Whether points that are still to come ask for the same q, k and v.
enum class AskedAgain : std::uint8_t { no, yes };

/// Keeps backends, the latest traces, generators and the latest model alive from point to point.
class PointCache {
 public:
  PointCache();
  ~PointCache() { kept_->release_by({}); }
  PointCache(const PointCache&) = delete;
  PointCache& operator=(const PointCache&) = delete;
  /// Trace, backend and model of `spec`; valid until the next call. No communication. Throws what a configuration can fail with before it runs.
  [[nodiscard]] PointMachinery prepare(const RunSpec& spec, int n_processes, AskedAgain inputs = AskedAgain::no);
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
  struct Generator {
    std::string key;
    std::shared_ptr<QkvSource> source;
    std::shared_ptr<KeptInputs> inputs;
  };
  [[nodiscard]] const Generator& generator_of(const RunSpec& spec, AskedAgain inputs);
  /// What others than the latest generator keep goes first, then what the next points would have of the latest.
  bool release(KeptBytes::For purpose);

  std::shared_ptr<KeptBytes> kept_;    // of all generators
  std::vector<Trace> traces_;          // the latest last
  std::vector<Generator> generators_;  // the same
  std::vector<Device> devices_;
  KnownCosts costs_;
  std::string decoder_key_;  // file and where it computes
  std::unique_ptr<Decoder> decoder_;
};

/// Collective. The transport that `spec` asks for; null for the job's. One that sends from GPU to GPU uses `job` and must end before it.
/// UserError where the job has not what is asked for.
[[nodiscard]] std::unique_ptr<Transport> own_transport(const RunSpec& spec, Transport& job);

/// Collective. Runs the point, a replay or a scored run of a model; its pools are given back, also after a failure. `recorder` writes down what a
/// model does, and is completed with the run; null = nothing is written.
[[nodiscard]] RunOutcome run_point(const RunSpec& spec, const PointMachinery& machinery, Transport& transport, const ReplayHooks& hooks,
                                   TraceRecorder* recorder = nullptr);

/// What the point adds to the provenance of its process: trace and model facts and every configuration key.
void add_point_facts(const RunSpec& spec, const PointMachinery& machinery, Provenance& provenance);

}  // namespace moekv
