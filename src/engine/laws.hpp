// Conservation laws: what must hold between the counters of any run (METRICS 7.0). They catch a wrong count inside the run that made it.
#pragma once

#include <string>
#include <vector>

#include "engine/records.hpp"
#include "engine/run_spec.hpp"

namespace moekv {

/// Pure. One sentence per law and window that does not hold, at most most_violations of them and then how many more; empty when all hold.
/// Needs the complete rows of process 0.
[[nodiscard]] std::vector<std::string> check_laws(const RunSpec& spec, const RunOutcome& outcome);

inline constexpr std::size_t most_violations = 20;

}  // namespace moekv
