// Lists, ranges, zips, cases and samples of a sweep file become lists of cases.
#include "config/sweep_axes.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "config/key.hpp"
#include "config/schema.hpp"
#include "config/sweep_interval.hpp"
#include "core/rng.hpp"

namespace moekv {
namespace {

void complain(const YamlNode& node, std::string what, std::string suggestion, std::vector<Problem>& problems) {
  problems.push_back(problem_at(node.at, std::move(what), std::move(suggestion)));
}

Assignment assignment(const std::string& key, const YamlNode& value) { return {key, value, key + "=" + to_flow(value)}; }

SweepAxis zip_axis(const YamlNode& node, std::vector<Problem>& problems) {
  SweepAxis axis;
  if (node.kind != NodeKind::map || node.entries.empty()) {
    complain(node, fmt::format("zip: expected keys with lists of equal length, got {}", describe(node)), "zip: {key.a: [1, 2], key.b: [3, 4]}",
             problems);
    return axis;
  }
  for (const YamlEntry& entry : node.entries) {
    const std::vector<YamlNode> values = read_values(entry.value, entry.key, problems);
    if (&entry == &node.entries.front()) axis.resize(values.size());
    if (values.size() != axis.size()) {
      problems.push_back(problem_at(entry.at,
                                    fmt::format("zip: {} has {} values, {} has {}", entry.key, values.size(), node.entries.front().key, axis.size()),
                                    "lists of a zip are equally long"));
      continue;
    }
    for (std::size_t i = 0; i < values.size(); ++i) axis[i].values.push_back(assignment(entry.key, values[i]));
  }
  return axis;
}

SweepAxis cases_axis(const YamlNode& node, std::vector<Problem>& problems) {
  SweepAxis axis;
  if (node.kind != NodeKind::sequence)
    complain(node, fmt::format("cases: expected a list of mappings, got {}", describe(node)), "- {label: a, key.path: value}", problems);
  for (const YamlNode& item : node.items) {
    SweepCase one;
    if (item.kind == NodeKind::map) {
      one.values = read_assignments(item, &one.label, problems);
    } else {
      complain(item, fmt::format("cases: expected a mapping of keys, got {}", describe(item)), "- {label: a, key.path: value}", problems);
    }
    axis.push_back(std::move(one));
  }
  return axis;
}

/// How one key of a sample takes its value from a share in [0, 1).
struct Sampled {
  std::string key;
  std::vector<YamlNode> values;  // of a list
  Interval interval;
  Place at;
  [[nodiscard]] YamlNode value(double share) const {
    if (!values.empty()) return values[std::min(values.size() - 1, static_cast<std::size_t>(share * static_cast<double>(values.size())))];
    if (!interval.whole || interval.log) return number_node(interval.at(share), interval.whole, interval.unit, at);
    const double n = interval.to - interval.from + 1;  // every whole number equally likely
    return number_node(std::min(interval.to, interval.from + std::floor(share * n)), true, interval.unit, at);
  }
};

std::vector<std::vector<double>> shares_of(bool sobol, std::size_t n, std::size_t dimensions, std::uint64_t seed) {
  if (sobol) return sobol_points(n, dimensions, seed);
  std::vector<std::vector<double>> shares(n, std::vector<double>(dimensions));
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t d = 0; d < dimensions; ++d) shares[i][d] = static_cast<double>(hash_words(seed, i, d) >> 11) * 0x1p-53;
  }
  return shares;
}

SweepAxis sample_axis(const YamlNode& node, std::vector<Problem>& problems) {
  check_names(node, "sample", {"points", "method", "seed", "of"}, problems);
  const std::size_t before = problems.size();
  const double n = number_of(node, "points", 0, problems), seed = number_of(node, "seed", 1, problems);
  const YamlNode* method = node.find("method");
  const bool sobol = method == nullptr || method->text == "sobol";
  if (!sobol && method->text != "random")
    complain(*method, fmt::format("method: unknown value {}", describe(*method)), "known: sobol, random", problems);
  if (!is_whole(n) || n < 1 || n > most_values)
    complain(node, "sample: points is a whole number from 1 to 100000", "sample: {points: 16, of: {...}}", problems);
  if (!is_whole(seed) || seed < 0) complain(node, "sample: seed is a whole number from 0 on", "sample: {points: 16, seed: 1, of: {...}}", problems);
  const YamlNode* of = node.find("of");
  if (of == nullptr || of->kind != NodeKind::map)
    complain(node, "sample: 'of' is missing", "of: {key.path: [a, b], other.key: {from: 1, to: 64}}", problems);
  if (problems.size() > before) return {};
  std::vector<Sampled> keys;
  for (const YamlEntry& entry : of->entries) {
    Sampled key{entry.key, {}, {}, entry.value.at};
    if (entry.value.kind == NodeKind::sequence) {
      key.values = read_values(entry.value, entry.key, problems);
    } else {
      check_names(entry.value, entry.key, {"from", "to", "scale", "unit", "whole"}, problems);
      key.interval = read_interval(entry.value, entry.key, problems);
    }
    keys.push_back(std::move(key));
  }
  if (sobol && keys.size() > sobol_dimensions)
    complain(*of, fmt::format("sample: sobol takes at most {} keys", sobol_dimensions), "use method: random", problems);
  if (problems.size() > before) return {};
  SweepAxis axis;
  for (const auto& shares : shares_of(sobol, static_cast<std::size_t>(n), keys.size(), static_cast<std::uint64_t>(seed))) {
    SweepCase one;
    for (std::size_t d = 0; d < keys.size(); ++d) one.values.push_back(assignment(keys[d].key, keys[d].value(shares[d])));
    axis.push_back(std::move(one));
  }
  return axis;
}

SweepAxis read_axis(const YamlEntry& entry, std::vector<Problem>& problems) {
  if (entry.key == "zip") return zip_axis(entry.value, problems);
  if (entry.key == "cases") return cases_axis(entry.value, problems);
  if (entry.key == "sample") return sample_axis(entry.value, problems);
  SweepAxis axis;
  for (const YamlNode& value : read_values(entry.value, entry.key, problems)) axis.push_back({{}, {assignment(entry.key, value)}});
  return axis;
}

void flatten(const YamlNode& map, const std::string& path, std::string* label, std::vector<Assignment>& out, std::vector<Problem>& problems) {
  for (const YamlEntry& entry : map.entries) {
    const std::string key = path.empty() ? entry.key : path + "." + entry.key;
    if (path.empty() && entry.key == "label" && label != nullptr) {
      if (entry.value.kind != NodeKind::scalar) complain(entry.value, "label: expected text", "label: a name", problems);
      *label = entry.value.text;
    } else if (entry.value.kind == NodeKind::map && is_section(key) && !is_key(key)) {
      flatten(entry.value, key, nullptr, out, problems);
    } else {
      out.push_back(assignment(key, entry.value));
    }
  }
}

}  // namespace

void check_names(const YamlNode& map, const std::string& what, const std::vector<std::string_view>& known, std::vector<Problem>& problems) {
  for (const YamlEntry& entry : map.entries) {
    if (std::find(known.begin(), known.end(), entry.key) == known.end())
      problems.push_back(problem_at(entry.at, fmt::format("unknown key '{}' in {}", entry.key, what), suggest_name(entry.key, known)));
  }
}

std::vector<YamlNode> read_values(const YamlNode& node, const std::string& what, std::vector<Problem>& problems) {
  if (node.kind == NodeKind::map && node.entries.size() == 1 && node.entries.front().key == "range") {
    return range_values(node.entries.front().value, what, problems);
  }
  if (node.kind == NodeKind::sequence && !node.items.empty()) return node.items;
  const bool empty = node.kind == NodeKind::sequence;
  complain(node, fmt::format("{}: expected a list of values or a range, got {}", what, empty ? "an empty list" : describe(node)),
           "[a, b, c], or {range: {from: 8, to: 256, factor: 2}}", problems);
  return {};
}

std::vector<Assignment> read_assignments(const YamlNode& map, std::string* label, std::vector<Problem>& problems) {
  std::vector<Assignment> out;
  if (map.kind != NodeKind::map) {
    complain(map, fmt::format("expected a mapping of keys, got {}", describe(map)), "key.path: value", problems);
    return out;
  }
  flatten(map, "", label, out, problems);
  return out;
}

std::vector<SweepAxis> read_axes(const YamlNode& node, std::vector<Problem>& problems) {
  std::vector<SweepAxis> axes;
  std::vector<std::string> varied;  // a case may replace what an axis gave, an axis may not
  const auto add = [&](const YamlEntry& entry) {
    axes.push_back(read_axis(entry, problems));
    if (entry.key == "cases" || axes.back().empty()) return;
    for (const Assignment& a : axes.back().front().values) {
      for (const std::string& other : varied) {
        if (other == a.path)
          problems.push_back(problem_at(entry.at, fmt::format("{} is varied by two axes", a.path), "one axis with all its values"));
        else if (is_inside(other, a.path) || is_inside(a.path, other))
          problems.push_back(problem_at(entry.at, fmt::format("{} and {} are varied by two axes, and one is part of the other", other, a.path),
                                        "axes of different keys, or cases: [{label: a, key.path: value}]"));
      }
      varied.push_back(a.path);
    }
  };
  for (const YamlEntry& entry : node.entries) add(entry);
  for (const YamlNode& item : node.items) {
    if (item.kind == NodeKind::map && item.entries.size() == 1) {
      add(item.entries.front());
    } else {
      complain(item, fmt::format("axes: expected one key with its values, got {}", describe(item)), "- eviction.policy: [lru, fifo]", problems);
    }
  }
  if (node.kind != NodeKind::map && node.kind != NodeKind::sequence)
    complain(node, fmt::format("axes: expected a list or mapping, got {}", describe(node)), "axes: [{eviction.policy: [lru, fifo]}]", problems);
  return axes;
}

}  // namespace moekv
