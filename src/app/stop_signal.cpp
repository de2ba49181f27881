// One flag that signal handlers set and loops poll.
#include "app/stop_signal.hpp"

#include <csignal>
#include <ctime>

namespace moekv {
namespace {

volatile std::sig_atomic_t received = 0;  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables): a signal handler reaches nothing else

volatile std::sig_atomic_t received_s = 0;  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)

std::sig_atomic_t seconds_now() {
  struct timespec now {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::sig_atomic_t>(now.tv_sec);
}

/// A launcher, a shell and a parent may each pass on one request: what comes within two seconds is the same. A later one ends the program.
extern "C" void request_stop(int signal) {
  if (received == 0) {
    received_s = seconds_now();
    received = signal;
  } else if (seconds_now() - received_s >= 2) {
    std::signal(signal, SIG_DFL);
    (void)raise(signal);
  }
}

}  // namespace

void catch_stop_signals(StopSignals which) {
  struct sigaction action {};
  action.sa_handler = request_stop;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  if (which == StopSignals::terminate_and_user) sigaction(SIGUSR1, &action, nullptr);
}

bool stop_requested() { return received != 0; }

const char* stop_reason() {
  switch (received) {
    case 0:
      return "";
    case SIGINT:
      return "SIGINT";
    case SIGTERM:
      return "SIGTERM";
    default:
      return "SIGUSR1";
  }
}

}  // namespace moekv
