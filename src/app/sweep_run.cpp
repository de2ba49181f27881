// The loop over the points of a sweep in this job: one after another, each with its own result, failures recorded, the end agreed on.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "app/collective.hpp"
#include "app/point.hpp"
#include "app/point_checkpoint.hpp"
#include "app/stop_signal.hpp"
#include "app/sweep_report.hpp"
#include "config/sweep_expect.hpp"
#include "core/heap.hpp"
#include "io/pending_file.hpp"

namespace moekv {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::int64_t shared_below_ns = 10'000'000'000;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// How a point ended. `reason` and `outcome` on process 0.
struct PointEnd {
  RunStatus status = RunStatus::ok;
  std::string reason;
  RunOutcome outcome;
  std::int64_t resumed_step = -1, saved_step = -1;
};

/// Decides after each step whether the point goes on: for --grace seconds after a signal if it can end in them, and until its own limit.
class PointWatch {
 public:
  /// `before`: seconds that earlier attempts spent on what this one goes on from.
  PointWatch(const SweepLimits& limits, bool first, double before)
      : limits_(limits), first_(first), limited_(first && limits.point > 0), before_(before) {}

  /// Process 0 judges by the progress; the others only make sure that the grace is kept.
  [[nodiscard]] bool must_stop(const Progress& p) {
    if (!limited_ && !stop_requested()) return false;  // asked after every step: no clock is read for it
    const double ran = before_ + seconds_since(start_);
    timed_out_ = limited_ && ran > limits_.point;
    if (timed_out_ || !stop_requested()) return timed_out_;
    if (!asked_) asked_ = Clock::now();
    const double left = limits_.grace - seconds_since(*asked_);
    const double done = p.total_tokens == 0 ? 0 : static_cast<double>(p.done_tokens) / static_cast<double>(p.total_tokens);
    return left <= 0 || (first_ && (done <= 0 || ran * (1 - done) / done > left));
  }
  [[nodiscard]] bool timed_out() const { return timed_out_; }

 private:
  const SweepLimits& limits_;
  bool first_, limited_;
  double before_;
  bool timed_out_ = false;
  Clock::time_point start_ = Clock::now();
  std::optional<Clock::time_point> asked_;
};

class SweepRun {
 public:
  SweepRun(const SweepOptions& options, const SweepWork& work, const SweepFolder& folder, Transport& job)
      : options_(options),
        work_(work),
        folder_(folder),
        limits_(read_limits(options)),
        job_(job),
        first_(job.process() == 0),
        report_(work.list.name, folder.path(), options.quiet) {}

  ExitCode operator()() {
    std::vector<std::string> argv{"moekv", "sweep", options_.config};
    argv.insert(argv.end(), options_.overrides.begin(), options_.overrides.end());
    provenance_ = collect_provenance(argv, job_);
    agree_on(job_, begin());
    catch_stop_signals(StopSignals::terminate_and_user);
    auto n = static_cast<std::int64_t>(todo_.size());
    job_.allreduce_max({&n, 1});
    bool stopped = n > 0 && stop_agreed();
    for (std::int64_t k = 0; k < n && !stopped; ++k) {
      one_point(static_cast<std::size_t>(k));
      stopped = stop_agreed();
    }
    return finish();
  }

 private:
  [[nodiscard]] bool stop_agreed() {
    std::int64_t stop = report_.must_end(options_.fail_fast, limits_.budget) ? 1 : 0;
    job_.allreduce_max({&stop, 1});
    return stop != 0;
  }

  /// On process 0: the journal, and what is left to do.
  Failure begin() {
    if (!first_) return {};
    try {
      journal_.emplace(folder_, work_.part.name());
      todo_ = take_up(options_, work_, folder_, *journal_, progress_);
      report_.begin(work_, progress_);
    } catch (...) {
      return current_failure();
    }
    return {};
  }

  /// On process 0.
  [[nodiscard]] const RunSpec& spec_of(std::size_t turn) const { return *work_.sweep.points[todo_[turn]].spec; }

  /// Keeping q, k and v costs memory that is new, which one point alone does not get back.
  [[nodiscard]] AskedAgain inputs_after(std::size_t turn) const {
    std::int64_t again = first_ && turn + 1 < todo_.size() && same_inputs(spec_of(turn), spec_of(turn + 1)) ? 1 : 0;
    job_.allreduce_max({&again, 1});
    return again > 0 ? AskedAgain::yes : AskedAgain::no;
  }

  /// `turn` counts todo_.
  void one_point(std::size_t turn) {
    const Clock::time_point start = Clock::now();
    const std::size_t index = first_ ? todo_[turn] : 0;
    const RunSpec spec = share_run_spec(first_ ? spec_of(turn) : RunSpec{}, job_);
    const std::int64_t attempt = first_ ? progress_[index].attempts + 1 : 0;
    if (attempt > 1) remove_leftovers(folder_.result_path(work_.list.points[index].id));
    if (first_) journal_->append({work_.list.points[index].id, SweepEvent::Kind::start, attempt, "", 0});
    Provenance provenance = provenance_;
    provenance.started_utc = utc_now();
    PointEnd end = run_one(spec, provenance, first_ ? work_.list.points[index] : ListedPoint{}, inputs_after(turn));
    if (!first_) return;
    try {
      record(index, attempt, spec, std::move(end), std::move(provenance), seconds_since(start));
    } catch (const SystemError& e) {  // a full disk: the sweep ends, and the point is not to blame
      journal_->append({work_.list.points[index].id, SweepEvent::Kind::interrupted, attempt, e.what(), 0});
      throw;
    }
  }

  /// Collective.
  PointEnd run_one(const RunSpec& spec, Provenance& provenance, const ListedPoint& point, AskedAgain inputs) {
    PointMachinery made;
    std::unique_ptr<Transport> own;
    Failure mine;
    try {
      own = own_transport(spec, job_);
      made = cache_.prepare(spec, job_.n_processes(), inputs);
    } catch (...) {
      mine = current_failure();
    }
    if (const Failure worst = worst_failure(job_, mine); worst.code != ExitCode::ok) return {RunStatus::failed, worst.text, {}};
    if (first_) add_point_facts(spec, made, provenance);
    PointCheckpoint checkpoint(folder_.checkpoint_base(point.id), spec, made.trace->info(), job_);
    if (!checkpoint.ignored().empty())
      report_.say(fmt::format("point {} starts again, what was saved of it is of no use: {}\n", point.id, checkpoint.ignored()));
    PointEnd end = replay_one(spec, made, own ? *own : job_, checkpoint);
    if (checkpoint.resumed()) end.resumed_step = static_cast<std::int64_t>(checkpoint.resumed()->step);
    if (checkpoint.saved()) end.saved_step = static_cast<std::int64_t>(checkpoint.saved()->step);
    if (!checkpoint.problem().empty())
      report_.say(fmt::format("point {} could not be saved and will start again: {}\n", point.id, checkpoint.problem()));
    return end;
  }

  PointEnd replay_one(const RunSpec& spec, const PointMachinery& made, Transport& transport, PointCheckpoint& checkpoint) {
    PointWatch watch(limits_, first_, checkpoint.resumed() ? static_cast<double>(checkpoint.resumed()->wall_ns) * 1e-9 : 0);
    ReplayHooks hooks;
    hooks.resume = checkpoint.state();
    hooks.stopped = [&](const StoppedRun& run) {
      std::int64_t timed_out = watch.timed_out() ? 1 : 0;
      job_.allreduce_max({&timed_out, 1});
      if (timed_out == 0) checkpoint.save(run);
    };
    hooks.interrupted = [&](const Progress& progress) { return watch.must_stop(progress); };
    try {
      const double cpu = cpu_seconds();
      RunOutcome outcome = run_point(spec, made, transport, hooks);
      report_.replayed(cpu_seconds() - cpu);
      if (!outcome.completed && watch.timed_out())
        return {RunStatus::failed, fmt::format("not finished after {} s (--point-limit)", limits_.point), {}};
      if (!outcome.completed) return {RunStatus::interrupted, stop_requested() ? stop_reason() : "another process was told to stop", {}};
      if (outcome.violations.empty()) return {RunStatus::ok, "", std::move(outcome)};
      std::string text = "conservation law violated: " + outcome.violations.front();
      return {RunStatus::failed, std::move(text), std::move(outcome)};
    } catch (...) {
      if (job_.n_processes() > 1) throw;  // the others may wait for this process: the job ends, and the point counts as crashed
      cache_.clear();
      return {RunStatus::failed, current_failure().text, {}};
    }
  }

  void record(std::size_t index, std::int64_t attempt, const RunSpec& spec, PointEnd end, Provenance provenance, double seconds) {
    const ListedPoint& point = work_.list.points[index];
    if (end.outcome.completed) {
      RunFile run = make_run_file(spec, std::move(end.outcome), std::move(provenance));
      run.point = {point.id, point.label, point.repeat, attempt};
      write_result(run);
      check_metrics(run.outcome.summary);
      end.outcome = std::move(run.outcome);
    }
    const auto kind = end.status == RunStatus::ok       ? SweepEvent::Kind::ok
                      : end.status == RunStatus::failed ? SweepEvent::Kind::failed
                                                        : SweepEvent::Kind::interrupted;
    journal_->append({point.id, kind, attempt, end.reason, seconds, end.resumed_step, end.saved_step});
    if ((attempt > 1 || end.resumed_step >= 0) && end.status != RunStatus::interrupted) remove_checkpoint(folder_.checkpoint_base(point.id));
    report_.point(point, index, end.status, end.reason, end.outcome);
  }

  /// Says of the first result which metric of an expectation it lacks: a misspelt one should not be found after the last.
  void check_metrics(const std::vector<Summary>& metrics) {
    if (std::exchange(metrics_checked_, true)) return;
    std::vector<std::string_view> names;
    for (const Summary& metric : metrics) names.emplace_back(metric.name);
    for (const SweepExpectation& expected : expectations_of(work_.sweep.text, work_.sweep.path)) {
      if (std::find(names.begin(), names.end(), expected.metric) != names.end()) continue;
      const std::string_view near = nearest_name(expected.metric, names);
      report_.say(fmt::format("warning: {}: expect '{}': this sweep measures no '{}'{}; correct it and go on with --extend\n", work_.sweep.path,
                              expected.claim, expected.metric, near.empty() ? "" : fmt::format(", did you mean '{}'?", near)));
    }
  }

  /// Making a file of its own takes a fifth of a second of CPU time: short points share one. A failed point stands alone, so that a retry can take it
  /// away.
  void write_result(RunFile& run) {
    for (Parameter& p : run.parameters) {
      p.swept = std::any_of(work_.list.swept.begin(), work_.list.swept.end(),
                            [&](const std::string& key) { return p.name.starts_with(key) && (p.name.size() == key.size() || p.name[key.size()] == '.'); });
    }
    const bool own_file = options_.files == "each" || run.status != RunStatus::ok || run.outcome.wall_ns > shared_below_ns;
    if (own_file) return write_run_file(folder_.result_path(run.point.id), run);
    if (!bundle_) bundle_.emplace(folder_.bundle_path(work_.part.name()));
    bundle_->append(run);
  }

  ExitCode finish() {
    auto code = static_cast<std::int64_t>(first_ ? report_.end() : ExitCode::ok);
    job_.allreduce_max({&code, 1});
    return static_cast<ExitCode>(code);
  }

  const SweepOptions& options_;
  const SweepWork& work_;
  const SweepFolder& folder_;
  SweepLimits limits_;
  Transport& job_;
  bool first_;
  SweepReport report_;
  Provenance provenance_;
  PointCache cache_;
  std::optional<SweepJournal> journal_;
  std::optional<BundleWriter> bundle_;  // of this part's short points
  std::vector<PointProgress> progress_;
  std::vector<std::size_t> todo_;
  bool metrics_checked_ = false;
};

}  // namespace

ExitCode run_sweep(const SweepOptions& options, const SweepWork& work, const SweepFolder& folder, Transport& job) {
  keep_freed_memory();
  return SweepRun(options, work, folder, job)();
}

}  // namespace moekv
