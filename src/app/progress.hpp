// Progress of a run on stderr: a line that rewrites itself on a terminal, one line per half a minute elsewhere.
#pragma once

#include <chrono>
#include <string>

#include "engine/replay.hpp"

namespace moekv {

/// m:ss, from an hour on h:mm:ss.
[[nodiscard]] std::string clock_text(double seconds);

class ProgressLine {
 public:
  explicit ProgressLine(bool terminal) : terminal_(terminal) {}
  /// Shows the state if it is time to.
  void show(const Progress& progress);
  /// Ends the rewritten line, so that what follows starts on its own.
  void end();

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_;
  bool drawn_ = false;
  Clock::time_point start_ = Clock::now(), last_ = start_;
};

}  // namespace moekv
