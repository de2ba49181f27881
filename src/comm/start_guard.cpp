// The watcher is a forked child that holds nothing but the read end of a pipe.
#include "comm/start_guard.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

namespace moekv {
namespace {

constexpr std::array<std::string_view, 6> launchers{"mpirun", "mpiexec", "orterun", "orted", "prterun", "prted"};

/// Name and start time of a process: tells a process from a later one with its number. Empty when there is none.
std::string identity(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  const std::string stat{std::istreambuf_iterator<char>(file), {}};
  const auto open = stat.find('('), close = stat.rfind(')');
  if (open == std::string::npos || close == std::string::npos) return {};
  constexpr int start_time_field = 20;  // after the name: field 22 of proc(5)
  std::size_t at = close;
  for (int i = 0; i < start_time_field && at != std::string::npos; ++i) at = stat.find(' ', at + 1);
  if (at == std::string::npos) return {};
  return stat.substr(open + 1, close - open - 1) + stat.substr(at, stat.find(' ', at + 1) - at);
}

bool is_launcher(std::string_view identity) {
  return std::any_of(launchers.begin(), launchers.end(),
                     [&](std::string_view name) { return identity.substr(0, identity.find(' ')) == name; });
}

/// Runs in the child: its streams would keep the launcher waiting for their end, its group would be signalled with the job.
[[noreturn]] void watch(int alive, pid_t launcher, const std::string& launcher_identity) {
  setsid();
  const auto max_files = static_cast<int>(std::clamp<long>(sysconf(_SC_OPEN_MAX), 3, 1024));
  for (int fd = 0; fd < max_files; ++fd) {
    if (fd != alive) close(fd);
  }
  char dismissed = 0;
  ssize_t n = 0;
  do {
    n = read(alive, &dismissed, 1);
  } while (n < 0 && errno == EINTR);
  if (n == 1) _exit(0);
  sleep(StartGuard::patience_s);
  if (identity(launcher) == launcher_identity) kill(launcher, SIGKILL);
  _exit(0);
}

}  // namespace

StartGuard::StartGuard() {
  const pid_t launcher = getppid();
  const std::string launcher_identity = identity(launcher);
  std::array<int, 2> ends{};
  if (!is_launcher(launcher_identity) || pipe2(ends.data(), O_CLOEXEC) != 0) return;
  watcher_ = fork();
  if (watcher_ == 0) {
    close(ends[1]);
    watch(ends[0], launcher, launcher_identity);
  }
  close(ends[0]);
  alive_ = ends[1];
}

StartGuard::~StartGuard() {
  if (alive_ >= 0) {
    const char byte = 1;
    [[maybe_unused]] const ssize_t written = write(alive_, &byte, 1);
    close(alive_);
  }
  if (watcher_ > 0) waitpid(watcher_, nullptr, 0);
}

}  // namespace moekv
