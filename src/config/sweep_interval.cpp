// Reads intervals, and takes from the type of a key whether its values are whole.
#include "config/sweep_interval.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "config/scalar.hpp"
#include "config/schema.hpp"
#include "config/sweep_axes.hpp"

namespace moekv {
namespace {

void add_problem(const YamlNode& node, std::string what, std::string suggestion, std::vector<Problem>& problems) {
  problems.push_back(problem_at(node.at, std::move(what), std::move(suggestion)));
}

/// Whether values of the key are whole numbers; nothing where its type is no number. A parameter that several rules have is real where one of
/// them takes a real number.
std::optional<bool> takes_whole(const std::string& path) {
  std::optional<bool> whole;
  for (const Key& key : schema()) {
    if (key.path != path) continue;
    if (key.type == "number") return false;
    if (key.type == "whole number") whole = true;
  }
  return whole;
}

void read_whole(const YamlNode& node, const std::string& key, Interval& out, std::vector<Problem>& problems) {
  const bool ends = is_whole(out.from) && is_whole(out.to);
  const std::optional<bool> type = takes_whole(key);
  out.whole = type && (!*type || out.unit.empty()) ? *type : ends;
  out.sure = out.whole && type && *type && out.unit.empty();
  if (const YamlNode* whole = node.find("whole")) {
    const auto parsed = parse_bool(whole->text);
    if (whole->kind != NodeKind::scalar || !parsed.ok())
      add_problem(*whole, fmt::format("{}: whole: expected true or false, got {}", key, describe(*whole)), "leave it out for what the key takes",
                  problems);
    out.whole = out.sure = parsed.value;
  }
  const bool bound = node.find("step") != nullptr || node.find("factor") != nullptr;  // what `to` is then
  if (out.whole && !ends && !(bound && is_whole(out.from)))
    add_problem(node, fmt::format("{}: values are whole, but 'from' or 'to' is not", key), "whole ends, or whole: false", problems);
}

}  // namespace

double Interval::at(double share) const {
  const double value = log ? from * std::pow(to / from, share) : from + (to - from) * share;
  return whole ? std::round(value) : value;
}

bool is_whole(double value) { return value == std::floor(value) && std::abs(value) < 1e15; }

double number_of(const YamlNode& map, std::string_view name, double otherwise, std::vector<Problem>& problems) {
  const YamlNode* node = map.find(name);
  if (node == nullptr) return otherwise;
  const auto parsed = parse_number(node->text, "");
  if (node->kind == NodeKind::scalar && parsed.ok()) return parsed.value;
  add_problem(*node, fmt::format("{}: expected a number, got {}", name, describe(*node)), "for example 8, 0.25 or 1e3", problems);
  return otherwise;
}

YamlNode number_node(double value, bool whole, const std::string& unit, const Place& at) {
  YamlNode node;
  node.kind = NodeKind::scalar;
  node.at = at;
  node.text = (whole ? fmt::format("{}", std::llround(value)) : fmt::format("{:.12g}", value)) + unit;
  return node;
}

Interval read_interval(const YamlNode& node, const std::string& key, std::vector<Problem>& problems) {
  Interval out;
  if (node.kind != NodeKind::map || node.find("from") == nullptr || node.find("to") == nullptr) {
    add_problem(node, fmt::format("{}: expected from and to", key), "for example {from: 8, to: 256, step: 8}", problems);
    return out;
  }
  out.from = number_of(node, "from", 0, problems);
  out.to = number_of(node, "to", 0, problems);
  if (const YamlNode* unit = node.find("unit")) out.unit = unit->text;
  if (const YamlNode* scale = node.find("scale")) {
    out.log = scale->text == "log";
    if (!out.log && scale->text != "linear") add_problem(*scale, "scale: unknown value", "known: linear, log", problems);
  }
  read_whole(node, key, out, problems);
  if (out.to < out.from) add_problem(node, fmt::format("{}: 'to' is below 'from'", key), "swap them", problems);
  if (out.log && out.from <= 0) add_problem(node, fmt::format("{}: a logarithmic scale needs from > 0", key), "use scale: linear", problems);
  return out;
}

std::vector<YamlNode> range_values(const YamlNode& node, const std::string& key, std::vector<Problem>& problems) {
  check_names(node, key, {"from", "to", "step", "factor", "count", "scale", "unit", "whole"}, problems);
  const std::size_t before = problems.size();
  const Interval interval = read_interval(node, key, problems);
  const double step = number_of(node, "step", 0, problems), factor = number_of(node, "factor", 0, problems),
               count = number_of(node, "count", 0, problems);
  if (problems.size() > before) return {};
  std::vector<double> values;
  const double slack = 1 + 1e-9;
  if (step > 0 && factor == 0 && count == 0) {
    for (std::size_t i = 0; interval.from + static_cast<double>(i) * step <= interval.to + step * 1e-9 && i <= most_values; ++i)
      values.push_back(interval.from + static_cast<double>(i) * step);
  } else if (factor > 1 && step == 0 && count == 0 && interval.from > 0) {
    for (double v = interval.from; v <= interval.to * slack && values.size() <= most_values; v *= factor) values.push_back(v);
  } else if (count >= 1 && step == 0 && factor == 0 && is_whole(count) && count <= most_values) {
    const auto n = static_cast<std::size_t>(count);
    for (std::size_t i = 0; i < n; ++i) values.push_back(interval.at(n == 1 ? 0 : static_cast<double>(i) / static_cast<double>(n - 1)));
  } else {
    add_problem(node, fmt::format("{}: expected one of step > 0, factor > 1 (with from > 0), count >= 1", key),
                "for example {from: 8, to: 256, factor: 2}", problems);
  }
  if (values.size() > most_values) add_problem(node, fmt::format("{}: more than {} values", key, most_values), "a larger step", problems);
  if (interval.sure) std::transform(values.begin(), values.end(), values.begin(), [](double v) { return std::round(v); });
  std::erase_if(values, [&](double v) { return v > interval.to + std::abs(interval.to) * 1e-9 + step * 1e-9; });  // by rounding
  const bool whole = std::all_of(values.begin(), values.end(), is_whole);
  std::vector<YamlNode> nodes;
  std::set<std::string> different;
  for (const double value : values) {
    nodes.push_back(number_node(value, whole, interval.unit, node.at));
    different.insert(nodes.back().text);
  }
  if (different.size() < nodes.size())
    add_problem(node,
                fmt::format("{}: of the {} values of this range only {} are different{}", key, nodes.size(), different.size(),
                            interval.whole ? ", as whole numbers" : ""),
                interval.whole ? "fewer values, or whole: false where the key takes other numbers" : "fewer values, or ends further apart", problems);
  return nodes;
}

}  // namespace moekv
