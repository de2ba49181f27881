// summarise: from the records of a run to the numbers it reports once (METRICS 7.1 to 7.5).
#pragma once

#include <string>
#include <vector>

#include "engine/records.hpp"
#include "engine/run_spec.hpp"

namespace moekv {

/// Pure. Uses the rows of `outcome` and wall_ns, not its summary. Ratios are ratios of sums, never means of ratios. Windows that begin before
/// metrics.warmup_steps are left out everywhere except in the *_cold numbers, which exist where there is a warm-up. Values without samples are NaN.
[[nodiscard]] std::vector<Summary> summarise(const RunSpec& spec, const RunOutcome& outcome);

/// Why the codec of a run compresses nothing: its codes take no less than raw values do. Empty where they take less, and where nothing is compressed.
[[nodiscard]] std::string unshrunk_codec(const RunSpec& spec);

/// Slots of a page after defaults (MODEL section 1).
[[nodiscard]] std::uint32_t page_slots_of(const RunSpec& spec);

}  // namespace moekv
