// What the parts of moekv sweep share: the options, the work that they select, and one function per thing to do with it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/transport.hpp"
#include "config/sweep.hpp"
#include "core/error.hpp"
#include "results/sweep_folder.hpp"

namespace moekv {

struct SweepOptions {
  std::string config;
  std::vector<std::string> overrides;
  std::string out, only, part;
  bool list = false, dry_run = false, status = false, json = false, quiet = false;
  bool resume = false, extend = false, retry_failed = false, fail_fast = false;
  std::uint32_t attempts = 3;  // starts without an end after which a point is left alone
  std::string grace = "30s", budget, point_limit;
  std::string isolate = "none", launch, files = "auto";
  bool isolated = false;                  // this process is one that --isolate process started
  std::uint32_t processes = 0;            // that --launch starts; 0: one
  std::uint32_t submit = 0, at_once = 0;  // jobs of the batch system; 0: none
  std::string site;
};

/// "90s", "5m", "2h" in seconds; 0 for no text. Throws UserError that names the option.
[[nodiscard]] double parse_duration(const std::string& text, const char* option);

/// The limits of --grace, --budget and --point-limit, in seconds; 0 = none.
struct SweepLimits {
  double grace = 0, budget = 0, point = 0;
};
[[nodiscard]] SweepLimits read_limits(const SweepOptions& options);

/// The part of a sweep that this job does: every n-th point in the order of the ids, which is a fair mix of cheap and dear ones.
struct SweepPart {
  std::size_t index = 0, count = 1;
  std::string isolated;  // id of the one point of a child of --isolate process
  [[nodiscard]] std::string name() const;
};

/// A sweep with what is chosen of it. On process 0; elsewhere empty.
struct SweepWork {
  Sweep sweep;
  SweepList list;
  SweepPart part;
  std::vector<std::size_t> chosen;  // indices of points, ascending
};

/// The list of the sweep as its folder keeps it.
[[nodiscard]] SweepList make_list(const Sweep& sweep);
/// Points of --part and --only; none where there are more parts than points. Throws UserError where an option cannot be read, or an item of --only
/// names nothing.
[[nodiscard]] std::vector<std::size_t> choose_points(const SweepOptions& options, const SweepList& list, SweepPart& part);
/// "key=value, key=value" of a point.
[[nodiscard]] std::string settings_text(const ListedPoint& point);

void print_points(const SweepWork& work);
/// Memory and modelled time of every chosen point; points_failed where one cannot run here.
[[nodiscard]] ExitCode print_plans(const SweepWork& work, bool json);
[[nodiscard]] ExitCode print_status(const SweepFolder& folder, bool json);

/// True for points that get the same q, k and v, if they have the same requests.
[[nodiscard]] bool same_inputs(const RunSpec& a, const RunSpec& b);
/// Points of `work` that are still to be run, after --retry-failed and quarantine, which are journalled; those of the same inputs one after the
/// other, so that these are made once. `progress` as they stand then.
[[nodiscard]] std::vector<std::size_t> take_up(const SweepOptions& options, const SweepWork& work, const SweepFolder& folder, SweepJournal& journal,
                                               std::vector<PointProgress>& progress);

/// Collective. Runs the chosen points that are not finished.
[[nodiscard]] ExitCode run_sweep(const SweepOptions& options, const SweepWork& work, const SweepFolder& folder, Transport& job);
/// The same, each point in a process (with --launch: a job step) of its own, so that a crash is one point's.
[[nodiscard]] ExitCode run_isolated(const SweepOptions& options, const SweepWork& work, const SweepFolder& folder);
/// Processes that share a point in each job of --submit, as the site file says.
[[nodiscard]] int processes_of_jobs(const SweepOptions& options);
/// Before the folder is made: UserError where the site file asks for less memory than a chosen point needs. Prints where nothing can be compared, and
/// which points make no run there.
void check_job_memory(const SweepOptions& options, const SweepWork& work);
/// Before the folder is made: DeviceMissing where there is no Slurm, UserError where it takes no jobs for this folder.
void check_submission(const SweepOptions& options, const SweepFolder& folder);
/// Writes and submits jobs for the chosen points of a folder that is ready, and prints what it did.
void submit_sweep(const SweepOptions& options, const SweepWork& work, const SweepFolder& folder);

}  // namespace moekv
