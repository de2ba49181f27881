// merge_results: the points of sweep folders and of single result files become one file, schema moekv-sweep/1 with a point dimension of n.
//
// /point ...           one value per point: point_id, label, repeat, status, error, attempts, wall_time, started, digest, labels, notes
// /setting/<key>       what the axes chose, as the sweep file gives it; empty where the point's case does not set the key. Of several sweeps: one
// text
//                      per value, and the keys that another sweep varies too
// /list/<number>       of several sweeps: point (index), label, repeat and setting/<key> as this sweep gives them; attributes sweep_name, sweep_yaml
// /param/<key>         configuration after defaults; NaN or empty where a point has no such key
// /metric/<name>       NaN where missing; /metric_numerator and /metric_denominator of ratios
// /record/<kind>/<f>   rows of all points, one after the other; /record/<kind>/point_index says whose
// /provenance          attributes that all points share; /provenance/point/<name> those that differ; /provenance/host
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "results/merged_file.hpp"

namespace moekv {

struct MergeReport {
  std::size_t points = 0, ok = 0, failed = 0, unfinished = 0;
};

/// Throws UserError where an input is neither, or two results of one point disagree in a decision or in a counted metric. Order of inputs does not
/// matter.
MergeReport merge_results(const std::vector<std::string>& inputs, const std::string& out, MergedRecords records = MergedRecords::keep);

}  // namespace moekv
