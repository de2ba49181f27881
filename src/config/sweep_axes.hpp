// What varies in a sweep file: axes as lists of cases, each case a set of values for configuration keys.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "config/tree.hpp"

namespace moekv {

/// Values that go together, with the name of the case where it has one.
struct SweepCase {
  std::string label;
  std::vector<Assignment> values;
  std::vector<std::string> parts{};  // of a point of the grid: the labels that its own one joins
  Place at{};                        // of a condition on a label
};
/// One factor of the grid.
using SweepAxis = std::vector<SweepCase>;

/// Keys of a mapping as assignments: nested sections and dotted names mean the same. Key `label` names the case where `label` is not null.
[[nodiscard]] std::vector<Assignment> read_assignments(const YamlNode& map, std::string* label, std::vector<Problem>& problems);

/// Reads `axes`: a list of (or a mapping to) lists, ranges, zip, cases and sample. Appends problems.
[[nodiscard]] std::vector<SweepAxis> read_axes(const YamlNode& node, std::vector<Problem>& problems);

/// Refuses entries of a mapping that stand for nothing.
void check_names(const YamlNode& map, const std::string& what, const std::vector<std::string_view>& known, std::vector<Problem>& problems);

/// Whether a key is one of a section's.
[[nodiscard]] inline bool is_inside(const std::string& key, const std::string& section) { return key.starts_with(section + "."); }

/// The values of a list, or of {range: {...}}.
[[nodiscard]] std::vector<YamlNode> read_values(const YamlNode& node, const std::string& what, std::vector<Problem>& problems);

/// Points of [0, 1)^dimensions: of Sobol's sequence (at most 10 dimensions, Joe and Kuo's directions), shifted digitally by the seed.
[[nodiscard]] std::vector<std::vector<double>> sobol_points(std::size_t n, std::size_t dimensions, std::uint64_t seed);
inline constexpr std::size_t sobol_dimensions = 10;

}  // namespace moekv
