// moekv merge: the results of sweeps become one file.
#include "results/merge.hpp"

#include <fmt/format.h>

#include <memory>

#include "app/command.hpp"
#include "io/pending_file.hpp"

namespace moekv {
namespace {

struct MergeArguments {
  std::vector<std::string> inputs;
  std::string out;
  bool without_records = false;
};

ExitCode merge(const MergeArguments& arguments) {
  require_apart(arguments.out, arguments.inputs);
  require_writable(arguments.out, Existing::replace);
  const MergedRecords records = arguments.without_records ? MergedRecords::leave_out : MergedRecords::keep;
  const MergeReport report = merge_results(arguments.inputs, arguments.out, records);
  fmt::print("{}: {} points: {} ok, {} failed, {} not finished\n", arguments.out, report.points, report.ok, report.failed, report.unfinished);
  return report.ok == report.points ? ExitCode::ok : ExitCode::points_failed;
}

}  // namespace

void add_merge(Command& parent, Action& action) {
  Command* merge_command = parent.add_subcommand("merge", "put the results of sweeps into one file, a row per point");
  auto arguments = std::make_shared<MergeArguments>();
  merge_command->add_option("inputs", arguments->inputs, "folders of sweeps (parts of one sweep too) and result files")->required();
  merge_command->add_option("--out,-o", arguments->out, "merged file")->required();
  merge_command->add_flag("--without-records", arguments->without_records, "metrics and parameters only");
  merge_command->footer(
      "exit code: 0 = every point is ok, 1 = some failed or are not finished (the file is written)\n"
      "examples:\n  moekv merge evict.sweep --out evict.h5\n  moekv merge part0.sweep part1.sweep --out all.h5");
  merge_command->callback([arguments, &action] { action.run = [arguments] { return merge(*arguments); }; });
}

}  // namespace moekv
