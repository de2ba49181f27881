// The columns of a result file along its dimension `point`, for tables of any kind.
#pragma once

#include <string>
#include <vector>

#include "io/hdf5.hpp"

namespace moekv {

/// One value per point. `texts` holds every value as text, missing numbers as empty; `numbers` where the column is numeric.
struct PointColumn {
  std::string group, name;  // "param", "eviction.policy"; group is empty for /status and its neighbours
  std::string units, claim, definition;
  bool swept = false;
  bool numeric = false;
  std::vector<std::string> texts;
  std::vector<double> numbers;
  bool whole = false;  // numbers of an integer type: `texts` are exact where `numbers` may not be
};

/// The points of one of several merged sweeps, as that sweep calls them: in its order, with the label, the repeat and the settings that it gives
/// them.
struct PointList {
  std::string sweep_yaml;
  std::vector<std::size_t> points;   // of the table, by row
  std::vector<PointColumn> columns;  // one value per row
  [[nodiscard]] const PointColumn* find(std::string_view name) const;
};

struct PointTable {
  std::size_t n_points = 0;
  std::string title, sweep_yaml;
  std::vector<PointColumn> columns;
  std::vector<PointList> lists;  // empty where the file has fewer than two
  [[nodiscard]] const PointColumn* find(std::string_view group, std::string_view name) const;
};

/// Points of a result file. Throws UserError where it is none.
[[nodiscard]] std::size_t count_points(const std::string& path);
/// Throws UserError where the file is no result file, or a column has not one value of its kind per point. `status` is read as its word.
[[nodiscard]] PointTable read_point_table(const std::string& path);

/// CSV with a row per point: identity, settings, metrics; with every parameter where asked for.
enum class Parameters : std::uint8_t { swept, all };
[[nodiscard]] std::string to_csv(const PointTable& table, Parameters parameters);
/// The same as a JSON array of objects.
[[nodiscard]] std::string to_json(const PointTable& table, Parameters parameters);
/// CSV of the rows of a record of all points; of a single run without the column point_index.
[[nodiscard]] std::string record_csv(const std::string& path, const std::string& kind);

}  // namespace moekv
