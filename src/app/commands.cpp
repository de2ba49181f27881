// The list of subcommands.
#include "app/command.hpp"

namespace moekv {

void add_commands(Command& app, Action& action) {
  add_diff(app, action);
  add_doctor(app, action);
  add_export(app, action);
  add_list(app, action);
  add_merge(app, action);
  add_oracle(app, action);
  add_plan(app, action);
  add_policy(app, action);
  add_report(app, action);
  add_rerun(app, action);
  add_run(app, action);
  add_show(app, action);
  add_sweep(app, action);
  add_trace(app, action);
}

void add_trace(Command& parent, Action& action) {
  Command* trace = parent.add_subcommand("trace", "import, inspect, generate and convert routing traces");
  trace->require_subcommand(1);
  add_trace_export(*trace, action);
  add_trace_generate(*trace, action);
  add_trace_import(*trace, action);
  add_trace_info(*trace, action);
  add_trace_join(*trace, action);
  add_trace_stats(*trace, action);
}

}  // namespace moekv
