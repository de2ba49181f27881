// moekv sweep: a sweep file becomes a frozen list of points, and the points become result files in one folder.
#include "app/sweep.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <set>

#include "app/collective.hpp"
#include "app/command.hpp"

namespace moekv {
namespace {

std::string folder_of(const SweepOptions& options, const std::string& name) { return options.out.empty() ? name + ".sweep" : options.out; }

std::set<std::string> ids_of(const SweepList& list) {
  std::set<std::string> ids;
  for (const ListedPoint& point : list.points) ids.insert(point.id);
  return ids;
}

/// Makes the folder, or checks that it is this sweep's and may be gone on with.
void claim_folder(const SweepOptions& options, const SweepFolder& folder, const SweepList& list) {
  const FileDescriptor claim = folder.lock();
  if (!folder.has_list()) {
    const bool lost_list = (options.resume || options.extend) && std::filesystem::exists(folder.journal_folder());
    if (!std::filesystem::is_empty(folder.path()) && !lost_list)
      throw UserError(folder.path(), "exists and is not the folder of a sweep",
                      "choose another with --out; a sweep that lost its sweep.json goes on with --resume");
    return folder.write_list(list);
  }
  if (!options.resume && !options.extend)
    throw UserError(folder.path(), "holds this sweep or another already", "--resume goes on with it, --out names another folder");
  const SweepList old = folder.read_list();
  const bool same = std::equal(old.points.begin(), old.points.end(), list.points.begin(), list.points.end(),
                               [](const ListedPoint& a, const ListedPoint& b) { return a.id == b.id; });
  if (same && old.sweep_yaml == list.sweep_yaml) return;
  if (same && !options.extend) {
    fmt::print(stderr, "{}: the sweep file or its overrides have changed, its points have not; what it expects by now counts with --extend\n",
               folder.path());
    return;
  }
  const std::set<std::string> before = ids_of(old), now = ids_of(list);
  const auto missing_in = [](const std::set<std::string>& a, const std::set<std::string>& b) {
    return std::count_if(a.begin(), a.end(), [&](const std::string& id) { return !b.contains(id); });
  };
  if (!options.extend)
    throw UserError(folder.path(),
                    fmt::format("was begun with another list of points: {} are new, {} are gone", missing_in(now, before), missing_in(before, now)),
                    "--extend takes the new list and keeps every result that still has its point; or name another folder with --out");
  folder.write_list(list);
}

SweepWork read_work(const SweepOptions& options, int n_processes) {
  SweepWork work;
  work.sweep = read_sweep(options.config, options.overrides, n_processes);
  work.list = make_list(work.sweep);
  work.chosen = choose_points(options, work.list, work.part);
  (void)read_limits(options);
  return work;
}

/// Processes that share the work on a point: of a job to be submitted, of what --launch starts, else this one's.
int processes_of(const SweepOptions& options, const Transport& job) {
  if (options.submit > 0) return processes_of_jobs(options);
  return options.isolate == "process" && options.processes > 0 ? static_cast<int>(options.processes) : job.n_processes();
}

ExitCode run_or_list(const SweepOptions& options) {
  const std::unique_ptr<Transport> job = make_job_transport();
  const bool first = job->process() == 0;
  if (!options.launch.empty() && options.isolate == "none")
    throw UserError("<command line>", "--launch starts points of --isolate process, and they are not isolated",
                    fmt::format("add --isolate process, or start the sweep itself with {}", options.launch));
  if (options.json && !options.status && !options.dry_run)
    throw UserError("<command line>", "--json: this prints no table", "add --dry-run or --status; results: moekv merge, then moekv export --json");
  if (options.status) {
    return agree(*job, [&] {
      if (!first) return ExitCode::ok;
      if (std::filesystem::is_directory(options.config)) return print_status(SweepFolder(options.config), options.json);
      const std::string name = options.out.empty() ? read_sweep(options.config, options.overrides, job->n_processes()).name : "";
      return print_status(SweepFolder(folder_of(options, name)), options.json);
    });
  }
  const SweepWork work = agree(*job, [&] { return first ? read_work(options, processes_of(options, *job)) : SweepWork{}; });
  if (options.list || options.dry_run) {
    if (!first) return ExitCode::ok;
    if (options.dry_run) return print_plans(work, options.json);
    print_points(work);
    return ExitCode::ok;
  }
  const SweepFolder folder(folder_of(options, work.list.name));
  (void)agree(*job, [&] {
    if (!first) return 0;
    if (options.submit > 0) {
      check_job_memory(options, work);
      check_submission(options, folder);
    }
    claim_folder(options, folder, work.list);
    if (options.submit > 0) submit_sweep(options, work, folder);
    return 0;
  });
  if (options.submit > 0) return ExitCode::ok;
  if (options.isolate == "process") {
    if (job->n_processes() > 1)
      throw UserError("<command line>", "--isolate process: this is one of several processes already", "start it alone, with --launch 'mpirun -n N'");
    return run_isolated(options, work, folder);
  }
  return run_sweep(options, work, folder, *job);
}

void add_options(Command& sweep, SweepOptions& options) {
  sweep.add_option("sweep", options.config, "sweep file (YAML); with --status also the folder of a sweep")->required();
  sweep.add_option("overrides", options.overrides, "key.path=value ...: replace keys of the base in every point");
  sweep.add_option("--out,-o", options.out, "folder of the results; default: <name>.sweep");
  sweep.add_flag("--list", options.list, "print the points and end");
  sweep.add_flag("--dry-run", options.dry_run, "predict memory and time of every point, say which cannot run, and end");
  sweep.add_flag("--status", options.status, "print what has become of the points, also while jobs work on them, and end");
  sweep.add_flag("--json", options.json, "with --dry-run or --status: print JSON");
  sweep.add_option("--only", options.only, "points to run: indices, ranges, labels or starts of ids: 3,7-9,lru,1f0a");
  const Option* part = sweep.add_option("--part", options.part, "i/N: of N parts of these points the i-th, from 0");
  sweep.add_flag("--resume", options.resume, "go on in a folder that exists; finished points are kept");
  sweep.add_flag("--extend", options.extend, "as --resume, with a sweep file that has other points or expectations by now");
  sweep.add_flag("--retry-failed", options.retry_failed, "run failed points again, and those that were left alone after several crashes");
  sweep.add_flag("--fail-fast", options.fail_fast, "end after the first failure");
  sweep.add_option("--attempts", options.attempts, "starts without an end (kill, crash) after which a point counts as failed")
      ->between(1, 1000000)
      ->capture_default_str();
  const Option* grace =
      sweep.add_option("--grace", options.grace, "after SIGTERM, SIGINT or SIGUSR1: the running point may end if it can within this time")
          ->capture_default_str();
  sweep.add_option("--budget", options.budget, "begin no point after this time: 90s, 5m, 2h; with --submit: in each start of a job");
  sweep.add_option("--point-limit", options.point_limit, "a point that takes longer has failed");
  sweep.add_option("--isolate", options.isolate, "process: every point in a process of its own")->one_of({"none", "process"})->capture_default_str();
  sweep.add_flag("--isolated", options.isolated, "this process is one that --isolate process started")->hidden();
  const Option* launch = sweep.add_option(
      "--launch", options.launch, "with --isolate process: what starts a point, for example 'srun --exact -n 4'; with --submit: default: the site's");
  sweep.add_option("--processes", options.processes, "of which --launch starts this many for a point; default: 1")
      ->between(1, 1000000)
      ->needs(launch);
  sweep.add_option("--files", options.files, "auto: results of points of less than 10 s share a file; each: every point has its own")
      ->one_of({"auto", "each"})
      ->capture_default_str();
  const Option* submit =
      sweep
          .add_option("--submit", options.submit, "submit this many Slurm jobs, each a part of the points, and one that merges; print what was done")
          ->between(1, 4096)
          ->excludes(part)
          ->excludes(grace);
  sweep.add_option("--at-once", options.at_once, "with --submit: jobs that may run at once; default: all")->between(1, 4096)->needs(submit);
  sweep.add_option("--site", options.site, "with --submit: partition, account, modules, GPUs; default: scripts/slurm/site.sh")->needs(submit);
  sweep.add_flag("--quiet,-q", options.quiet, "no progress and no summary");
  sweep.footer(
      "examples:\n  moekv sweep evict.yaml --dry-run\n  moekv sweep evict.yaml --out evict.sweep\n"
      "  moekv sweep evict.yaml --out evict.sweep --resume --part 0/4\n  moekv merge evict.sweep --out evict.h5\n"
      "exit code: 0 = every point is ok, 1 = some points failed, 75 = interrupted, go on with --resume");
}

}  // namespace

void add_sweep(Command& parent, Action& action) {
  auto options = std::make_shared<SweepOptions>();
  Command* sweep = parent.add_subcommand("sweep", "run every point of a sweep file, each into a result file of its own");
  add_options(*sweep, *options);
  sweep->callback([options, &action] {
    action.collective = true;
    action.run = [options] { return run_or_list(*options); };
  });
}

}  // namespace moekv
