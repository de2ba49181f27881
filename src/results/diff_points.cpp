// Compares two merged files point by point: what is counted or modelled must be equal, the rest is not looked at.
#include <fmt/format.h>

#include <cmath>
#include <map>

#include "results/diff.hpp"

namespace moekv {
namespace {

std::map<std::string, std::size_t> rows_by_id(const PointTable& table) {
  std::map<std::string, std::size_t> rows;
  const PointColumn* id = table.find("", "point_id");
  for (std::size_t i = 0; id != nullptr && i < table.n_points; ++i) rows[id->texts[i]] = i;
  return rows;
}

bool must_be_equal(const PointColumn& column, PointColumns columns) {
  if (columns == PointColumns::digests) return column.group.empty() && column.name == "digest";
  if (column.group.empty()) return column.name == "status" || column.name == "digest" || column.name == "labels";
  return column.group == "metric" && (column.claim == "counted" || column.claim == "modelled");
}

}  // namespace

std::vector<std::string> diff_points(const PointTable& a, const PointTable& b, PointColumns columns) {
  std::vector<std::string> lines;
  const auto in_a = rows_by_id(a), in_b = rows_by_id(b);
  for (const auto& [id, row] : in_b) {
    if (!in_a.contains(id)) lines.push_back(fmt::format("point {}: only in the second file", id));
  }
  for (const auto& [id, row] : in_a) {
    if (!in_b.contains(id)) lines.push_back(fmt::format("point {}: only in the first file", id));
  }
  for (const PointColumn& column : a.columns) {
    const PointColumn* other = b.find(column.group, column.name);
    if (!must_be_equal(column, columns) && (other == nullptr || !must_be_equal(*other, columns))) continue;
    if (other == nullptr) {
      lines.push_back(fmt::format("{}: only in the first file", column.name));
      continue;
    }
    for (const auto& [id, row] : in_a) {
      const auto it = in_b.find(id);
      if (it != in_b.end() && column.texts[row] != other->texts[it->second])
        lines.push_back(fmt::format("point {} {}: {} | {}", id, column.name, column.texts[row], other->texts[it->second]));
    }
  }
  for (const PointColumn& column : b.columns) {
    if (must_be_equal(column, columns) && a.find(column.group, column.name) == nullptr)
      lines.push_back(fmt::format("{}: only in the second file", column.name));
  }
  return lines;
}

}  // namespace moekv
