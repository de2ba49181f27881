// What a sweep file states beforehand: comparisons of a metric between two groups of its points.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/document.hpp"
#include "config/sweep.hpp"

namespace moekv {

enum class ExpectedRelation : std::uint8_t { greater, less, equal, different };
constexpr std::string_view expected_relation_names[] = {"greater", "less", "equal", "different"};

/// "`metric` of the points `of` is greater than of the points `versus`", where the two sides are paired by everything else they have.
struct SweepExpectation {
  std::string claim, metric;
  std::vector<SweepSetting> of, versus;  // settings, label or repeat, as the sweep file gives them
  ExpectedRelation is = ExpectedRelation::greater;
  double by = 0;  // at least this share of the mean of `versus`
  Place at;
};

/// Reads the list under `expect`. Appends problems.
[[nodiscard]] std::vector<SweepExpectation> read_expectations(const YamlNode& node, std::vector<Problem>& problems);
/// Appends a problem for every side that names no point of the sweep.
void check_sides(const std::vector<SweepExpectation>& expectations, const Sweep& sweep, std::vector<Problem>& problems);
/// Those of the text of a sweep file. Throws UserError where one cannot be read.
[[nodiscard]] std::vector<SweepExpectation> expectations_of(const std::string& sweep_yaml, const std::string& name);

}  // namespace moekv
