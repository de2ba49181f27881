// moekv export: a result file, or the traffic in it, as text for programs that do not read HDF5.
#include <fmt/format.h>

#include <fstream>
#include <memory>
#include <optional>
#include <span>

#include "app/command.hpp"
#include "core/number_text.hpp"
#include "engine/summary_list.hpp"
#include "io/pending_file.hpp"
#include "results/point_table.hpp"
#include "results/run_file.hpp"
#include "results/traffic_matrix.hpp"

namespace moekv {
namespace {

struct ExportArguments {
  std::string input, out, record;
  bool csv = false, json = false, params = false, nccl_tests_matrix = false;
  std::string window;  // a step; empty = the busiest
};

void put(const std::string& text, const std::string& path) {
  if (path.empty()) {
    fmt::print("{}", text);
    return;
  }
  PendingFile pending(path, FileKind::other);
  std::ofstream out(pending.temporary_path(), std::ios::binary);
  out << text;
  out.close();
  if (!out) throw SystemError(path + ": cannot be written");
  pending.commit();
}

std::int64_t step_of(const std::string& text) {
  const auto step = parse_whole<std::int64_t>(text);
  if (!step || *step < 0) throw UserError("<command line>", "--window " + text + ": not a step", "steps count from 0");
  return *step;
}

ExitCode export_file(const ExportArguments& arguments) {
  require_apart(arguments.out, {&arguments.input, 1});
  if (arguments.nccl_tests_matrix) {
    const std::optional<std::int64_t> step = arguments.window.empty() ? std::nullopt : std::optional(step_of(arguments.window));
    const RunOutcome outcome = read_run_file(arguments.input).outcome;
    if (const double steps = total(std::span<const StepRecord>(outcome.steps), &StepRecord::n_steps); step && static_cast<double>(*step) >= steps)
      throw UserError("<command line>", fmt::format("--window {}: the run has {} steps", *step, steps), "steps count from 0");
    const TrafficMatrix matrix = traffic_matrix(outcome.traffic, step, arguments.input);
    put(matrix.nccl_tests_csv(), arguments.out);
    fmt::print(stderr, "window from step {}; an entry of 1 stands for {} bytes\n", matrix.first_step, matrix.largest());
    return ExitCode::ok;
  }
  const Parameters parameters = arguments.params ? Parameters::all : Parameters::swept;
  if (!arguments.record.empty()) {
    put(record_csv(arguments.input, arguments.record), arguments.out);
    return ExitCode::ok;
  }
  const PointTable table = read_point_table(arguments.input);
  put(arguments.json ? to_json(table, parameters) + "\n" : to_csv(table, parameters), arguments.out);
  return ExitCode::ok;
}

}  // namespace

void add_export(Command& parent, Action& action) {
  Command* command = parent.add_subcommand("export", "print a result file as CSV (a line per point) or JSON");
  auto arguments = std::make_shared<ExportArguments>();
  command->add_option("file", arguments->input, "file of moekv merge or moekv run")->required();
  Option* csv = command->add_flag("--csv", arguments->csv, "CSV (the default)");
  Option* json = command->add_flag("--json", arguments->json, "JSON: an array of objects")->excludes(csv);
  Option* params = command->add_flag("--params", arguments->params, "every configuration key, not only those that vary");
  Option* record = command->add_option("--record", arguments->record, "the rows of this record instead: step, layer, load, traffic ... (CSV)");
  record->excludes(json)->excludes(params);
  Option* matrix =
      command->add_flag("--nccl-tests-matrix", arguments->nccl_tests_matrix,
                        "bytes from rank to rank in one window instead, as shares of the largest: the parameter file of nccl-tests' alltoallv");
  matrix->excludes(json)->excludes(params)->excludes(record);
  command->add_option("--window", arguments->window, "with --nccl-tests-matrix: the window that holds this step; default: the busiest")
      ->needs(matrix);
  command->add_option("--out,-o", arguments->out, "file to write; default: standard output");
  command->footer("examples:\n  moekv export evict.h5 --csv --out evict.csv\n  moekv export evict.h5 --record step > steps.csv");
  command->callback([arguments, &action] { action.run = [arguments] { return export_file(*arguments); }; });
}

}  // namespace moekv
