// What the processes of a job do alike: agree on failures, so that a message is printed once and nobody waits for a process that has left.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/transport.hpp"
#include "core/error.hpp"
#include "engine/run_spec.hpp"

namespace moekv {

/// Thrown on every process after a failure was agreed on and printed.
struct AgreedFailure {
  ExitCode code;
};

/// Exit code and text of the exception being handled.
struct Failure {
  ExitCode code = ExitCode::ok;
  std::string text;
};
[[nodiscard]] Failure current_failure();
/// As it is told on stderr.
[[nodiscard]] std::string line_of(const Failure& failure);

/// Collective. The worst exit code of all processes on each; on process 0 also every distinct text once, in lines.
[[nodiscard]] Failure worst_failure(Transport& transport, const Failure& mine);
/// Collective. Prints every distinct text once on process 0 and throws AgreedFailure everywhere if any process failed.
void agree_on(Transport& transport, const Failure& mine);

/// Collective. Runs `work`, which must not communicate, on every process; a failure of any becomes an AgreedFailure of all.
template <class Work>
[[nodiscard]] auto agree(Transport& transport, Work&& work) {
  std::optional<decltype(work())> result;
  Failure failure;
  try {
    result.emplace(work());
  } catch (...) {
    failure = current_failure();
  }
  agree_on(transport, failure);
  return std::move(*result);
}

/// All processes of the job: MPI under a launcher, else this one.
[[nodiscard]] std::unique_ptr<Transport> make_job_transport();

/// Collective. The specification of process 0 on every process.
[[nodiscard]] RunSpec share_run_spec(RunSpec spec, Transport& transport);

/// Collective. Process 0 reads the configuration and its overrides; the others get the resolved specification from it.
[[nodiscard]] RunSpec read_run_spec_everywhere(const std::string& path, const std::vector<std::string>& overrides, Transport& transport);

}  // namespace moekv
