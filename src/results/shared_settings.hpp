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

/// Where points are of several lists: what another list varied and a point's own did not is a setting of the point too, and each value of a key has
/// one text: the shortest that a list gives it. A text that stands for several values, such as one that follows another key, stays as it is.
class SharedSettings {
 public:
  explicit SharedSettings(const std::vector<SweepList>& sweeps) {
    if (sweeps.size() < 2) return;
    for (const SweepList& sweep : sweeps) {
      for (const ListedPoint& point : sweep.points) {
        for (const auto& setting : point.settings) {
          keys_.insert(setting.first);
          given_[point.id].insert(setting);
        }
      }
    }
  }
  void look_at(std::size_t i, const MergedPoint& point, const RunFile& run) {
    for (const std::string& key : keys_) {
      const auto parameter = std::find_if(run.parameters.begin(), run.parameters.end(), [&](const Parameter& p) { return p.name == key; });
      if (parameter == run.parameters.end()) continue;
      for (const Setting& setting : given_[point.info.id]) {
        if (setting.first == key) values_[setting].insert(value_of(setting.second, parameter->text));
      }
      if (std::none_of(point.settings.begin(), point.settings.end(), [&](const Setting& s) { return s.first == key; }))
        missing_.push_back({i, {key, parameter->text}});
    }
  }
  void fill(const std::vector<MergedPoint>& points, Collected& all) const {
    std::map<Setting, std::string> texts;  // by key and value of the parameter
    for (const auto& [setting, values] : values_) {
      if (values.size() > 1) continue;
      const auto [it, added] = texts.emplace(Setting(setting.first, *values.begin()), setting.second);
      if (!added && setting.second.size() < it->second.size()) it->second = setting.second;
    }
    const auto text_of = [&](const Setting& value) {
      const auto it = texts.find(value);
      return it == texts.end() ? value.second : it->second;
    };
    for (const auto& [i, value] : missing_) all.add_setting(i, value.first, text_of(value));
    for (std::size_t i = 0; i < points.size(); ++i) {
      for (const Setting& setting : points[i].settings) {
        const auto it = values_.find(setting);
        if (it != values_.end() && it->second.size() == 1) all.add_setting(i, setting.first, text_of({setting.first, *it->second.begin()}));
      }
    }
  }

 private:
  using Setting = std::pair<std::string, std::string>;  // key and text
  /// What a text stands for: the parameter, and of a choice with a count ("last:8" or "last(8)"), which is another parameter, the count as well.
  static std::string value_of(const std::string& text, const std::string& parameter) {
    const bool counted =
        text.starts_with(parameter) && text.size() > parameter.size() && (text[parameter.size()] == ':' || text[parameter.size()] == '(');
    if (!counted) return parameter;
    const std::size_t count = parameter.size() + 1;
    return parameter + ":" + text.substr(count, text.find(')') == std::string::npos ? std::string::npos : text.find(')') - count);
  }
  std::set<std::string> keys_;
  std::map<std::string, std::set<Setting>> given_;   // by point: as any list gives them
  std::map<Setting, std::set<std::string>> values_;  // what the parameter is where a list gives this text
  std::vector<std::pair<std::size_t, Setting>> missing_;
};

}  // namespace moekv
