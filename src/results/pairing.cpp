// Points are grouped by the text of what a comparison holds fixed.
#include "results/pairing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "core/error.hpp"
#include "core/number_text.hpp"

namespace moekv {
namespace {

bool contains(const std::vector<std::string>& keys, const std::string& key) { return std::find(keys.begin(), keys.end(), key) != keys.end(); }

bool matches(const PointTable& table, const PointChoice& choice, std::size_t point) {
  return std::all_of(choice.begin(), choice.end(), [&](const auto& wanted) {
    const std::string* value = value_of(table, wanted.first, point);
    if (value == nullptr)
      throw UserError(wanted.first, "is no setting, parameter or label of this file", "moekv export FILE names them in its first line");
    return same_value(*value, wanted.second);
  });
}

/// Whether every point with the same value of `by` has the same value of `key`.
bool follows(const PointTable& table, const std::vector<std::size_t>& members, const std::string& by, const std::string& key) {
  std::map<std::string, std::string> known;
  return std::all_of(members.begin(), members.end(), [&](std::size_t i) {
    const std::string *of = value_of(table, by, i), *value = value_of(table, key, i);
    return of == nullptr || value == nullptr || known.emplace(*of, *value).first->second == *value;
  });
}

bool varies(const PointTable& table, const std::vector<std::size_t>& members, const std::string& key) {
  return std::any_of(members.begin(), members.end(), [&](std::size_t i) {
    const std::string *first = value_of(table, key, members.front()), *value = value_of(table, key, i);
    return first != nullptr && *first != *value;
  });
}

std::string text_of(const PointTable& table, const std::string& key, std::size_t point) {
  const std::string* value = value_of(table, key, point);
  return value == nullptr ? "" : *value;
}

/// Points that are alike in what is held fixed.
PointPairs alike(const PointTable& table, const std::vector<std::size_t>& of, const std::vector<std::size_t>& versus,
                 const std::vector<std::string>& free) {
  std::map<std::string, std::size_t> partners;
  for (const std::size_t i : versus) {
    if (!partners.emplace(fixed_values(table, i, free), i).second)
      throw UserError(table.title, "a point has several partners in this comparison", "name more keys on the second side");
  }
  PointPairs pairs;
  for (const std::size_t i : of) {
    if (const auto it = partners.find(fixed_values(table, i, free)); it != partners.end() && it->second != i) pairs.emplace_back(i, it->second);
  }
  return pairs;
}

/// Every point of one side with the only one of its repeat that has the label of the other.
PointPairs with_reference(const PointTable& table, const std::vector<std::size_t>& members, const std::vector<std::size_t>& of,
                          const std::vector<std::size_t>& versus) {
  if (versus.empty()) return {};
  const std::string label = text_of(table, "label", versus.front());
  const auto has_label = [&](std::size_t i) { return text_of(table, "label", i) == label; };
  if (label.empty() || !std::all_of(versus.begin(), versus.end(), has_label)) return {};
  std::map<std::string, std::size_t> reference;  // by repeat
  for (const std::size_t i : members) {
    if (has_label(i) && !reference.emplace(text_of(table, "repeat", i), i).second) return {};
  }
  PointPairs pairs;
  for (const std::size_t i : of) {
    const auto it = reference.find(text_of(table, "repeat", i));
    if (!has_label(i) && it != reference.end() && std::find(versus.begin(), versus.end(), it->second) != versus.end())
      pairs.emplace_back(i, it->second);
  }
  return pairs;
}

}  // namespace

const std::string* value_of(const PointTable& table, const std::string& key, std::size_t point) {
  for (const char* group : {"setting", "param", ""}) {
    const PointColumn* column = table.find(group, key);
    if (column != nullptr) return &column->texts[point];
  }
  return nullptr;
}

bool is_ok(const PointTable& table, std::size_t point) {
  const PointColumn* status = table.find("", "status");
  return status != nullptr && status->texts[point] == "ok";
}

std::vector<std::vector<std::size_t>> points_by_list(const PointTable& table) {
  const PointColumn* numbers = table.find("", "lists");
  std::map<std::string, std::vector<std::size_t>> lists;
  for (std::size_t i = 0; i < table.n_points; ++i) {
    std::istringstream in(numbers != nullptr ? numbers->texts[i] : "");
    std::string number;
    if (!(in >> number)) lists[""].push_back(i);
    for (; in; in >> number) lists[number].push_back(i);
  }
  std::vector<std::vector<std::size_t>> out;
  for (auto& [number, members] : lists) out.push_back(std::move(members));
  return out;
}

std::vector<std::string> free_keys(const PointTable& table, const std::vector<std::size_t>& members, const std::vector<std::string>& compared) {
  std::vector<std::string> keys = compared;
  const bool labels = std::count(compared.begin(), compared.end(), "label") > 1;  // one label against another
  const auto follows_one = [&](const std::string& key) {
    return std::any_of(compared.begin(), compared.end(),
                       [&](const std::string& by) { return by != "repeat" && (by != "label" || labels) && follows(table, members, by, key); });
  };
  for (const PointColumn& column : table.columns) {
    if (column.group == "setting" && !contains(keys, column.name) && follows_one(column.name)) keys.push_back(column.name);
  }
  const bool label_sets_one = std::any_of(
      compared.begin(), compared.end(), [&](const std::string& key) { return varies(table, members, key) && follows(table, members, "label", key); });
  if (label_sets_one && !contains(keys, "label")) keys.emplace_back("label");
  return keys;
}

std::string fixed_values(const PointTable& table, std::size_t point, const std::vector<std::string>& free) {
  std::string text;
  for (const PointColumn& column : table.columns) {
    const bool identifies = column.group == "setting" || (column.group.empty() && (column.name == "label" || column.name == "repeat"));
    if (identifies && !contains(free, column.name)) text += fmt::format("{}={}\n", column.name, column.texts[point]);
  }
  return text;
}

PointPairs pair_points(const PointTable& table, const PointChoice& a, const PointChoice& b, std::size_t& left_out) {
  std::vector<std::string> compared;
  for (const PointChoice* choice : {&a, &b}) {
    for (const auto& [key, value] : *choice) compared.push_back(key);
  }
  const PointColumn* labels = table.find("", "labels");
  std::set<std::size_t> idle;
  std::set<std::pair<std::size_t, std::size_t>> pairs;
  for (const std::vector<std::size_t>& members : points_by_list(table)) {
    const auto chosen = [&](const PointChoice& choice) {
      std::vector<std::size_t> points;
      for (const std::size_t i : members) {
        if (!is_ok(table, i) || !matches(table, choice, i)) continue;
        if (labels != nullptr && labels->texts[i].find("not_exercised") != std::string::npos)
          idle.insert(i);
        else
          points.push_back(i);
      }
      return points;
    };
    const std::vector<std::size_t> of = chosen(a), versus = chosen(b);
    PointPairs found = alike(table, of, versus, free_keys(table, members, compared));
    if (found.empty()) found = with_reference(table, members, of, versus);
    if (found.empty()) {
      for (const auto& [other, reference] : with_reference(table, members, versus, of)) found.emplace_back(reference, other);
    }
    pairs.insert(found.begin(), found.end());
  }
  left_out += idle.size();
  return {pairs.begin(), pairs.end()};
}

std::vector<std::string> also_different(const PointTable& table, const PointPairs& pairs, const std::vector<std::string>& compared) {
  std::vector<std::string> keys;
  for (const PointColumn& column : table.columns) {
    const auto differs = [&](const auto& pair) { return column.texts[pair.first] != column.texts[pair.second]; };
    if (column.group == "setting" && !contains(compared, column.name) && std::any_of(pairs.begin(), pairs.end(), differs))
      keys.push_back(column.name);
  }
  return keys;
}

}  // namespace moekv
