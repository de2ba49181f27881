// Writes the hand-made sample run to files, for tests of the programs that read them.
// usage: sample_run_writer FILE [empty | different]      or: sample_run_writer FOLDER endless
#include <fmt/format.h>

#include <string_view>

#include "support/sample_run_file.hpp"

int main(int argc, char** argv) {
  using namespace moekv;
  if (argc < 2) return 2;
  const std::string_view variant = argc > 2 ? argv[2] : "";
  RunFile run = sample_run();
  if (variant == "empty") {
    run.outcome = RunOutcome{};
    run.outcome.summary = summarise(sample_spec(), run.outcome);
    run.outcome.completed = true;
  }
  if (variant == "different") {
    run.outcome.steps[1].n_hit -= 1;
    run.outcome.window_digests[1].low += 1;
    run.outcome.digest.low += 1;
  }
  for (int i = 0; variant == "endless"; ++i) write_run_file(fmt::format("{}/{}.h5", argv[1], i), run);
  write_run_file(argv[1], run);
  return 0;
}
