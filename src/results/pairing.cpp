// Points are grouped by the text of what a comparison holds fixed.
#include "results/pairing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "core/error.hpp"
#include "core/number_text.hpp"

namespace moekv {
namespace {

using Rows = std::vector<std::size_t>;

bool contains(const std::vector<std::string>& keys, const std::string& key) { return std::find(keys.begin(), keys.end(), key) != keys.end(); }

bool matches(const PointTable& table, const PointList& list, const PointChoice& choice, std::size_t row) {
  return std::all_of(choice.begin(), choice.end(), [&](const auto& wanted) {
    const std::string* value = value_of(table, list, wanted.first, row);
    return value != nullptr && same_value(*value, wanted.second);
  });
}

void require_known(const PointTable& table, std::span<const PointList> lists, const std::vector<std::string>& keys) {
  for (const std::string& key : keys) {
    const auto knows = [&](const PointList& list) { return list.points.empty() || value_of(table, list, key, 0) != nullptr; };
    if (std::none_of(lists.begin(), lists.end(), knows))
      throw UserError(key, "is no setting, parameter or label of this file", "moekv export FILE names them in its first line");
  }
}

/// Whether every row with the same value of `by` has the same value of `key`.
bool follows(const PointTable& table, const PointList& list, const std::string& by, const std::string& key) {
  std::map<std::string, std::string> known;
  for (std::size_t row = 0; row < list.points.size(); ++row) {
    const std::string *of = value_of(table, list, by, row), *value = value_of(table, list, key, row);
    if (of != nullptr && value != nullptr && known.emplace(*of, *value).first->second != *value) return false;
  }
  return true;
}

bool varies(const PointTable& table, const PointList& list, const std::string& key) {
  for (std::size_t row = 1; row < list.points.size(); ++row) {
    const std::string* first = value_of(table, list, key, 0);
    if (first != nullptr && *first != *value_of(table, list, key, row)) return true;
  }
  return false;
}

std::string text_of(const PointTable& table, const PointList& list, const std::string& key, std::size_t row) {
  const std::string* value = value_of(table, list, key, row);
  return value == nullptr ? "" : *value;
}

enum class SeveralPartners : std::uint8_t { refuse, leave_out };

/// Rows that are alike in what is held fixed.
PointPairs alike(const PointTable& table, const PointList& list, const Rows& of, const Rows& versus, const std::vector<std::string>& free,
                 SeveralPartners several = SeveralPartners::refuse) {
  std::map<std::string, Rows> partners;
  for (const std::size_t row : versus) {
    Rows& rows = partners[fixed_values(list, row, free)];
    rows.push_back(row);
    if (rows.size() > 1 && several == SeveralPartners::refuse)
      throw UserError(table.title, "a point has several partners in this comparison", "name more keys on the second side");
  }
  PointPairs pairs;
  for (const std::size_t row : of) {
    const auto it = partners.find(fixed_values(list, row, free));
    if (it != partners.end() && it->second.size() == 1 && it->second.front() != row) pairs.emplace_back(row, it->second.front());
  }
  return pairs;
}

/// Every row of one side with the only one of its repeat that has the label of the other.
PointPairs with_reference(const PointTable& table, const PointList& list, const Rows& of, const Rows& versus) {
  if (versus.empty()) return {};
  const std::string label = text_of(table, list, "label", versus.front());
  const auto has_label = [&](std::size_t row) { return text_of(table, list, "label", row) == label; };
  if (label.empty() || !std::all_of(versus.begin(), versus.end(), has_label)) return {};
  std::map<std::string, std::size_t> reference;  // by repeat
  for (std::size_t row = 0; row < list.points.size(); ++row) {
    if (has_label(row) && !reference.emplace(text_of(table, list, "repeat", row), row).second) return {};
  }
  PointPairs pairs;
  for (const std::size_t row : of) {
    const auto it = reference.find(text_of(table, list, "repeat", row));
    if (!has_label(row) && it != reference.end() && std::find(versus.begin(), versus.end(), it->second) != versus.end())
      pairs.emplace_back(row, it->second);
  }
  return pairs;
}

/// The pairs of one list, as rows.
PointPairs pair_rows(const PointTable& table, const PointList& list, const Rows& of, const Rows& versus, const std::vector<std::string>& compared) {
  std::vector<std::string> free = free_keys(table, list, compared);
  PointPairs pairs = alike(table, list, of, versus, free);
  const bool some = !pairs.empty();
  if (!some) pairs = with_reference(table, list, of, versus);
  if (pairs.empty()) {
    for (const auto& [other, reference] : with_reference(table, list, versus, of)) pairs.emplace_back(reference, other);
  }
  if (!some && !pairs.empty()) return pairs;
  std::set<std::size_t> paired;
  for (const auto& pair : pairs) paired.insert(pair.first);
  if (some) free = compared;  // what differs more may be an included point
  free.emplace_back("label");
  for (const auto& pair : alike(table, list, of, versus, free, SeveralPartners::leave_out)) {
    if (!paired.contains(pair.first)) pairs.push_back(pair);
  }
  return pairs;
}

/// Rows of a list that are ok and alike besides `free`, but differ in `column`: each with the first of those.
PointPairs rows_that_differ(const PointTable& table, const PointList& list, const PointColumn& column, const std::vector<std::string>& free) {
  std::map<std::string, std::size_t> first;
  PointPairs pairs;
  for (std::size_t row = 0; row < list.points.size(); ++row) {
    if (!is_ok(table, list.points[row])) continue;
    const auto [it, added] = first.emplace(fixed_values(list, row, free), row);
    if (!added && column.texts[it->second] != column.texts[row]) pairs.emplace_back(it->second, row);
  }
  return pairs;
}

}  // namespace

std::vector<PointList> lists_of(const PointTable& table, Words words) {
  std::vector<PointList> lists = table.lists;
  if (lists.empty()) {
    if (table.find("", "lists") != nullptr)
      throw UserError(table.title, "is a merge of several sweeps by another version of moekv, which lacks what each of them varies",
                      "merge the sweeps anew");
    PointList all{table.sweep_yaml, Rows(table.n_points), {}};
    std::iota(all.points.begin(), all.points.end(), 0);
    for (const PointColumn& column : table.columns) {
      if (column.group == "setting" || (column.group.empty() && (column.name == "label" || column.name == "repeat"))) all.columns.push_back(column);
    }
    return {std::move(all)};
  }
  if (words == Words::own) return lists;
  for (PointList& list : lists) {
    for (PointColumn& column : list.columns) {
      const PointColumn* shared = column.group == "setting" ? table.find("setting", column.name) : nullptr;
      for (std::size_t row = 0; shared != nullptr && row < list.points.size(); ++row) {
        if (!column.texts[row].empty()) column.texts[row] = shared->texts[list.points[row]];
      }
    }
  }
  return lists;
}

const std::string* value_of(const PointTable& table, const PointList& list, const std::string& key, std::size_t row) {
  if (const PointColumn* column = list.find(key)) return &column->texts[row];
  for (const char* group : {"param", ""}) {
    if (const PointColumn* column = table.find(group, key)) return &column->texts[list.points[row]];
  }
  return nullptr;
}

bool is_ok(const PointTable& table, std::size_t point) {
  const PointColumn* status = table.find("", "status");
  return status != nullptr && status->texts[point] == "ok";
}

std::vector<std::string> free_keys(const PointTable& table, const PointList& list, const std::vector<std::string>& compared) {
  std::vector<std::string> keys = compared;
  const bool labels = std::count(compared.begin(), compared.end(), "label") > 1;  // one label against another
  const auto follows_one = [&](const std::string& key) {
    return std::any_of(compared.begin(), compared.end(),
                       [&](const std::string& by) { return by != "repeat" && (by != "label" || labels) && follows(table, list, by, key); });
  };
  for (const PointColumn& column : list.columns) {
    if (column.group == "setting" && !contains(keys, column.name) && follows_one(column.name)) keys.push_back(column.name);
  }
  const bool label_sets_one = std::any_of(compared.begin(), compared.end(),
                                          [&](const std::string& key) { return varies(table, list, key) && follows(table, list, "label", key); });
  if (label_sets_one && !contains(keys, "label")) keys.emplace_back("label");
  return keys;
}

std::string fixed_values(const PointList& list, std::size_t row, const std::vector<std::string>& free) {
  std::string text;
  for (const PointColumn& column : list.columns) {
    if (!contains(free, column.name)) text += fmt::format("{}={}\n", column.name, column.texts[row]);
  }
  return text;
}

PairedPoints pair_points(const PointTable& table, std::span<const PointList> lists, const PointChoice& a, const PointChoice& b) {
  std::vector<std::string> compared;
  for (const PointChoice* choice : {&a, &b}) {
    for (const auto& [key, value] : *choice) compared.push_back(key);
  }
  require_known(table, lists, compared);
  const PointColumn* labels = table.find("", "labels");
  PairedPoints out;
  std::set<std::size_t> idle;
  std::set<std::pair<std::size_t, std::size_t>> known;
  for (const PointList& list : lists) {
    const auto chosen = [&](const PointChoice& choice) {
      Rows rows;
      for (std::size_t row = 0; row < list.points.size(); ++row) {
        if (!is_ok(table, list.points[row]) || !matches(table, list, choice, row)) continue;
        if (labels != nullptr && labels->texts[list.points[row]].find("not_exercised") != std::string::npos)
          idle.insert(list.points[row]);
        else
          rows.push_back(row);
      }
      return rows;
    };
    PointPairs found = pair_rows(table, list, chosen(a), chosen(b), compared);
    std::sort(found.begin(), found.end());
    add_different(list, found, compared, out.also_different);
    for (const auto& [first, second] : found) {
      if (!known.emplace(list.points[first], list.points[second]).second) continue;
      out.pairs.emplace_back(list.points[first], list.points[second]);
      out.repeats.push_back(text_of(table, list, "seed", first) + "/" + text_of(table, list, "repeat", first));
    }
  }
  out.left_out = idle.size();
  return out;
}

PointPairs pairs_of_axis(const PointTable& table, const PointList& list, const std::string& setting) {
  const PointColumn* column = list.find(setting);
  if (column == nullptr) return {};
  const std::vector<std::string> free = free_keys(table, list, {setting});
  PointPairs rows = rows_that_differ(table, list, *column, free);
  if (contains(free, "label")) return rows;
  std::set<std::size_t> paired;
  for (const auto& pair : rows) paired.insert(pair.second);
  for (const auto& pair : rows_that_differ(table, list, *column, {setting, "label"})) {
    if (!paired.contains(pair.second)) rows.push_back(pair);
  }
  return rows;
}

void add_different(const PointList& list, const PointPairs& rows, const std::vector<std::string>& compared, std::vector<std::string>& keys) {
  for (const PointColumn& column : list.columns) {
    const auto differs = [&](const auto& pair) { return column.texts[pair.first] != column.texts[pair.second]; };
    if (column.group == "setting" && !contains(compared, column.name) && !contains(keys, column.name) &&
        std::any_of(rows.begin(), rows.end(), differs))
      keys.push_back(column.name);
  }
}

}  // namespace moekv
