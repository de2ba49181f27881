// Replay: runs the steps of one RunSpec through the sharded caches and returns the measurements.
#pragma once

#include <functional>

#include "comm/transport.hpp"
#include "device/backend.hpp"
#include "engine/records.hpp"
#include "engine/run_spec.hpp"
#include "trace/source.hpp"

namespace moekv {

/// What is done so far; `total_tokens` is the work of the whole run in tokens.
struct Progress {
  std::uint64_t step = 0;
  std::uint64_t done_tokens = 0, total_tokens = 0;
};

struct ReplayHooks {
  std::function<void(const Progress&)> progress;  // on process 0, after each step
  std::function<bool()> interrupted;              // polled after each step on every process; true stops the run (completed = false)
};

/// Collective over `transport`. `trace` is this process's own reader. Throws PointFailure when the point cannot run, UserError when
/// the trace does not fit the specification.
[[nodiscard]] RunOutcome replay(const RunSpec& spec, TraceSource& trace, Backend& backend, Transport& transport, const ReplayHooks& hooks = {});

}  // namespace moekv
