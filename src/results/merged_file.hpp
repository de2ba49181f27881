// Writing many points into one result file, in columns.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "results/sweep_folder.hpp"

namespace moekv {

struct MergedPoint {
  PointInfo info;
  std::vector<std::pair<std::string, std::string>> settings;
  RunStatus status = RunStatus::pending;
  std::string reason, started;
  double seconds = 0;
  ResultPlace place;  // of its result; empty where there is none
};

enum class MergedRecords : std::uint8_t { leave_out, keep };  // /record

/// Reads the points' files one after another and writes `out`, which appears complete or not at all. `sweeps`: the lists behind the points,
/// which name no others; /list is written where there are several.
void write_merged_file(const std::string& out, std::vector<MergedPoint> points, const std::vector<SweepList>& sweeps, MergedRecords records);

}  // namespace moekv
