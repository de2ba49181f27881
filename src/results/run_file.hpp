// The result file of one run: HDF5, schema "moekv-sweep/1" with a point dimension of 1, so that many such files merge by concatenation.
//
// /                   attributes: schema, title, history, times, build, configuration as given and resolved
// /point ...          point_id, status, error, labels, notes, violations, digest, wall_time
// /param/<key>        every configuration key after defaults
// /metric/<name>      summary numbers; /metric_numerator/<name> and /metric_denominator/<name> of those that are ratios
// /model/<name>       what moekv plan predicts for some of them
// /record/<kind>/<f>  one column per field of the kind's rows; /record/digest the digest of each 64 steps
// /provenance         attributes: libraries, trace, command line, environment; /provenance/host/<f> one value per process
#pragma once

#include <string>
#include <vector>

#include "engine/records.hpp"
#include "engine/run_spec.hpp"
#include "results/provenance.hpp"

namespace moekv {

inline constexpr std::string_view run_file_schema = "moekv-sweep/1";
inline constexpr std::string_view model_definition = "what moekv plan predicts for the metric of this name, from lengths alone";

enum class RunStatus : std::uint8_t { pending, ok, failed, interrupted, skipped };
inline constexpr std::string_view run_status_names[] = {"pending", "ok", "failed", "interrupted", "skipped"};
/// failed where a conservation law is violated, interrupted where the run did not complete.
[[nodiscard]] RunStatus status_of(const RunOutcome& outcome);

/// Which point of a sweep a run is; a single run is the only point of its own.
struct PointInfo {
  std::string id;     // 16 hexadecimal digits
  std::string label;  // of a case of the sweep
  std::int64_t repeat = 0;
  std::int64_t attempts = 1;
};

/// A run as it is stored: what the writer was given, and what the reader gives back.
struct RunFile {
  std::string path;
  Facts facts;       // attributes of the root: build, configuration, times
  Facts provenance;  // attributes of /provenance
  std::vector<HostFacts> hosts;
  std::vector<Parameter> parameters;
  PointInfo point;
  RunStatus status = RunStatus::pending;
  RunOutcome outcome;
  bool has_records = true;           // false: merged without them
  std::vector<std::string> missing;  // columns this program knows and the file lacks ("step/n_req"); they read as 0

  /// Value of a configuration key as text; empty where it is not stored.
  [[nodiscard]] std::string parameter(std::string_view name) const;
};

/// The run as a RunFile without going through a file.
[[nodiscard]] RunFile make_run_file(const RunSpec& spec, RunOutcome outcome, Provenance provenance);

/// Writes aside, syncs and renames (on process 0 only): the file appears complete or not at all. Replaces an older file of that name.
void write_run_file(const std::string& path, const RunFile& run);
inline void write_run_file(const std::string& path, const RunSpec& spec, const RunOutcome& outcome, const Provenance& provenance) {
  write_run_file(path, make_run_file(spec, outcome, provenance));
}

/// Throws UserError where the file does not exist, is not a result file of this schema, or its columns do not fit each other.
[[nodiscard]] RunFile read_run_file(const std::string& path);

enum class Existing : std::uint8_t { refuse, replace };
/// To be called before a run: throws UserError where its result could not be written, or would replace a file that is to be kept. Removes what
/// killed processes left of earlier attempts.
void require_writable(const std::string& path, Existing existing);

}  // namespace moekv
