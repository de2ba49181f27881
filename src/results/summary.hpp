// The table of one run for people: memory, traffic, latency, hits, fidelity, balance, each number with unit and claim class.
#pragma once

#include <string>

#include "results/run_file.hpp"

namespace moekv {

/// Several lines, ending with a newline. Values the run does not have are left out; values without samples show as "-".
[[nodiscard]] std::string format_summary(const RunFile& run);

/// The lines of the table for these numbers, under their titles.
[[nodiscard]] std::string format_numbers(const std::vector<Summary>& numbers);

}  // namespace moekv
