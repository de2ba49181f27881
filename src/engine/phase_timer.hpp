// PhaseTimer: adds the time between two marks to a field of the current window. One clock read per phase boundary.
#pragma once

#include <chrono>
#include <cstdint>

namespace moekv {

class PhaseTimer {
 public:
  using Clock = std::chrono::steady_clock;
  PhaseTimer() : last_(Clock::now()) {}
  /// Adds the time since the last mark to `total_ns` and marks.
  void lap(std::int64_t& total_ns) {
    const auto now = Clock::now();
    total_ns += std::chrono::duration_cast<std::chrono::nanoseconds>(now - last_).count();
    last_ = now;
  }

 private:
  Clock::time_point last_;
};

}  // namespace moekv
