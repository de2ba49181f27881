// Time to go is what is left over the mean speed of the points that this job has run.
#include "app/sweep_report.hpp"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "app/progress.hpp"
#include "app/stop_signal.hpp"

namespace moekv {

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

SweepReport::SweepReport(std::string name, std::string folder, bool quiet)
    : name_(std::move(name)), folder_(std::move(folder)), quiet_(quiet), terminal_(isatty(STDERR_FILENO) != 0), cpu_start_(cpu_seconds()) {}

void SweepReport::begin(const SweepWork& work, const std::vector<PointProgress>& progress) {
  constexpr std::size_t most_told = 3;
  std::size_t cannot_run = 0;
  for (const std::size_t i : work.chosen) {
    const ListedPoint& point = work.list.points[i];
    ok_ += progress[i].status == RunStatus::ok ? 1 : 0;
    failed_ += progress[i].status == RunStatus::failed ? 1 : 0;
    if (!point.error.empty() && ++cannot_run <= most_told) say(fmt::format("point {} {} cannot run: {}\n", i, point.id, point.error));
  }
  if (cannot_run > most_told) say(fmt::format("{} more points cannot run: --status says why\n", cannot_run - most_told));
  all_ = work.chosen.size();
  before_ = ok_ + failed_;
  failed_before_ = failed_;
  begun_ = true;
}

bool SweepReport::must_end(bool fail_fast, double budget) {
  if (stop_requested()) {
    ending_ = stop_reason();
    failed_fast_ = false;
  } else if (begun_ && ending_.empty()) {
    failed_fast_ = fail_fast && failed_ > failed_before_;
    ending_ = failed_fast_ ? "--fail-fast" : budget > 0 && seconds() > budget ? "budget of time" : "";
  }
  return !ending_.empty();
}

double SweepReport::seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

void SweepReport::point(const ListedPoint& point, std::size_t index, RunStatus status, const std::string& reason, const RunOutcome& outcome) {
  for (const Summary& s : outcome.summary) {
    if (s.name == "useful_fraction") step_seconds_ += s.numerator * 1e-9;
  }
  replay_seconds_ += static_cast<double>(outcome.wall_ns) * 1e-9;
  if (status == RunStatus::ok) ok_ += 1;
  if (status == RunStatus::failed) {
    failed_ += 1;
    say(fmt::format("point {} {} failed: {}\n", index, point.id, reason));
  }
  if (status != RunStatus::interrupted) show_progress(point);
}

ExitCode SweepReport::end() {
  say("");
  const double wall = seconds();
  if (!quiet_) {
    fmt::print("{}: {} of {} points: {} ok, {} failed; {}\n", name_, ok_ + failed_, all_, ok_, failed_, folder_);
    if (ok_ + failed_ > before_ && replay_seconds_ > 0) {
      const double cpu = cpu_seconds() - cpu_start_, points = static_cast<double>(ok_ + failed_ - before_);
      fmt::print("  {:.2f} s, {:.3f} of it inside steps, {:.3f} inside replays; {:.2f} CPU s, {:.1f} ms a point outside replays\n", wall,
                 step_seconds_ / wall, replay_seconds_ / wall, cpu, 1e3 * (cpu - replay_cpu_) / points);
    }
    std::fflush(stdout);
  }
  if (!ending_.empty() && left() > 0) say(fmt::format("interrupted ({}): {} of {} points are left; go on with --resume\n", ending_, left(), all_));
  if (left() > 0 && !failed_fast_) return ExitCode::interrupted;
  return failed_ > 0 ? ExitCode::points_failed : ExitCode::ok;
}

void SweepReport::say(const std::string& text) {
  if (drawn_) fmt::print(stderr, "\r\x1b[K");
  drawn_ = false;
  fmt::print(stderr, "{}", text);
  std::fflush(stderr);
}

void SweepReport::show_progress(const ListedPoint& point) {
  if (quiet_ || (!terminal_ && Clock::now() - shown_ < std::chrono::seconds(30))) return;
  shown_ = Clock::now();
  const std::size_t done = ok_ + failed_;
  const double eta = seconds() / static_cast<double>(std::max<std::size_t>(1, done - before_)) * static_cast<double>(left());
  say(fmt::format("[{:4}/{}] {:3}% eta {}  ok {} fail {}  {} {}{}", done, all_, 100 * done / std::max<std::size_t>(1, all_), clock_text(eta), ok_,
                  failed_, point.label, settings_text(point), terminal_ ? "" : "\n"));
  drawn_ = terminal_;
}

}  // namespace moekv
