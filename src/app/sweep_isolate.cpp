// Every point in a process of its own: this program starts itself for one point, and records what the child could not say itself.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "app/child_process.hpp"
#include "app/stop_signal.hpp"
#include "app/sweep_report.hpp"
#include "io/file_descriptor.hpp"

namespace moekv {
namespace {

using Clock = std::chrono::steady_clock;

std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> out;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    if (end > begin) out.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

/// The command that runs one point alone, in a part of its own name.
std::vector<std::string> child_command(const SweepOptions& options, const std::string& folder, const ListedPoint& point) {
  std::vector<std::string> command = words(options.launch);
  command.insert(command.end(), {std::filesystem::read_symlink("/proc/self/exe").string(), "sweep", options.config});
  command.insert(command.end(), options.overrides.begin(), options.overrides.end());
  command.insert(command.end(), {"--out", folder, "--resume", "--quiet", "--isolated", "--only", point.id, "--grace", options.grace, "--files",
                                 options.files, "--attempts", std::to_string(options.attempts)});
  if (!options.point_limit.empty()) command.insert(command.end(), {"--point-limit", options.point_limit});
  return command;
}

/// Starts a child whose output goes to `log`.
pid_t start(const std::vector<std::string>& command, const std::string& log) {
  const FileDescriptor out(::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  return start_child(command, {out.get(), out.get()}, ChildLife::until_parent_dies);
}

/// Waits; a signal to this process goes on to the child once, which then keeps its grace: as SIGUSR1, for srun and mpirun kill what they started
/// after a SIGTERM.
int wait_for(pid_t child) {
  int status = 0;
  for (bool told = false; ::waitpid(child, &status, WNOHANG) == 0;) {
    if (stop_requested() && !told) told = ::kill(child, SIGUSR1) == 0;
    ::usleep(2000);
  }
  return status;
}

/// The last words of a log, on one line.
std::string tail_of(const std::string& log) {
  std::ifstream in(log);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (text.size() > 400) text = "..." + text.substr(text.size() - 400);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::string death_text(int status, const std::string& log) {
  const std::string tail = tail_of(log);
  const std::string how = WIFSIGNALED(status) ? fmt::format("killed by signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)))
                                              : fmt::format("ended with exit code {}", WEXITSTATUS(status));
  return how + (tail.empty() ? "" : ": " + tail);
}

/// Points one after another, each by a child.
class IsolatedRun {
 public:
  IsolatedRun(const SweepOptions& options, const SweepWork& work, const SweepFolder& folder)
      : options_(options),
        work_(work),
        folder_(folder),
        limits_(read_limits(options)),
        report_(work.list.name, folder.path(), options.quiet),
        journal_(folder, work.part.name()) {}

  ExitCode operator()() {
    std::vector<PointProgress> progress;
    const std::vector<std::size_t> todo = take_up(options_, work_, folder_, journal_, progress);
    report_.begin(work_, progress);
    catch_stop_signals(StopSignals::terminate_and_user);
    bool ended = report_.must_end(options_.fail_fast, limits_.budget);
    for (auto index = todo.begin(); index != todo.end() && !ended; ++index) {
      one_point(*index, progress[*index].attempts + 1);
      ended = report_.must_end(options_.fail_fast, limits_.budget);
    }
    return report_.end();
  }

 private:
  void one_point(std::size_t index, std::int64_t attempt) {
    const ListedPoint& point = work_.list.points[index];
    const std::string log = fmt::format("{}/{}.log", folder_.journal_folder(), point.id);
    const Clock::time_point begin = Clock::now();
    const int status = wait_for(start(child_command(options_, folder_.path(), point), log));
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    const PointProgress now = folder_.progress({work_.list.name, "", "", "", {}, {point}}).front();
    const bool said = now.status == RunStatus::ok || now.status == RunStatus::failed || (now.status == RunStatus::interrupted && !now.reason.empty());
    PointProgress end = now;
    if (!said && now.running) {  // one that a killed parent left behind: the child could not take the point
      end.reason = "another process works on it";
      report_.say(fmt::format("point {} {} is left out: {}\n", index, point.id, end.reason));
    } else if (!said && stop_requested()) {  // whoever stops this process stopped the point as well
      end.status = RunStatus::interrupted;
      end.reason = stop_reason();
      journal_.append({point.id, SweepEvent::Kind::interrupted, attempt, end.reason, seconds});
    } else if (!said && WIFEXITED(status) && WEXITSTATUS(status) == static_cast<int>(ExitCode::usage)) {  // what is wrong is wrong for every point
      throw UserError(options_.config, fmt::format("the process of point {} refuses the sweep: {}", point.id, tail_of(log)),
                      "undo what changed since the sweep began, then go on with --resume");
    } else if (!said) {
      end.status = RunStatus::failed;
      end.reason = death_text(status, log);
      journal_.append({point.id, SweepEvent::Kind::failed, attempt, end.reason, seconds});
    }
    if (end.status == RunStatus::ok) std::filesystem::remove(log);
    report_.point(point, index, end.status, end.reason, {});
  }

  const SweepOptions& options_;
  const SweepWork& work_;
  const SweepFolder& folder_;
  SweepLimits limits_;
  SweepReport report_;
  SweepJournal journal_;
};

}  // namespace

ExitCode run_isolated(const SweepOptions& options, const SweepWork& work, const SweepFolder& folder) { return IsolatedRun(options, work, folder)(); }

}  // namespace moekv
