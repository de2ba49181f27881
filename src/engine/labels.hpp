// Labels of a run: what a reader of its numbers must know.
#pragma once

#include <string>
#include <vector>

#include "engine/geometry.hpp"
#include "engine/records.hpp"
#include "trace/source.hpp"

namespace moekv {

[[nodiscard]] std::vector<std::string> labels_of(const RunSpec& spec, const Geometry& geometry, const TraceInfo& trace);

/// A run with an eviction rule that never evicted, an allocator that never made capacities, a codec that sealed less than half or stores no less than
/// raw pages do, a read-set rule that left no page out, or a router that listens to misses and chose as recorded, says nothing about it (MODEL
/// section 4).
void label_exercise(const RunSpec& spec, const Geometry& geometry, RunOutcome& out);

}  // namespace moekv
