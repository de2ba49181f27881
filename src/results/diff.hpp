// What differs between two runs: decisions (digests), counters and other numbers.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "results/point_table.hpp"
#include "results/run_file.hpp"

namespace moekv {

/// The first window of 64 steps whose digest differs, or that only one run has; none where a file was written without records.
struct WindowDifference {
  std::int64_t first_step = 0;
  std::string a, b;  // digests; "-" where a run has no such window
};
[[nodiscard]] std::optional<WindowDifference> first_different_window(const RunFile& a, const RunFile& b);

/// One number that differs. `what` is "metric hit_ratio" or "record step[2] n_hit (first_step=128)".
struct NumberDifference {
  std::string what, unit;
  double a = 0, b = 0;
};

/// Numbers of claim class counted or modelled are functions of specification and trace, and so must be equal where decisions are; measured and
/// derived ones are compared for information only. The stricter class of the two files counts. Records are compared where both files hold them.
struct RunDifference {
  bool digests_differ = false;
  std::optional<WindowDifference> window;
  std::vector<std::string> keys;           // configuration keys that differ: "eviction.policy: lru | fifo"
  std::vector<std::string> shapes;         // tables of different length; status, violations and labels that differ
  std::vector<NumberDifference> exact;     // counted and modelled
  std::vector<NumberDifference> measured;  // measured and derived summary numbers
  /// Whether decisions, counters or modelled numbers differ.
  [[nodiscard]] bool different() const { return digests_differ || window.has_value() || !shapes.empty() || !exact.empty(); }
};
[[nodiscard]] RunDifference diff_runs(const RunFile& a, const RunFile& b);

/// The difference as text, at most `most_lines` numbers of each kind.
[[nodiscard]] std::string format_difference(const RunDifference& difference, const RunFile& a, const RunFile& b, std::size_t most_lines = 20);

/// What differs between two files of many points, matched by id: status, digest, labels, counted and modelled metrics, or digests alone. A line each.
enum class PointColumns : std::uint8_t { all, digests };
[[nodiscard]] std::vector<std::string> diff_points(const PointTable& a, const PointTable& b, PointColumns columns = PointColumns::all);

}  // namespace moekv
