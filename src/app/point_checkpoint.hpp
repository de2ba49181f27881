// PointCheckpoint: what an interrupted point of a sweep leaves behind, and goes on from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "comm/transport.hpp"
#include "engine/replay.hpp"
#include "engine/run_spec.hpp"
#include "results/checkpoint_file.hpp"
#include "trace/source.hpp"

namespace moekv {

class PointCheckpoint {
 public:
  /// Collective. Looks for a saved state beside `base` (process 0 names it), which all processes take or none.
  PointCheckpoint(const std::string& base, const RunSpec& spec, const TraceInfo& trace, Transport& job);

  /// What the run goes on from; null where it starts at its beginning.
  [[nodiscard]] StateStream* state() { return reader_ ? &*reader_ : nullptr; }
  [[nodiscard]] const std::optional<CheckpointFacts>& resumed() const { return resumed_; }
  /// On process 0: why a state that lay there was not taken; empty where it was, or none lay there.
  [[nodiscard]] const std::string& ignored() const { return ignored_; }

  /// Collective. Replaces an older state once the new one is complete. Where that fails, `problem` says why on process 0 and the older one stays.
  void save(const StoppedRun& run);
  [[nodiscard]] const std::optional<CheckpointFacts>& saved() const { return saved_; }
  [[nodiscard]] const std::string& problem() const { return problem_; }

 private:
  [[nodiscard]] CheckpointManifest find_manifest();

  std::string base_;
  const RunSpec& spec_;
  const TraceInfo& trace_;
  Transport& job_;
  std::optional<CheckpointReader> reader_;
  std::optional<CheckpointFacts> resumed_, saved_;
  std::string ignored_, problem_;
};

}  // namespace moekv
