// How a subcommand joins the program: it adds itself to the command line and, when chosen, names what to do.
#pragma once

#include <functional>

#include "app/command_line.hpp"
#include "core/error.hpp"

namespace moekv {

/// What the chosen subcommand does. A collective action runs on every process of an MPI job, any other on process 0 only.
struct Action {
  std::function<ExitCode()> run;
  bool collective = false;
};

/// Adds every subcommand that this build has (commands.cpp: one line each).
void add_commands(Command& app, Action& action);

// One file of src/app per function. `parent` is the program, or the `trace` group for add_trace_*.
void add_run(Command& parent, Action& action);
void add_sweep(Command& parent, Action& action);
void add_merge(Command& parent, Action& action);
void add_export(Command& parent, Action& action);
void add_report(Command& parent, Action& action);
void add_rerun(Command& parent, Action& action);
void add_oracle(Command& parent, Action& action);
void add_plan(Command& parent, Action& action);
void add_policy(Command& parent, Action& action);
void add_list(Command& parent, Action& action);
void add_doctor(Command& parent, Action& action);
void add_diff(Command& parent, Action& action);
void add_show(Command& parent, Action& action);
void add_trace(Command& parent, Action& action);
void add_trace_info(Command& parent, Action& action);
void add_trace_export(Command& parent, Action& action);
void add_trace_import(Command& parent, Action& action);
void add_trace_join(Command& parent, Action& action);
void add_trace_stats(Command& parent, Action& action);
void add_trace_generate(Command& parent, Action& action);

}  // namespace moekv
