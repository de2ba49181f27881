// Which points of a merged file may be compared: pairs that are alike in everything but what a comparison names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "results/point_table.hpp"

namespace moekv {

/// Settings (or label, repeat) with their values.
using PointChoice = std::vector<std::pair<std::string, std::string>>;

/// In whose words the settings of several merged sweeps are: each sweep's own, or the table's, where a value has one text.
enum class Words : std::uint8_t { own, shared };
/// The lists of a table: those of several merged sweeps, or one of all points. Throws UserError for a merged file that lacks them.
[[nodiscard]] std::vector<PointList> lists_of(const PointTable& table, Words words = Words::own);

/// A setting, label, repeat or parameter of a row as text; null where there is no such column.
[[nodiscard]] const std::string* value_of(const PointTable& table, const PointList& list, const std::string& key, std::size_t row);

[[nodiscard]] bool is_ok(const PointTable& table, std::size_t point);

/// Keys that a comparison does not hold fixed within a list, where `compared` has the keys of one side, then of the other: they themselves; what
/// cannot differ without them, such as a partner in `zip`; the label of cases that set them; and, where both sides name a label, everything that its
/// cases set. All rows decide, also those without a result: else a part of a grid would look like `zip`.
[[nodiscard]] std::vector<std::string> free_keys(const PointTable& table, const PointList& list, const std::vector<std::string>& compared);

/// All settings, label and repeat of a row besides those keys, as one text.
[[nodiscard]] std::string fixed_values(const PointList& list, std::size_t row, const std::vector<std::string>& free);

using PointPairs = std::vector<std::pair<std::size_t, std::size_t>>;

struct PairedPoints {
  PointPairs pairs;
  std::vector<std::string> repeats;         // by pair: seed and repeat of its first point, in the list that pairs them
  std::vector<std::string> also_different;  // settings, besides those compared, that differ within a pair
  std::size_t left_out = 0;                 // points that are not_exercised
};

/// Every point of `a` that is ok and exercised, and the one of `b` that is alike in what the comparison holds fixed; pairs stay within a list. Where
/// nothing is alike, and one side is a labelled point that each repeat has once, it is the partner of all: a reference. Points without a
/// partner are paired across labels, which are names of settings, where there is one only. Throws UserError for a key that no list knows, and where a
/// point has several partners.
[[nodiscard]] PairedPoints pair_points(const PointTable& table, std::span<const PointList> lists, const PointChoice& a, const PointChoice& b);

/// Rows of a list, which are ok, that differ in a setting of it and in what follows it alone; of those that are alike otherwise, each with the first.
/// A row without such a partner has one of another label, if they differ in the setting alone.
[[nodiscard]] PointPairs pairs_of_axis(const PointTable& table, const PointList& list, const std::string& setting);

/// Appends settings of a list besides `compared` that differ within at least one pair of its rows.
void add_different(const PointList& list, const PointPairs& rows, const std::vector<std::string>& compared, std::vector<std::string>& keys);

}  // namespace moekv
