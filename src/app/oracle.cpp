// moekv oracle: a second pass over an access log: offline bounds of lookups and of attention mass, and what the misses are made of.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "app/command.hpp"
#include "engine/oracle/access_bounds.hpp"
#include "engine/oracle/mass_bounds.hpp"
#include "engine/summary_list.hpp"
#include "io/pending_file.hpp"
#include "results/access_log_file.hpp"
#include "results/json.hpp"
#include "results/run_file.hpp"
#include "results/summary.hpp"

namespace moekv {
namespace {

struct OracleOptions {
  std::string log, result, out;
  std::uint64_t seed = 1;
  bool json = false;
};

/// Bounds say nothing about a run whose accesses depend on its evictions, and there is nothing to bound without evictions.
void require_open_loop(const AccessLogFile& log) {
  const std::string why = log.facts().text("feedback");
  if (!why.empty()) throw UserError(log.path(), fmt::format("is of a run with feedback: {}", why), "offline bounds hold for open-loop runs only");
  if (log.facts().integer("unlimited") != 0) throw UserError(log.path(), "is of a run without eviction.budget: it never misses", "log a run with a budget");
}

AccessBounds bound_log(const AccessLogFile& log, std::uint64_t seed) {
  AccessTrace trace(log.path());
  log.for_each_event([&](std::uint64_t step, const AccessEvent& event) { trace.add(step, event); });
  trace.close();
  return bound_accesses(trace, seed);
}

/// Adds numbers to a run, in place of those of the same names.
void add_summary(RunFile& run, const std::vector<Summary>& added) {
  std::vector<Summary>& list = run.outcome.summary;
  std::erase_if(list, [&](const Summary& s) { return std::any_of(added.begin(), added.end(), [&](const Summary& a) { return a.name == s.name; }); });
  list.insert(list.end(), added.begin(), added.end());
}

RunFile read_result_of(const AccessLogFile& log, const std::string& path) {
  RunFile run = read_run_file(path);
  const std::pair<const char*, std::string> marks[] = {{"config_digest", run.facts.text("config_digest")}, {"digest", to_hex(run.outcome.digest)}};
  for (const auto& [what, mine] : marks) {
    if (const std::string other = log.facts().text(what); other != mine)
      throw UserError(path, fmt::format("is not the result of the run that {} logs: {} {} against {}", log.path(), what, mine, other),
                      "name the result of that run");
  }
  return run;
}

/// The result file once more, with the bounds.
void store(const OracleOptions& o, const RunOutcome& found, RunFile& run) {
  const std::string out = o.out.empty() ? o.result : o.out;
  add_summary(run, found.summary);
  run.outcome.bounds = found.bounds;
  run.outcome.mass_bounds = found.mass_bounds;
  run.facts.set("history", fmt::format("{}\n{} moekv oracle {} --result {} --seed {}", run.facts.text("history"), utc_now(), o.log, o.result, o.seed));
  write_run_file(out, run);
  if (!o.json) fmt::print("stored in {}\n", out);
}

ExitCode bound_run(const OracleOptions& o) {
  const AccessLogFile log(o.log);
  require_open_loop(log);
  RunFile run;
  std::int64_t n_req = -1, n_miss = -1;
  if (!o.result.empty()) {
    require_apart(o.out, {&o.log, 1});
    run = read_result_of(log, o.result);
    require_writable(o.out.empty() ? o.result : o.out, Existing::replace);
    n_req = static_cast<std::int64_t>(total(std::span<const StepRecord>(run.outcome.steps), &StepRecord::n_req));
    n_miss = static_cast<std::int64_t>(total(std::span<const StepRecord>(run.outcome.steps), &StepRecord::n_miss));
  }
  const AccessBounds bounds = bound_log(log, o.seed);
  std::vector<MassBoundRecord> masses;
  if (log.has_attention()) log.for_each_history([&](const AttentionHistory& history) { masses.push_back(bound_mass(history)); });
  std::vector<std::string> broken = check_bounds(bounds, n_req, n_miss);
  for (std::string& law : check_mass_bounds(masses)) broken.push_back(std::move(law));
  for (const std::string& law : broken) fmt::print(stderr, "error: {}\n", law);
  if (!broken.empty()) return ExitCode::points_failed;

  std::vector<Summary> numbers = summarise_bounds(bounds);
  if (!masses.empty()) {
    for (Summary& s : summarise_mass_bounds(masses)) numbers.push_back(std::move(s));
  }
  RunOutcome found;
  found.summary = std::move(numbers);
  found.bounds = bounds.shards;
  found.bounds.push_back(bounds.pooled);
  found.mass_bounds = std::move(masses);
  fmt::print("{}\n", o.json ? numbers_json(found) : format_numbers(found.summary));
  if (!o.result.empty()) store(o, found, run);
  return ExitCode::ok;
}

}  // namespace

void add_oracle(Command& parent, Action& action) {
  Command* oracle = parent.add_subcommand("oracle", "bound a run by what is known afterwards: offline optima and miss classes of its access log");
  auto o = std::make_shared<OracleOptions>();
  oracle->add_option("log", o->log, "access log (moekv run CONFIG --access-log FILE)")->required();
  Option* result = oracle->add_option("--result", o->result, "result file of the same run: checked against the log, and the bounds are added to it");
  oracle->add_option("--out,-o", o->out, "with --result: write the result with its bounds to this file instead")->needs(result);
  oracle->add_option("--seed", o->seed, "seed of the random victims")->capture_default_str();
  oracle->add_flag("--json", o->json, "print numbers and rows as JSON");
  oracle->footer(
      "Reference caches hold whole pages, step by step; pages that miss come back to them, also where the run drops. Capacity is the run's: of each budget\n"
      "its pages, or what the run held there where that was more, so that no run beats opt.bypass. Runs with feedback are refused.\n"
      "exit code: 0 = done, 1 = a law does not hold and nothing was stored, 2 = files do not fit\n"
      "example:\n  moekv run configs/quickstart.yaml --out run.h5 --access-log log.h5\n  moekv oracle log.h5 --result run.h5\n  moekv show run.h5");
  oracle->callback([o, &action] { action.run = [o] { return bound_run(*o); }; });
}

}  // namespace moekv
