// One flag that signal handlers set and loops poll.
#include "app/stop_signal.hpp"

#include <csignal>

namespace moekv {
namespace {

volatile std::sig_atomic_t received = 0;  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables): a signal handler reaches nothing else

extern "C" void request_stop(int signal) { received = signal; }

}  // namespace

void catch_stop_signals(StopSignals which) {
  struct sigaction action {};
  action.sa_handler = request_stop;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
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
