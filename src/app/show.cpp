// moekv show: the table of one result file, or its content as JSON.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "app/command.hpp"
#include "results/json.hpp"
#include "results/point_table.hpp"
#include "results/summary.hpp"

namespace moekv {
namespace {

struct ShowArguments {
  std::string path;
  bool json = false, records = false;
};

/// A merged sweep as lines: what was varied, how it ended, and the headline numbers that it has.
ExitCode show_points(const PointTable& table) {
  std::vector<const PointColumn*> columns{table.find("", "point_id"), table.find("", "label"), table.find("", "status")};
  for (const PointColumn& column : table.columns) {
    if (column.group == "setting") columns.push_back(&column);
  }
  for (const char* metric :
       {"hit_ratio", "attn_mass_kept_mean", "attn_out_err_mean", "compression_factor", "rank_peak_bytes_max", "bytes_wire", "t_step_model"})
    columns.push_back(table.find("metric", metric));
  std::erase(columns, nullptr);
  const auto cell = [](const PointColumn& c, std::size_t i) { return c.group == "metric" ? fmt::format("{:.6g}", c.numbers[i]) : c.texts[i]; };
  std::vector<std::size_t> widths;
  for (const PointColumn* c : columns) {
    widths.push_back(c->name.size());
    for (std::size_t i = 0; i < table.n_points; ++i) widths.back() = std::max(widths.back(), cell(*c, i).size());
  }
  fmt::print("{}: {} points\n", table.title, table.n_points);
  for (std::size_t k = 0; k < columns.size(); ++k) fmt::print("{:{}}  ", columns[k]->name, widths[k]);
  for (std::size_t i = 0; i < table.n_points; ++i) {
    fmt::print("\n");
    for (std::size_t k = 0; k < columns.size(); ++k) fmt::print("{:{}}  ", cell(*columns[k], i), widths[k]);
  }
  fmt::print("\n");
  return ExitCode::ok;
}

ExitCode show_file(const ShowArguments& arguments) {
  if (count_points(arguments.path) != 1) {
    const PointTable table = read_point_table(arguments.path);
    if (!arguments.json) return show_points(table);
    fmt::print("{}\n", to_json(table, Parameters::all));
    return ExitCode::ok;
  }
  const RunFile run = read_run_file(arguments.path);
  if (arguments.json) {
    fmt::print("{}\n", to_json(run, arguments.records ? JsonRecords::yes : JsonRecords::no));
  } else {
    fmt::print("{}", format_summary(run));
  }
  for (const std::string& column : run.missing) fmt::print(stderr, "warning: {}: has no column {}; it is read as 0\n", run.path, column);
  return ExitCode::ok;
}

}  // namespace

void add_show(Command& parent, Action& action) {
  Command* show = parent.add_subcommand("show", "print the summary of a result file, or the points of a merged sweep");
  auto arguments = std::make_shared<ShowArguments>();
  show->add_option("file", arguments->path, "result file")->required();
  Option* json = show->add_flag("--json", arguments->json, "everything but the records, as JSON");
  show->add_flag("--records", arguments->records, "with --json: the records too, as columns")->needs(json);
  show->footer("examples:\n  moekv show results/quickstart.h5\n  moekv show --json results/quickstart.h5 | python3 -m json.tool");
  show->callback([arguments, &action] { action.run = [arguments] { return show_file(*arguments); }; });
}

}  // namespace moekv
