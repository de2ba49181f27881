// StartGuard: ends a launcher that hangs because a process died while MPI was starting.
#pragma once

#include <sys/types.h>

namespace moekv {

/// Open MPI 4.1's mpirun can deadlock when a process is killed during its first handshake: every process of the job is gone, mpirun stays.
/// While a guard lives, a small process watches this one. If this one dies and its launcher (mpirun, orted) is still there `patience_s` later,
/// the launcher is killed. Does nothing where another program is the parent. Make it before any thread exists and destroy it once MPI runs.
class StartGuard {
 public:
  static constexpr int patience_s = 6;
  StartGuard();
  /// Dismisses the watcher and waits for its end.
  ~StartGuard();
  StartGuard(const StartGuard&) = delete;
  StartGuard& operator=(const StartGuard&) = delete;

 private:
  pid_t watcher_ = -1;
  int alive_ = -1;  // write end of a pipe: closed without a byte when this process dies
};

}  // namespace moekv
