// moekv diff: what differs between two result files.
#include "results/diff.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "app/command.hpp"

namespace moekv {
namespace {

struct DiffArguments {
  std::string a, b;
  bool decisions = false;
  std::size_t lines = 20;
};

/// Compares digests only.
ExitCode diff_decisions(const RunFile& a, const RunFile& b) {
  const auto window = first_different_window(a, b);
  if (window) {
    fmt::print("decisions differ: first in steps {} to {}: {} | {}\n", window->first_step, window->first_step + 63, window->a, window->b);
    return ExitCode::points_failed;
  }
  if (a.outcome.digest != b.outcome.digest) {
    fmt::print("decisions differ: total digest {} | {}\n", to_hex(a.outcome.digest), to_hex(b.outcome.digest));
    return ExitCode::points_failed;
  }
  const bool windows = a.has_records && b.has_records;
  fmt::print("same decisions: digest {}{}\n", to_hex(a.outcome.digest),
             windows ? fmt::format(", {} windows of 64 steps", a.outcome.window_digests.size()) : "");
  return ExitCode::ok;
}

/// Merged sweeps: what must be equal at every point.
ExitCode diff_sweeps(const DiffArguments& arguments) {
  const PointTable a = read_point_table(arguments.a), b = read_point_table(arguments.b);
  const std::vector<std::string> lines = diff_points(a, b, arguments.decisions ? PointColumns::digests : PointColumns::all);
  const std::size_t most_lines = arguments.lines;
  for (std::size_t i = 0; i < std::min(most_lines, lines.size()); ++i) fmt::print("{}\n", lines[i]);
  if (lines.size() > most_lines) fmt::print("... and {} more\n", lines.size() - most_lines);
  fmt::print("{} and {} points: {}\n", a.n_points, b.n_points,
             !lines.empty()        ? "different"
             : arguments.decisions ? "same decisions"
                                   : "same decisions and counters");
  return lines.empty() ? ExitCode::ok : ExitCode::points_failed;
}

ExitCode diff_files(const DiffArguments& arguments) {
  if (const std::size_t n = count_points(arguments.a); n != 1 || count_points(arguments.b) != 1) return diff_sweeps(arguments);
  const RunFile a = read_run_file(arguments.a), b = read_run_file(arguments.b);
  if (arguments.decisions) return diff_decisions(a, b);
  const RunDifference difference = diff_runs(a, b);
  fmt::print("{}", format_difference(difference, a, b, arguments.lines));
  return difference.different() ? ExitCode::points_failed : ExitCode::ok;
}

}  // namespace

void add_diff(Command& parent, Action& action) {
  Command* diff = parent.add_subcommand("diff", "compare two result files, or two merged sweeps: decisions, counters, numbers");
  auto arguments = std::make_shared<DiffArguments>();
  diff->add_option("a", arguments->a, "result file")->required();
  diff->add_option("b", arguments->b, "result file")->required();
  diff->add_flag("--decisions", arguments->decisions, "compare decision digests only and name the first 64 steps that differ");
  diff->add_option("--lines", arguments->lines, "numbers listed of each kind")->capture_default_str();
  diff->footer(
      "exit code: 0 = same decisions and counters, 1 = different, 2 = a file cannot be read\nexample:\n  moekv diff --decisions one.h5 four.h5");
  diff->callback([arguments, &action] { action.run = [arguments] { return diff_files(*arguments); }; });
}

}  // namespace moekv
