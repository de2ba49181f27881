// moekv export: a result file as CSV or JSON, for programs that do not read HDF5.
#include <fmt/format.h>

#include <fstream>
#include <memory>

#include "app/command.hpp"
#include "io/pending_file.hpp"
#include "results/point_table.hpp"

namespace moekv {
namespace {

struct ExportArguments {
  std::string input, out, record;
  bool csv = false, json = false, params = false;
};

void put(const std::string& text, const std::string& path) {
  if (path.empty()) {
    fmt::print("{}", text);
    return;
  }
  PendingFile pending(path);
  std::ofstream out(pending.temporary_path(), std::ios::binary);
  out << text;
  out.close();
  if (!out) throw SystemError(path + ": cannot be written");
  pending.commit();
}

ExitCode export_file(const ExportArguments& arguments) {
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
  command->add_flag("--params", arguments->params, "every configuration key, not only those that vary");
  command->add_option("--record", arguments->record, "the rows of this record instead: step, layer, load, traffic ... (CSV)")->excludes(json);
  command->add_option("--out,-o", arguments->out, "file to write; default: standard output");
  command->footer("examples:\n  moekv export evict.h5 --csv --out evict.csv\n  moekv export evict.h5 --record step > steps.csv");
  command->callback([arguments, &action] { action.run = [arguments] { return export_file(*arguments); }; });
}

}  // namespace moekv
