// A full pass over a native trace: every broken rule as an error, every sign of a spoilt recording as a warning.
#pragma once

#include <string>
#include <vector>

#include "core/error.hpp"

namespace moekv {

struct TraceReport {
  std::vector<Problem> errors;    // a replay would refuse these rows, or be wrong
  std::vector<Problem> warnings;  // readable, but not what a router of a serving system produces
};

/// Reads every row of `path` once, in constant memory. One problem per rule and dataset, with the number of rows and the first one.
/// Never throws for what is wrong with the file.
[[nodiscard]] TraceReport validate_trace(const std::string& path);

}  // namespace moekv
