// moekv run: one configuration becomes one replay and one result file.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "app/collective.hpp"
#include "app/command.hpp"
#include "app/open_trace.hpp"
#include "app/progress.hpp"
#include "comm/mpi_session.hpp"
#include "config/schema.hpp"
#include "engine/batcher.hpp"
#include "engine/replay.hpp"
#include "results/json.hpp"
#include "results/run_file.hpp"
#include "results/summary.hpp"

namespace moekv {
namespace {

volatile std::sig_atomic_t stop_requested = 0;

extern "C" void request_stop(int) { stop_requested = 1; }

/// The first SIGINT or SIGTERM asks for an end after the step, the second ends the program as if it had never been caught.
void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = request_stop;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

struct RunOptions {
  std::string config;
  std::vector<std::string> overrides;
  std::string out;
  bool json = false, quiet = false;
};

std::unique_ptr<Transport> choose_transport(const RunSpec& spec, std::unique_ptr<Transport> job) {
  if (spec.transport == "mpi" && !MpiSession::launched_by_launcher()) {
    throw UserError(spec.config_path, "transport: mpi needs a launcher", "start with mpirun -n N moekv run ..., or use transport: auto");
  }
  const bool local = spec.transport == "local" || (spec.transport == "auto" && job->n_processes() == 1);
  return local ? make_local_transport() : std::move(job);
}

/// Everything a replay needs, made without communication so that a failure can be agreed on.
struct Machinery {
  std::unique_ptr<TraceSource> trace;
  std::unique_ptr<Backend> backend;
};

Machinery prepare(const RunSpec& spec, int n_processes) {
  Machinery made{open_trace(spec), make_backend(spec.backend, spec.threads)};
  const Geometry geometry(spec, made.trace->info(), spec.cluster.ranks > 0 ? spec.cluster.ranks : static_cast<std::uint32_t>(n_processes));
  (void)Batcher(geometry, *made.trace);
  return made;
}

RunOutcome run_replay(const RunSpec& spec, const Machinery& made, Transport& transport, bool quiet) {
  ProgressLine line(isatty(STDERR_FILENO) != 0);
  ReplayHooks hooks;
  if (!quiet) hooks.progress = [&](const Progress& progress) { line.show(progress); };
  hooks.interrupted = [] { return stop_requested != 0; };
  try {
    RunOutcome outcome = replay(spec, *made.trace, *made.backend, transport, hooks);
    line.end();
    return outcome;
  } catch (...) {
    line.end();
    // Most failures are those of every process: process 0 has the word, and its end ends the others.
    if (transport.process() > 0) std::this_thread::sleep_for(std::chrono::seconds(1));
    throw;
  }
}

Provenance provenance_of(const RunSpec& spec, const RunOptions& options, const TraceInfo& trace, Transport& transport) {
  std::vector<std::string> argv{"moekv", "run", options.config};
  argv.insert(argv.end(), options.overrides.begin(), options.overrides.end());
  if (!options.out.empty()) argv.insert(argv.end(), {"--out", options.out});
  Provenance provenance = collect_provenance(argv, transport);
  add_trace_facts(trace, provenance);
  for (KeyValue& key : resolved_keys(spec))
    provenance.parameters.push_back({std::move(key.path), std::move(key.value), std::move(key.unit), std::move(key.doc)});
  return provenance;
}

/// On process 0: the file, then the table or JSON.
ExitCode report(const RunFile& run, const RunOptions& options, const std::string& out) {
  write_run_file(out, run);
  if (options.json) {
    fmt::print("{}\n", to_json(run));
  } else if (!options.quiet) {
    fmt::print("{}\nresult: {}\n", format_summary(run), out);
  }
  std::fflush(stdout);
  for (const std::string& violation : run.outcome.violations) fmt::print(stderr, "error: conservation law violated: {}\n", violation);
  return run.outcome.violations.empty() ? ExitCode::ok : ExitCode::points_failed;
}

ExitCode run_agreed(const RunOptions& options) {
  std::unique_ptr<Transport> job = make_job_transport();
  const RunSpec spec = read_run_spec_everywhere(options.config, options.overrides, *job);
  const std::string out = options.out.empty() ? spec.name + ".h5" : options.out;
  const bool first = job->process() == 0;
  const Machinery made = agree(*job, [&] {
    if (first) require_writable(out, options.out.empty() ? Existing::refuse : Existing::replace);
    return prepare(spec, job->n_processes());
  });
  const std::unique_ptr<Transport> transport = choose_transport(spec, std::move(job));
  Provenance provenance = provenance_of(spec, options, made.trace->info(), *transport);
  catch_stop_signals();
  RunOutcome outcome = run_replay(spec, made, *transport, options.quiet);
  const bool completed = outcome.completed;
  ExitCode code = ExitCode::interrupted;
  if (first && !completed) fmt::print(stderr, "interrupted: nothing was written\n");
  if (completed) {
    code = first ? report(make_run_file(spec, std::move(outcome), std::move(provenance)), options, out) : ExitCode::ok;
    auto worst = static_cast<std::int64_t>(code);
    transport->allreduce_max({&worst, 1});
    code = static_cast<ExitCode>(worst);
  }
  return code;
}

}  // namespace

void add_run(CLI::App& parent, Action& action) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* run = parent.add_subcommand("run", "replay one configuration and write one result file");
  run->add_option("config", options->config, "YAML file (moekv list keys names every key)")->required();
  run->add_option("overrides", options->overrides, "key.path=value ...: replace keys of the file; key=null removes one");
  run->add_option("--out,-o", options->out, "result file; default: <name>.h5, which must not exist");
  run->add_flag("--json", options->json, "print the summary as JSON");
  run->add_flag("--quiet,-q", options->quiet, "no progress and no table");
  run->footer(
      "examples:\n  moekv run configs/quickstart.yaml --out quickstart.h5\n  mpirun -n 4 moekv run configs/quickstart.yaml eviction.policy=lru "
      "eviction.budget=25%");
  run->callback([options, &action] {
    action.collective = true;
    action.run = [options] {
      try {
        return run_agreed(*options);
      } catch (const AgreedFailure& failure) {
        return failure.code;
      }
    };
  });
}

}  // namespace moekv
