// moekv rerun: repeats a result from what is inside it, and says what differs, by claim class.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>

#include "app/collective.hpp"
#include "app/command.hpp"
#include "app/point.hpp"
#include "config/reader.hpp"
#include "engine/oracle/access_bounds.hpp"
#include "engine/oracle/mass_bounds.hpp"
#include "io/pending_file.hpp"
#include "results/diff.hpp"
#include "results/sweep_folder.hpp"

namespace moekv {
namespace {

struct RerunArguments {
  std::string result, point, out;
  std::vector<std::string> overrides;
};

/// The stored run: of a result file, or of a point of a sweep's folder.
RunFile read_stored(const RerunArguments& arguments) {
  if (!std::filesystem::is_directory(arguments.result)) {
    if (!arguments.point.empty()) throw UserError(arguments.result, "is no folder of a sweep, which --point chooses from", "leave --point out");
    return read_run_file(arguments.result);
  }
  const std::map<std::string, ResultPlace> results = SweepFolder(arguments.result).results();
  const auto found = results.lower_bound(arguments.point);
  if (!arguments.point.empty() && found != results.end() && found->first.starts_with(arguments.point)) {
    if (const auto next = std::next(found); found->first != arguments.point && next != results.end() && next->first.starts_with(arguments.point))
      throw UserError(arguments.result,
                      fmt::format("has several points whose id begins with '{}': {}, {}", arguments.point, found->first, next->first),
                      "give more of the id");
    return read_result(found->second);
  }
  throw UserError(arguments.result, fmt::format("has no finished point '{}'", arguments.point),
                  "--point takes the start of an id; moekv sweep FILE --list shows them");
}

RunSpec spec_of(const RunFile& stored, const RerunArguments& arguments, int n_processes) {
  const std::string text = stored.facts.text("config_resolved_yaml");
  if (text.empty()) throw UserError(arguments.result, "holds no configuration", "only files that moekv run or sweep wrote can be repeated");
  return parse_run_spec(text, arguments.result, n_processes, arguments.overrides);
}

/// Takes out what moekv oracle stored beside the numbers of the run.
void leave_out_bounds(RunOutcome& stored) {
  for (const std::vector<Summary>& added : {summarise_bounds({}), summarise_mass_bounds({})}) {
    std::erase_if(stored.summary, [&](const Summary& s) { return std::ranges::find(added, s.name, &Summary::name) != added.end(); });
  }
  stored.bounds.clear();
  stored.mass_bounds.clear();
}

/// The trace must be the one that was replayed.
void require_same_trace(const RunFile& stored, const TraceInfo& trace) {
  const std::string before = stored.provenance.text("trace_digest");
  if (before != trace.digest)
    throw UserError(trace.path, fmt::format("is not the trace of this result: digest {}, it was {}", trace.digest, before),
                    "name the right file with trace.path=..., as the last argument");
}

/// What became of the numbers of one claim class.
struct ClassTally {
  std::size_t equal = 0, different = 0;
  double largest = 0;  // relative change
  std::string where;
};

void print_classes(const std::vector<Summary>& before, const std::vector<Summary>& now) {
  std::map<std::string_view, const Summary*> by_name;
  for (const Summary& s : now) by_name[s.name] = &s;
  std::map<ClaimClass, ClassTally> classes;
  for (const Summary& s : before) {
    ClassTally& tally = classes[s.claim];
    const auto it = by_name.find(s.name);
    const double value = it == by_name.end() ? std::nan("") : it->second->value;
    if (it != by_name.end() && (s.value == value || (std::isnan(s.value) && std::isnan(value)))) {
      tally.equal += 1;
      continue;
    }
    tally.different += 1;
    const double change = std::isnan(s.value) || std::isnan(value) ? std::numeric_limits<double>::infinity()
                          : s.value != 0                           ? std::abs(value - s.value) / std::abs(s.value)
                                                                   : 1;
    if (tally.where.empty() || change > tally.largest) std::tie(tally.largest, tally.where) = std::tuple(change, s.name);
  }
  fmt::print("metrics by claim class       equal  different  largest change\n");
  for (const auto& [claim, tally] : classes)
    fmt::print("  {:24} {:>9} {:>10}  {}\n", to_string(claim), tally.equal, tally.different,
               tally.where.empty() ? "" : fmt::format("{:.1f} % ({})", 100 * tally.largest, tally.where));
}

ExitCode rerun(const RerunArguments& arguments) {
  const std::unique_ptr<Transport> job = make_job_transport();
  const bool first = job->process() == 0;
  RunFile stored = agree(*job, [&] {
    if (!first) return RunFile{};
    if (!arguments.out.empty()) require_writable(arguments.out, Existing::replace);
    return read_stored(arguments);
  });
  leave_out_bounds(stored.outcome);
  const RunSpec spec = share_run_spec(agree(*job, [&] { return first ? spec_of(stored, arguments, job->n_processes()) : RunSpec{}; }), *job);
  PointCache cache;
  const PointMachinery made = agree(*job, [&] {
    if (first) require_apart(arguments.out, std::array{arguments.result, spec.trace.path, spec.trace.tokens, spec.model.path});
    PointMachinery machinery = cache.prepare(spec, job->n_processes());
    if (first) require_same_trace(stored, machinery.trace->info());
    return machinery;
  });
  const std::unique_ptr<Transport> own = own_transport(spec, *job);
  Transport& transport = own ? *own : *job;
  Provenance provenance = collect_provenance({"moekv", "rerun", arguments.result}, transport);
  add_point_facts(spec, made, provenance);
  RunOutcome outcome = run_point(spec, made, transport, {});
  if (!first) return ExitCode::ok;
  RunFile now = make_run_file(spec, std::move(outcome), std::move(provenance));
  now.path = "run again";
  const bool same_point = arguments.overrides.empty() || now.facts.text("config_digest") == stored.facts.text("config_digest");
  if (same_point) now.point = stored.point;
  const RunDifference difference = diff_runs(stored, now);
  fmt::print("{}\n", format_difference(difference, stored, now, 10));
  print_classes(stored.outcome.summary, now.outcome.summary);
  if (!arguments.out.empty()) write_run_file(arguments.out, now);
  return difference.different() ? ExitCode::points_failed : ExitCode::ok;
}

}  // namespace

void add_rerun(Command& parent, Action& action) {
  Command* command = parent.add_subcommand("rerun", "repeat a result from the configuration, seeds and trace digest inside it, and compare");
  auto arguments = std::make_shared<RerunArguments>();
  command->add_option("result", arguments->result, "result file, or the folder of a sweep with --point")->required();
  command->add_option("overrides", arguments->overrides,
                      "key.path=value ...: for keys that decide nothing (threads) or a trace that has moved (trace.path)");
  command->add_option("--point", arguments->point, "start of the id of a point of the folder");
  command->add_option("--out,-o", arguments->out, "also write the new result");
  command->footer(
      "exit code: 0 = the same decisions, counters and modelled numbers, 1 = something of them differs, 2 = bad input or another trace\n"
      "examples:\n  moekv rerun results/quickstart.h5\n  moekv rerun evict.sweep --point 3f2a");
  command->callback([arguments, &action] {
    action.collective = true;
    action.run = [arguments] { return rerun(*arguments); };
  });
}

}  // namespace moekv
