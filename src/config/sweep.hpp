// A sweep file: one base configuration, the axes along which it varies, and the list of points that they make.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/document.hpp"
#include "engine/run_spec.hpp"

namespace moekv {

/// A configuration key with its value as YAML flow text.
struct SweepSetting {
  std::string key, value;
  friend bool operator==(const SweepSetting&, const SweepSetting&) = default;
};

/// One configuration of a sweep. `id` depends on nothing but the point itself, so that it names the same run in every sweep.
struct SweepPoint {
  std::string id;     // 16 hexadecimal digits of what decides, with backend, threads, graphs, label and repeat
  std::string label;  // of a case; may be empty
  std::uint32_t repeat = 0;
  std::vector<SweepSetting> settings;  // what the axes chose, in their order
  std::optional<RunSpec> spec;         // empty where the combination makes no run; then `problems` says why
  std::vector<Problem> problems;
};

struct Sweep {
  std::string name, path;
  std::string text;                // the file as given, overrides appended as comments
  std::vector<std::string> swept;  // keys that axes, samples or cases set
  std::vector<SweepPoint> points;  // in the order of the file, the last axis fastest, repeats last
  std::size_t n_duplicates = 0;    // points left out because an equal one stands before them
};

/// Reads and expands a sweep file; overrides replace keys of the base in every point. Throws UserError with every problem of the file, and
/// where no point at all makes a run.
[[nodiscard]] Sweep read_sweep(const std::string& path, const std::vector<std::string>& overrides = {}, int n_processes = 1);

}  // namespace moekv
