// What a sweep says while it runs: a line of progress, failures as they come, the sum at the end.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "app/sweep.hpp"
#include "engine/records.hpp"

namespace moekv {

/// CPU time of this process so far.
[[nodiscard]] double cpu_seconds();

class SweepReport {
 public:
  SweepReport(std::string name, std::string folder, bool quiet);
  /// What the chosen points have come to already, and which of them cannot run.
  void begin(const SweepWork& work, const std::vector<PointProgress>& progress);
  /// A point ended; `outcome` may be empty.
  void point(const ListedPoint& point, std::size_t index, RunStatus status, const std::string& reason, const RunOutcome& outcome);
  /// Lines on stderr, in place of the line of progress.
  void say(const std::string& text);
  /// CPU time inside a replay: what is left of the sweep's is its overhead.
  void replayed(double cpu) { replay_cpu_ += cpu; }
  /// Whether no further point begins: after a signal, or where begin() was called after `budget` seconds (0: none) and with `fail_fast` a failure.
  [[nodiscard]] bool must_end(bool fail_fast, double budget);
  /// The last words: the sum on stdout, and on stderr why the sweep ends before all points are done. What the sweep comes to: interrupted where
  /// points are left that --resume should go on with.
  [[nodiscard]] ExitCode end();

 private:
  using Clock = std::chrono::steady_clock;
  [[nodiscard]] std::size_t left() const { return all_ - ok_ - failed_; }
  [[nodiscard]] double seconds() const;
  void show_progress(const ListedPoint& point);

  std::string name_, folder_;
  bool quiet_, terminal_, drawn_ = false, begun_ = false, failed_fast_ = false;
  std::string ending_;  // why no further point begins
  std::size_t all_ = 0, ok_ = 0, failed_ = 0, before_ = 0, failed_before_ = 0;
  double step_seconds_ = 0, replay_seconds_ = 0, replay_cpu_ = 0, cpu_start_;
  Clock::time_point start_ = Clock::now(), shown_ = start_;
};

}  // namespace moekv
