// The trace that a configuration names: a native file, or the synthetic generator.
#pragma once

#include <memory>

#include "core/error.hpp"
#include "engine/run_spec.hpp"
#include "trace/source.hpp"
#include "trace/synthetic.hpp"

namespace moekv {

/// UserError for a request trace, which has no routing to replay.
[[nodiscard]] inline std::unique_ptr<TraceSource> open_trace(const RunSpec& spec) {
  if (spec.trace.path.empty()) return make_synthetic_trace(spec.trace.synthetic, spec.model);
  auto trace = open_native_trace(spec.trace.path);
  if (!trace->info().has_routing()) {
    throw UserError(spec.trace.path, "is a request trace: it has no routing rows to replay", "join it to a routing trace first: moekv trace join");
  }
  return trace;
}

}  // namespace moekv
