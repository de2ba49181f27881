// moekv run: one configuration becomes one replay, or one scored run of a model, and one result file.
#include "app/run.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "app/collective.hpp"
#include "app/command.hpp"
#include "app/point.hpp"
#include "app/progress.hpp"
#include "app/stop_signal.hpp"
#include "config/names.hpp"
#include "device/profile.hpp"
#include "engine/attention_sample.hpp"
#include "engine/replay.hpp"
#include "io/pending_file.hpp"
#include "model/trace_recorder.hpp"
#include "results/access_log_file.hpp"
#include "results/json.hpp"
#include "results/run_file.hpp"
#include "results/summary.hpp"

namespace moekv {
namespace {

/// Sends what the replay logs to `log`, which only process 0 has.
void connect(const RunOptions& options, AccessLogWriter* log, ReplayHooks& hooks) {
  if (options.access_log.empty()) return;
  hooks.accesses = [log](std::uint64_t step, std::span<const AccessEvent> events) { log->add(step, events); };
  hooks.attention_groups = options.attention_rows;
  hooks.attention = [log](std::span<const AttentionRow> rows, std::span<const AttentionCell> cells) { log->add(rows, cells); };
}

/// Steps that a profiler records: [begin, end).
struct ProfileSteps {
  std::uint64_t begin = 0, end = 0;
};

/// Reads "A:B". UserError where it is none, or where the backend has no GPU to profile.
ProfileSteps profile_steps(const RunSpec& spec, const RunOptions& options) {
  ProfileSteps steps;
  const std::string& text = options.profile_steps;
  if (text.empty()) return steps;
  const char *at = text.data(), *const last = at + text.size();
  const auto first = std::from_chars(at, last, steps.begin);
  const bool colon = first.ec == std::errc{} && first.ptr != last && *first.ptr == ':';
  const auto second = colon ? std::from_chars(first.ptr + 1, last, steps.end) : first;
  if (!colon || second.ec != std::errc{} || second.ptr != last || steps.begin >= steps.end)
    throw UserError("<command line>", fmt::format("--profile-steps {}: not A:B with A < B", text),
                    "steps count from 0, and B is not recorded: --profile-steps 100:110");
  if (spec.backend != "cuda")
    throw UserError("<command line>", fmt::format("--profile-steps starts and stops a profiler of the GPU, and backend {} uses none", spec.backend),
                    "use backend=cuda, or leave the option out");
  return steps;
}

/// What an oracle must know of the run.
Facts log_facts(const RunSpec& spec, const RunOutcome& outcome, const Provenance& provenance) {
  Facts f;
  f.set("title", spec.name);
  f.set("history", provenance.started_utc + " " + provenance.facts.text("argv"));
  f.set("config_digest", spec.config_digest);
  f.set("config_resolved_yaml", spec.resolved_yaml);
  f.set("digest", to_hex(outcome.digest));
  f.set("feedback", feedback_of(spec));
  f.set("action", std::string(enum_name(spec.eviction.action)));
  const bool planned = traits_of(spec.eviction.rule).places;
  f.set("unlimited", std::int64_t{spec.eviction.budget.kind == BudgetKind::unlimited && !planned ? 1 : 0});
  return f;
}

/// Says so where a run ended before the steps that a profiler waits for.
void note_profile(const ProfileSteps& profiled, const RunOutcome& outcome) {
  std::int64_t steps = 0;
  for (const StepRecord& s : outcome.steps) steps += s.n_steps;
  if (static_cast<std::uint64_t>(steps) < profiled.end)
    fmt::print(stderr, "--profile-steps: the run has {} steps, of which {} were recorded\n", steps,
               static_cast<std::uint64_t>(steps) > profiled.begin ? static_cast<std::uint64_t>(steps) - profiled.begin : 0);
}

std::unique_ptr<TraceRecorder> make_recorder(const RunSpec& spec, const PointMachinery& made, Transport& transport, const RunOptions& options) {
  if (options.record.empty()) return nullptr;
  const KvType type = spec.payload.element == ElementFormat::bf16 ? KvType::bf16 : KvType::fp16;
  return std::make_unique<TraceRecorder>(options.record, dynamic_cast<const TokenSource&>(*made.trace), made.decoder->spec(), type, "moekv score",
                                         transport);
}

RunOutcome run_replay(const RunSpec& spec, const PointMachinery& made, Transport& transport, const RunOptions& options, ProfileSteps profiled,
                      AccessLogWriter* log) {
  ProgressLine line(isatty(STDERR_FILENO) != 0);
  ReplayHooks hooks;
  connect(options, log, hooks);
  if (!options.quiet) hooks.progress = [&](const Progress& progress) { line.show(progress); };
  hooks.interrupted = [](const Progress&) { return stop_requested(); };
  hooks.profile_begin = profiled.begin;
  hooks.profile_end = profiled.end;
  hooks.profile_start = start_capture;
  hooks.profile_stop = stop_capture;
  try {
    const auto recorder = make_recorder(spec, made, transport, options);
    RunOutcome outcome = run_point(spec, made, transport, hooks, recorder.get());
    line.end();
    return outcome;
  } catch (...) {
    line.end();
    // Most failures are those of every process: process 0 has the word, and its end ends the others.
    if (transport.process() > 0) std::this_thread::sleep_for(std::chrono::seconds(1));
    throw;
  }
}

Provenance provenance_of(const RunSpec& spec, const RunOptions& options, const PointMachinery& made, Transport& transport) {
  std::vector<std::string> argv{"moekv", options.command, options.config};
  argv.insert(argv.end(), options.overrides.begin(), options.overrides.end());
  if (!options.out.empty()) argv.insert(argv.end(), {"--out", options.out});
  if (!options.access_log.empty()) argv.insert(argv.end(), {"--access-log", options.access_log});
  if (!options.record.empty()) argv.insert(argv.end(), {"--record", options.record});
  Provenance provenance = collect_provenance(argv, transport);
  add_point_facts(spec, made, provenance);
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

/// Why a run writes no access log; null where it does.
const char* log_refusal(const RunSpec& spec) {
  const bool divides_later = std::visit([](const auto& allocator) { return allocator.when != allocate::When::start; }, spec.eviction.allocator);
  if (divides_later) return "the allocator divides budgets during the run, and the log holds those that requests start with";
  if (!spec.model.path.empty()) return "a model drives the run, and its accesses follow what its caches gave it";
  if (spec.placement.replan_every_steps > 0)
    return "pages move to other shards when the plan of experts changes, and the log names pages by their shard";
  return nullptr;
}

/// An output must not take the place of a file that the run reads, or of another output.
void require_outputs_apart(const RunSpec& spec, const RunOptions& options, const std::string& out) {
  std::vector<std::string> others{options.config, spec.trace.path, spec.model.path, spec.trace.tokens};
  for (const std::string& output : {out, options.record, options.access_log}) {
    require_apart(output, others);
    others.push_back(output);
  }
}

}  // namespace

ExitCode run_configuration(const RunOptions& options) {
  std::unique_ptr<Transport> job = make_job_transport();
  const RunSpec spec = read_run_spec_everywhere(options.config, options.overrides, *job);
  const std::string out = options.out.empty() ? spec.name + ".h5" : options.out;
  const bool first = job->process() == 0;
  PointCache cache;
  ProfileSteps profiled;
  const PointMachinery made = agree(*job, [&] {
    if (options.command == "score" && spec.model.path.empty())
      throw UserError(spec.config_path, "model.path: missing required key",
                      "name the model file: moekv score CONFIG model.path=FILE trace.tokens=FILE");
    if (options.out.empty() && (spec.name.empty() || spec.name.find('/') != std::string::npos))
      throw UserError(spec.config_path, fmt::format("name: '{}' names no file in this folder", spec.name), "name the result with --out");
    if (first) require_outputs_apart(spec, options, out);
    profiled = profile_steps(spec, options);
    if (first) require_writable(out, options.out.empty() ? Existing::refuse : Existing::replace);
    if (first && !options.record.empty()) require_writable(options.record, Existing::replace);
    if (first && !options.access_log.empty()) require_writable(options.access_log, Existing::replace);
    if (const char* why = log_refusal(spec); !options.access_log.empty() && why != nullptr)
      throw UserError(spec.config_path, fmt::format("--access-log: {}", why), "leave the option out, or change the configuration");
    if (const char* why = attention_refusal(spec); options.attention_rows > 0 && why != nullptr)
      throw UserError(spec.config_path, fmt::format("--attention-rows: {}", why), "leave the option out, or change the configuration");
    return cache.prepare(spec, job->n_processes());
  });
  const std::unique_ptr<Transport> own = own_transport(spec, *job);
  Transport& transport = own ? *own : *job;
  Provenance provenance = provenance_of(spec, options, made, transport);
  catch_stop_signals();
  std::optional<AccessLogWriter> log;
  if (first && !options.access_log.empty()) log.emplace(options.access_log);
  RunOutcome outcome = run_replay(spec, made, transport, options, profiled, log ? &*log : nullptr);
  const bool completed = outcome.completed;
  if (first && profiled.begin < profiled.end) note_profile(profiled, outcome);
  if (log && completed) log->finish(log_facts(spec, outcome, provenance));
  ExitCode code = ExitCode::interrupted;
  if (first && !completed) fmt::print(stderr, "interrupted: nothing was written\n");
  if (completed) {
    code = first ? report(make_run_file(spec, std::move(outcome), std::move(provenance)), options, out) : ExitCode::ok;
    auto worst = static_cast<std::int64_t>(code);
    transport.allreduce_max({&worst, 1});
    code = static_cast<ExitCode>(worst);
  }
  return code;
}

void add_run_options(Command& command, RunOptions& options) {
  command.add_option("config", options.config, "YAML file (moekv list keys names every key)")->required();
  command.add_option("overrides", options.overrides, "key.path=value ...: replace keys of the file; key=null removes one");
  command.add_option("--out,-o", options.out, "result file; default: <name>.h5, which must not exist");
  command.add_option("--profile-steps", options.profile_steps,
                     "A:B: a GPU profiler that waits for it records steps A to B - 1 (nsys profile --capture-range=cudaProfilerApi, ncu "
                     "--profile-from-start off)");
  command.add_flag("--json", options.json, "print the summary as JSON");
  command.add_flag("--quiet,-q", options.quiet, "no progress and no table");
}

void add_run(Command& parent, Action& action) {
  auto options = std::make_shared<RunOptions>();
  Command* run = parent.add_subcommand("run", "replay one configuration and write one result file");
  add_run_options(*run, *options);
  Option* log = run->add_option("--access-log", options->access_log,
                                "also write every lookup, write and eviction of pages, for moekv oracle and moekv trace export");
  run->add_option("--attention-rows", options->attention_rows,
                  "with --access-log: exact attention of N pairs of request and layer, for the oracles of attention mass")
      ->needs(log);
  run->footer(
      "examples:\n  moekv run configs/quickstart.yaml --out quickstart.h5\n  mpirun -n 4 moekv run configs/quickstart.yaml eviction.policy=lru "
      "eviction.budget=25% --out lru.h5\n"
      "  moekv run configs/quickstart.yaml --out run.h5 --access-log log.h5      # then: moekv oracle log.h5 --result run.h5");
  run->callback([options, &action] {
    action.collective = true;
    action.run = [options] { return run_configuration(*options); };
  });
}

}  // namespace moekv
