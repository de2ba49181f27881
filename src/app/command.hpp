// How a subcommand joins the program: it adds itself to the command line and, when chosen, names what to do.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>

#include "core/error.hpp"

namespace moekv {

/// What the chosen subcommand does. A collective action runs on every process of an MPI job, any other on process 0 only.
struct Action {
  std::function<ExitCode()> run;
  bool collective = false;
};

/// Adds every subcommand that this build has (commands.cpp: one line each).
void add_commands(CLI::App& app, Action& action);

// One file of src/app per function. `parent` is the program, or the `trace` group for add_trace_*.
void add_run(CLI::App& parent, Action& action);
void add_sweep(CLI::App& parent, Action& action);
void add_merge(CLI::App& parent, Action& action);
void add_export(CLI::App& parent, Action& action);
void add_oracle(CLI::App& parent, Action& action);
void add_plan(CLI::App& parent, Action& action);
void add_policy(CLI::App& parent, Action& action);
void add_list(CLI::App& parent, Action& action);
void add_doctor(CLI::App& parent, Action& action);
void add_diff(CLI::App& parent, Action& action);
void add_show(CLI::App& parent, Action& action);
void add_trace(CLI::App& parent, Action& action);
void add_trace_info(CLI::App& parent, Action& action);
void add_trace_export(CLI::App& parent, Action& action);
void add_trace_import(CLI::App& parent, Action& action);
void add_trace_join(CLI::App& parent, Action& action);
void add_trace_stats(CLI::App& parent, Action& action);
void add_trace_generate(CLI::App& parent, Action& action);

}  // namespace moekv
