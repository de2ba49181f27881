// A run as JSON, for programs that do not read HDF5.
#pragma once

#include <string>

#include "results/run_file.hpp"

namespace moekv {

enum class JsonRecords : std::uint8_t { no, yes };

/// One object: facts, provenance, parameters, status, digest, labels, notes, violations, metrics (value, unit, claim_class, definition, and
/// numerator and denominator of a ratio), and, where asked for, the records as columns. NaN is null. `indent` < 0 puts all on one line.
[[nodiscard]] std::string to_json(const RunFile& run, JsonRecords records = JsonRecords::no, int indent = 2);

/// Metrics and the records that have rows, as in to_json.
[[nodiscard]] std::string numbers_json(const RunOutcome& outcome, int indent = 2);

}  // namespace moekv
