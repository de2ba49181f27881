// Loaded before libc (LD_PRELOAD), it holds a sweep after a point, so that a test's signals always meet work that is left to do: a process that tells
// its journal JOURNAL of a finished point while there is a file $MOEKV_HOLD/JOURNAL renames that to JOURNAL.held and waits until a signal has reached it;
// until it is killed where the file says so.
#include <dlfcn.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>

namespace {

volatile std::sig_atomic_t signal_has_come = 0;
void (*volatile handler_of_program)(int) = nullptr;  // one for all its signals

void note_and_hand_on(int number) {
  signal_has_come = 1;
  handler_of_program(number);
}

void hold(const std::string& journal) {
  const std::string file = std::string(std::getenv("MOEKV_HOLD")) + "/" + journal, held = file + ".held";
  if (std::rename(file.c_str(), held.c_str()) != 0) return;
  std::string until;
  std::ifstream(held) >> until;
  while (std::filesystem::exists(held) && (until == "killed" || signal_has_come == 0)) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

}  // namespace

extern "C" int sigaction(int number, const struct sigaction* action, struct sigaction* old) noexcept {
  static const auto libc_sigaction = reinterpret_cast<int (*)(int, const struct sigaction*, struct sigaction*)>(dlsym(RTLD_NEXT, "sigaction"));
  const bool program_catches = action != nullptr && (number == SIGTERM || number == SIGUSR1) && (action->sa_flags & SA_SIGINFO) == 0 &&
                               action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN;
  if (!program_catches) return libc_sigaction(number, action, old);
  handler_of_program = action->sa_handler;
  struct sigaction noted = *action;
  noted.sa_handler = note_and_hand_on;
  return libc_sigaction(number, &noted, old);
}

extern "C" ssize_t write(int fd, const void* data, size_t size) {
  static const auto libc_write = reinterpret_cast<ssize_t (*)(int, const void*, size_t)>(dlsym(RTLD_NEXT, "write"));
  const ssize_t written = libc_write(fd, data, size);
  if (std::string_view(static_cast<const char*>(data), size).find("\"event\":\"ok\"") != std::string_view::npos) {
    std::error_code none;
    hold(std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd), none).filename());
  }
  return written;
}
