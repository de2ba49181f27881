// save_trace: any TraceSource becomes a native trace file, in constant memory.
#pragma once

#include <string>

#include "trace/source.hpp"
#include "trace/writer.hpp"

namespace moekv {

/// Writes every request of `source` to `path`. `spec.info.level` chooses what is kept (ids, weights or logits) and may not exceed the source's;
/// layers, experts and top_k must be the source's. Nothing appears under `path` when it fails.
void save_trace(TraceSource& source, const std::string& path, const WriterSpec& spec);

}  // namespace moekv
