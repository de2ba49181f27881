// The trace that a configuration names: a native file, or the synthetic generator.
#pragma once

#include <memory>

#include "engine/run_spec.hpp"
#include "trace/source.hpp"
#include "trace/synthetic.hpp"

namespace moekv {

[[nodiscard]] inline std::unique_ptr<TraceSource> open_trace(const RunSpec& spec) {
  return spec.trace.path.empty() ? make_synthetic_trace(spec.trace.synthetic, spec.model) : open_native_trace(spec.trace.path);
}

}  // namespace moekv
