// A sweep file as it is written: what stands in it, and what cannot stand in it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/sweep.hpp"
#include "config/sweep_axes.hpp"
#include "config/sweep_expect.hpp"

namespace moekv {

/// A sweep file as it is written, before points are made.
struct SweepFile {
  std::string name, path, text;
  ConfigTree base;
  std::string base_name;
  std::vector<Assignment> common;  // `set`, then overrides of the command line
  std::vector<SweepAxis> axes;
  std::vector<SweepCase> include;
  std::vector<SweepAxis> exclude;    // each a condition: one case per key, whose values are alternatives
  std::vector<std::uint64_t> seeds;  // of repeats; empty: none
  bool same_seed = false;
  Place repeats_at{};
  std::uint32_t repeats = 1;
  std::vector<SweepExpectation> expectations;
};

/// Overrides of the command line follow `set`. Appends problems.
[[nodiscard]] SweepFile read_sweep_file(const std::string& path, const std::vector<std::string>& overrides, std::vector<Problem>& problems);

/// Keys that any axis or case sets, in the order in which they appear.
[[nodiscard]] std::vector<std::string> swept_keys(const SweepFile& file);

/// What an override of the command line cannot do, and conditions that can never hold.
void check_keys(const SweepFile& file, const std::vector<std::string>& swept, std::vector<Problem>& problems);

/// Seeds that an axis or a case gives and that `repeats` would replace.
void check_seeds(const SweepFile& file, std::vector<Problem>& problems);

/// Conditions on a label that no point of the grid has.
void check_excluded_labels(const SweepFile& file, const std::vector<SweepCase>& grid, std::vector<Problem>& problems);

/// Whether `exclude` leaves the case out. A label is that of the point, or one of those that it joins.
[[nodiscard]] bool excluded(const SweepFile& file, const SweepCase& point);

}  // namespace moekv
