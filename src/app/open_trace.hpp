// What a configuration names as its requests: a native trace, the synthetic generator, or the tokens that a model is scored on.
#pragma once

#include <memory>

#include "core/error.hpp"
#include "engine/run_spec.hpp"
#include "model/token_source.hpp"
#include "trace/source.hpp"
#include "trace/synthetic.hpp"

namespace moekv {

/// UserError for a request trace, which has no routing to replay.
[[nodiscard]] inline std::unique_ptr<TraceSource> open_trace(const RunSpec& spec) {
  if (!spec.model.path.empty()) return std::make_unique<TokenSource>(spec.trace.tokens, spec.trace.prompt_tokens, ModelFile(spec.model.path).spec());
  if (spec.trace.path.empty()) return make_synthetic_trace(spec.trace.synthetic, spec.model);
  auto trace = open_native_trace(spec.trace.path);
  if (!trace->info().has_routing()) {
    throw UserError(spec.trace.path, "is a request trace: it has no routing rows to replay", "join it to a routing trace first: moekv trace join");
  }
  return trace;
}

}  // namespace moekv
