// What points of several merged sweeps have in common as settings, so that they can be compared and chosen by any of them.
#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "results/merged_columns.hpp"
#include "results/merged_file.hpp"
#include "results/run_file.hpp"

namespace moekv {

/// Where points are of several lists: what another list varied and a point's own did not is a setting of the point too, with the text that a setting
/// has elsewhere for the same value of the key.
class SharedSettings {
 public:
  explicit SharedSettings(const std::vector<MergedPoint>& points) {
    if (std::all_of(points.begin(), points.end(), [](const MergedPoint& p) { return p.lists.empty(); })) return;
    for (const MergedPoint& point : points) {
      for (const auto& setting : point.settings) keys_.insert(setting.first);
    }
  }
  void look_at(std::size_t i, const MergedPoint& point, const RunFile& run) {
    for (const std::string& key : keys_) {
      const auto parameter = std::find_if(run.parameters.begin(), run.parameters.end(), [&](const Parameter& p) { return p.name == key; });
      if (parameter == run.parameters.end()) continue;
      const auto setting = std::find_if(point.settings.begin(), point.settings.end(), [&](const auto& s) { return s.first == key; });
      if (setting == point.settings.end())
        missing_.push_back({i, key, parameter->text});
      else
        texts_.emplace(std::pair(key, parameter->text), setting->second);
    }
  }
  void fill(Collected& all) const {
    for (const Missing& m : missing_) {
      const auto it = texts_.find({m.key, m.value});
      all.add_setting(m.point, m.key, it == texts_.end() ? m.value : it->second);
    }
  }

 private:
  struct Missing {
    std::size_t point;
    std::string key, value;
  };
  std::set<std::string> keys_;
  std::vector<Missing> missing_;
  std::map<std::pair<std::string, std::string>, std::string> texts_;  // by key and value of the parameter
};

}  // namespace moekv
