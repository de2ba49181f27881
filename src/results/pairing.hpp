// Which points of a merged file may be compared: pairs that are alike in everything but what a comparison names.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "results/point_table.hpp"

namespace moekv {

/// Settings (or label, repeat) with their values.
using PointChoice = std::vector<std::pair<std::string, std::string>>;

/// A setting, parameter, label or repeat of a point as text; null where the table has no such column.
[[nodiscard]] const std::string* value_of(const PointTable& table, const std::string& key, std::size_t point);

[[nodiscard]] bool is_ok(const PointTable& table, std::size_t point);

/// Points of one list of a sweep. A file of one sweep has one; a point may stand in several.
[[nodiscard]] std::vector<std::vector<std::size_t>> points_by_list(const PointTable& table);

/// Keys that a comparison does not hold fixed among `members`, where `compared` has the keys of one side, then of the other: they themselves; what
/// cannot differ without them, such as a partner in `zip`; the label of cases that set them; and, where both sides name a label, everything that its
/// cases set.
[[nodiscard]] std::vector<std::string> free_keys(const PointTable& table, const std::vector<std::size_t>& members,
                                                 const std::vector<std::string>& compared);

/// All settings, label and repeat of a point besides those keys, as one text.
[[nodiscard]] std::string fixed_values(const PointTable& table, std::size_t point, const std::vector<std::string>& free);

using PointPairs = std::vector<std::pair<std::size_t, std::size_t>>;

/// Every point of `a` that is ok and exercised, and the one of `b` that is alike in what the comparison holds fixed; pairs stay within a list. Where
/// nothing is alike, and one side is a labelled point that each repeat has once, it is the partner of all: a reference. `left_out` counts points that
/// are not_exercised. Throws UserError for a key that does not exist, and where a point has several partners.
[[nodiscard]] PointPairs pair_points(const PointTable& table, const PointChoice& a, const PointChoice& b, std::size_t& left_out);

/// Settings besides `compared` that differ within at least one pair.
[[nodiscard]] std::vector<std::string> also_different(const PointTable& table, const PointPairs& pairs, const std::vector<std::string>& compared);

}  // namespace moekv
