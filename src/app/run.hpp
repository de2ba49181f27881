// What moekv run and moekv score share: one configuration becomes one result file.
#pragma once

#include <string>
#include <vector>

#include "app/command.hpp"

namespace moekv {

struct RunOptions {
  std::string command = "run";
  std::string config;
  std::vector<std::string> overrides;
  std::string out, access_log, record;  // record: a trace of what a model in the loop did
  std::uint32_t attention_rows = 0;
  std::string profile_steps;  // "a:b"
  bool json = false, quiet = false;
};

/// Options and arguments that both commands have.
void add_run_options(Command& command, RunOptions& options);

/// Collective over the processes of the job. Failures are agreed on and printed once.
[[nodiscard]] ExitCode run_configuration(const RunOptions& options);

}  // namespace moekv
