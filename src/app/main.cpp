// The program: parses the command line, starts MPI where a launcher asks for it, runs one subcommand, maps every failure to its exit code.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <thread>

#include "app/collective.hpp"
#include "app/command.hpp"
#include "comm/mpi_session.hpp"
#include "core/error.hpp"
#include "results/build_info.hpp"

namespace moekv {
namespace {

int code(ExitCode c) { return static_cast<int>(c); }

/// Ends the job: other processes may be waiting in a collective, so an MPI job is aborted, never finalized.
/// A failure that several processes meet is told by the first: the others wait before they speak, and are gone by then.
int fail(const std::optional<MpiSession>& mpi, ExitCode exit_code, const std::string& text, bool say) {
  if (say && mpi && mpi->process() > 0) std::this_thread::sleep_for(std::chrono::seconds(2));
  if (say) fmt::print(stderr, "{}\n", text);
  std::fflush(stderr);
  if (mpi && mpi->n_processes() > 1) MpiSession::abort(code(exit_code));
  return code(exit_code);
}

/// A standard stream that was closed would be the next file that is opened: a result would get the program's text. Output to it still fails.
void hold_standard_streams() {
  for (int fd = 0; fd < 3; ++fd) {
    if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", O_RDONLY) < 0) return;
  }
}

void flush_output() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    throw SystemError(fmt::format("cannot write to standard output: {}", std::strerror(errno)));
}

ExitCode run(const Action& action) {
  try {
    return action.run();
  } catch (const AgreedFailure& failure) {  // every process has it, and it was told
    return failure.code;
  }
}

int guarded_main(int argc, char** argv) {
  CommandLine line("moekv: replays MoE routing traces through real sharded KV caches and measures what it costs", "moekv");
  line.program().require_subcommand(1);
  line.program().version("moekv " + build_text());
  Action action;
  add_commands(line.program(), action);

  std::optional<MpiSession> mpi;
  if (MpiSession::launched_by_launcher()) mpi.emplace(argc, argv);
  const bool first = !mpi || mpi->process() == 0;
  try {
    const std::string help = line.parse(argc, argv);
    if (!help.empty()) {
      if (first) fmt::print("{}", help);
      return code(ExitCode::ok);
    }
  } catch (const CommandLineError& e) {
    const std::string hint = "moekv --help lists subcommands and options";
    return fail(std::nullopt, ExitCode::usage, fmt::format("<command line>: error: {} ({})", e.what(), hint), first);
  }
  if (!action.collective && !first) return code(ExitCode::ok);
  try {
    const ExitCode result = run(action);
    flush_output();
    return code(result);
  } catch (const std::exception&) {
    const Failure failure = current_failure();
    return fail(mpi, failure.code, line_of(failure), true);
  }
}

}  // namespace
}  // namespace moekv

int main(int argc, char** argv) {
  moekv::hold_standard_streams();
  try {
    return moekv::guarded_main(argc, argv);
  } catch (const std::exception& e) {
    std::fputs(e.what(), stderr);
  } catch (...) {
    std::fputs("internal error: unknown exception", stderr);
  }
  return moekv::code(moekv::ExitCode::internal);
}
