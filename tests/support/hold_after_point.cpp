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

/// The program's handlers are for one signal each (SA_RESETHAND): one that has come is handled by default again.
bool signal_has_come() {
  for (const int number : {SIGTERM, SIGUSR1}) {
    struct sigaction now {};
    if (sigaction(number, nullptr, &now) == 0 && now.sa_handler == SIG_DFL) return true;
  }
  return false;
}

void hold(const std::string& journal) {
  const std::string file = std::string(std::getenv("MOEKV_HOLD")) + "/" + journal, held = file + ".held";
  if (std::rename(file.c_str(), held.c_str()) != 0) return;
  std::string until;
  std::ifstream(held) >> until;
  while (std::filesystem::exists(held) && (until == "killed" || !signal_has_come())) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

}  // namespace

extern "C" ssize_t write(int fd, const void* data, size_t size) {
  static const auto libc_write = reinterpret_cast<ssize_t (*)(int, const void*, size_t)>(dlsym(RTLD_NEXT, "write"));
  const ssize_t written = libc_write(fd, data, size);
  if (std::string_view(static_cast<const char*>(data), size).find("\"event\":\"ok\"") != std::string_view::npos) {
    std::error_code none;
    hold(std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd), none).filename());
  }
  return written;
}
