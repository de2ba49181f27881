// moekv show: the table of one result file, or its content as JSON.
#include <fmt/format.h>

#include <memory>

#include "app/command.hpp"
#include "results/json.hpp"
#include "results/summary.hpp"

namespace moekv {
namespace {

struct ShowArguments {
  std::string path;
  bool json = false, records = false;
};

ExitCode show_file(const ShowArguments& arguments) {
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
  Command* show = parent.add_subcommand("show", "print the summary of a result file");
  auto arguments = std::make_shared<ShowArguments>();
  show->add_option("file", arguments->path, "result file")->required();
  Option* json = show->add_flag("--json", arguments->json, "everything but the records, as JSON");
  show->add_flag("--records", arguments->records, "with --json: the records too, as columns")->needs(json);
  show->footer("examples:\n  moekv show results/quickstart.h5\n  moekv show --json results/quickstart.h5 | python3 -m json.tool");
  show->callback([arguments, &action] { action.run = [arguments] { return show_file(*arguments); }; });
}

}  // namespace moekv
