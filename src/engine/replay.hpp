// Replay: runs the steps of one RunSpec through the sharded caches and returns the measurements.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "comm/transport.hpp"
#include "device/backend.hpp"
#include "engine/access_log.hpp"
#include "engine/driver.hpp"
#include "engine/records.hpp"
#include "engine/run_spec.hpp"
#include "trace/source.hpp"

namespace moekv {

class KeptInputs;
class StateStream;

/// What is done so far; `total_tokens` is the work of the whole run in tokens, `waiting_probes` the queries of this process whose fidelity is
/// measured after the last step.
struct Progress {
  std::uint64_t step = 0;
  std::uint64_t done_tokens = 0, total_tokens = 0, waiting_probes = 0;
};

/// A run that was interrupted between two steps, or while it measured its probes.
struct StoppedRun {
  std::uint64_t step = 0;                  // steps that are done
  std::int64_t wall_ns = 0;                // this run and those that it went on from
  std::function<void(StateStream&)> save;  // writes this process's part of the state
};

struct ReplayHooks {
  std::function<void(const Progress&)> progress;  // on process 0, after each step, and while probes are measured
  // The access log, on process 0, after each step: events of all shards in the order of the log. Set on every process or on none; costs a
  // collective a step.
  std::function<void(std::uint64_t step, std::span<const AccessEvent>)> accesses;
  std::uint32_t attention_groups = 0;  // (request, layer) pairs whose attention rows follow, the same on every process
  std::function<void(std::span<const AttentionRow>, std::span<const AttentionCell>)> attention;  // on process 0, after each step
  // Steps [profile_begin, profile_end), or what of them the run has, lie between these two calls, on every process.
  std::uint64_t profile_begin = 0, profile_end = 0;
  std::function<void()> profile_start, profile_stop;
  std::function<bool(const Progress&)>
      interrupted;  // polled on every process, after each step and between probes; true stops the run (completed = false)
  std::function<void(const StoppedRun&)> stopped;    // on every process, where the run was interrupted and checkpoint_refusal is null
  std::shared_ptr<QkvSource> generator;              // of the specification, where q, k and v are generated; null: the run makes one
  std::shared_ptr<KeptInputs> inputs;                // of all runs with that generator; null: nothing is kept for others
  StateStream* resume = nullptr;  // on every process or none: what `save` wrote for the same specification, trace and number of processes
};

/// Whether q, k and v are the trace's own.
[[nodiscard]] bool uses_recorded_qkv(const RunSpec& spec, const TraceInfo& trace);

/// Why what the run accesses depends on what it evicted; empty where it does not, and offline bounds are valid.
[[nodiscard]] std::string feedback_of(const RunSpec& spec);

/// Why a run cannot be saved between two steps; null where it can.
[[nodiscard]] const char* checkpoint_refusal(const RunSpec& spec, const Backend& backend);

/// Collective over `transport`. `trace` is this process's own reader. Throws PointFailure when the point cannot run, UserError when
/// the trace does not fit the specification. `make_driver` gives another driver than the trace: a model in the loop.
[[nodiscard]] RunOutcome replay(const RunSpec& spec, TraceSource& trace, Backend& backend, Transport& transport, const ReplayHooks& hooks = {},
                                const DriverFactory& make_driver = {});

}  // namespace moekv
