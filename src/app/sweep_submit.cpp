// moekv sweep --submit: the folder is made ready here, jobs are written and submitted by scripts/slurm/submit.sh.
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "app/sweep.hpp"
#include "config/library.hpp"

namespace moekv {
namespace {

/// A file of scripts/slurm, beside the folder of configurations.
std::string script_path(const std::string& name) {
  for (const std::string& configs : config_directories()) {
    const std::filesystem::path path = std::filesystem::path(configs).parent_path() / "scripts/slurm" / name;
    if (std::filesystem::exists(path)) return path.string();
  }
  throw UserError("scripts/slurm/" + name, "is not where this program looks", "set MOEKV_CONFIGS to the folder configs beside scripts");
}

}  // namespace

ExitCode submit_sweep(const SweepOptions& options, const SweepFolder& folder) {
  std::vector<std::string> command{script_path("submit.sh"),
                                   options.site.empty() ? script_path("site.sh") : options.site,
                                   std::filesystem::read_symlink("/proc/self/exe").string(),
                                   folder.path(),
                                   options.config,
                                   fmt::format("{}", options.submit),
                                   fmt::format("{}", options.at_once == 0 ? options.submit : options.at_once)};
  command.insert(command.end(), options.overrides.begin(), options.overrides.end());
  if (!options.only.empty()) command.insert(command.end(), {"--only", options.only});
  if (options.files != "auto") command.insert(command.end(), {"--files", options.files});
  if (options.retry_failed) command.emplace_back("--retry-failed");
  if (!options.point_limit.empty()) command.insert(command.end(), {"--point-limit", options.point_limit});
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child < 0) throw SystemError(fmt::format("fork: {}", std::strerror(errno)));
  if (child == 0) {
    std::vector<char*> arguments;
    for (std::string& word : command) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 70;
  if (code == 0) fmt::print("moekv sweep {} --status says how far they are\n", folder.path());
  if (code != 0 && code != 3) throw SystemError(fmt::format("{} ended with exit code {}", command.front(), code));
  return static_cast<ExitCode>(code);
}

}  // namespace moekv
