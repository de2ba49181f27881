// Reads the parts of a sweep file, and checks keys and conditions against its axes.
#include "config/sweep_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "config/reader.hpp"
#include "config/schema.hpp"

namespace moekv {
namespace {

void check_top(const YamlNode& root, std::vector<Problem>& problems) {
  const std::vector<std::string_view> known{"name", "base", "set", "axes", "include", "exclude", "repeats", "expect"};
  for (const YamlEntry& entry : root.entries) {
    if (std::find(known.begin(), known.end(), entry.key) != known.end()) continue;
    const std::string advice =
        is_section(entry.key) || is_key(entry.key) ? "keys of a configuration stand under 'set' or 'axes'" : suggest_name(entry.key, known);
    problems.push_back(problem_at(entry.at, fmt::format("unknown key '{}' in a sweep file", entry.key), advice));
  }
}

void read_base(const YamlNode& root, SweepFile& file, std::vector<Problem>& problems) {
  const YamlNode* base = root.find("base");
  if (base != nullptr && base->kind == NodeKind::map) {
    file.base.root = *base;
    file.base.text = file.text;
    file.base_name = file.path;
  } else if (base != nullptr && base->kind == NodeKind::scalar) {
    file.base_name = (std::filesystem::path(file.path).parent_path() / base->text).lexically_normal().string();
    std::vector<Problem> inside;
    if (!read_root(file.base_name, file.base, inside) && !inside.empty() && inside.front().where == file.base_name)
      problems.push_back(
          problem_at(base->at, fmt::format("base: {}: {}", file.base_name, inside.front().what), "a path starts at the folder of the sweep file"));
    else
      problems.insert(problems.end(), inside.begin(), inside.end());
  } else {
    problems.push_back({file.path, "base: is missing", "base: configs/quickstart.yaml, or a mapping that is the configuration itself"});
  }
}

void read_repeats(const YamlNode& node, SweepFile& file, std::vector<Problem>& problems) {
  const YamlNode* count = node.kind == NodeKind::map ? node.find("count") : &node;
  const YamlNode* seeds = node.kind == NodeKind::map ? node.find("seeds") : nullptr;
  check_names(node, "repeats", {"count", "seeds"}, problems);
  file.repeats_at = node.at;
  const auto whole = [&](const YamlNode& n, const char* what) -> std::uint64_t {
    const auto parsed = parse_unsigned(n.text, "");
    if (n.kind == NodeKind::scalar && parsed.ok()) return parsed.value;
    problems.push_back(
        problem_at(n.at, fmt::format("{}: expected a whole number, got {}", what, describe(n)), "repeats: 5, or {count: 5, seeds: same}"));
    return 1;
  };
  if (seeds != nullptr && seeds->kind == NodeKind::sequence) {
    for (const YamlNode& seed : seeds->items) file.seeds.push_back(whole(seed, "seeds"));
    file.repeats = static_cast<std::uint32_t>(file.seeds.size());
    if (seeds->items.empty()) problems.push_back(problem_at(seeds->at, "seeds: the list is empty", "seeds: [1, 2, 3], or same"));
    if (count != nullptr && whole(*count, "count") != file.seeds.size())
      problems.push_back(problem_at(count->at, fmt::format("count: is not the number of seeds, {}", file.seeds.size()), "leave it out"));
  } else if (seeds != nullptr) {
    file.same_seed = seeds->text == "same";
    if (!file.same_seed) problems.push_back(problem_at(seeds->at, "seeds: expected a list of seeds, or same", "repeats: {count: 5, seeds: same}"));
  }
  if (count != nullptr && file.seeds.empty()) {
    const std::uint64_t n = whole(*count, "repeats");
    if (n < 1 || n > 10000) problems.push_back(problem_at(count->at, "repeats: out of range", "allowed: 1..10000"));
    file.repeats = static_cast<std::uint32_t>(n);
  }
}

void read_exclude(const YamlNode& node, SweepFile& file, std::vector<Problem>& problems) {
  for (const YamlNode& condition : node.items) {
    SweepAxis alternatives;
    std::string label;
    for (const Assignment& a : read_assignments(condition, &label, problems)) {
      SweepCase one;
      const std::vector<YamlNode> values = a.value.kind == NodeKind::sequence ? a.value.items : std::vector<YamlNode>{a.value};
      for (const YamlNode& value : values) one.values.push_back({a.path, value, to_flow(value)});
      alternatives.push_back(std::move(one));
    }
    if (!label.empty()) alternatives.push_back({label, {}, {}, condition.find("label")->at});
    if (alternatives.empty()) problems.push_back(problem_at(condition.at, "exclude: a condition names at least one key", "- {eviction.policy: lru}"));
    file.exclude.push_back(std::move(alternatives));
  }
  if (node.kind != NodeKind::sequence) problems.push_back(problem_at(node.at, "exclude: expected a list of mappings", "- {eviction.policy: lru}"));
}

std::string suggest(const std::string& path) {
  std::vector<std::string_view> known;
  for (const Key& key : schema()) known.push_back(key.path);
  const std::string_view near = nearest_name(path, known);
  return near.empty() ? "moekv list keys names every key" : fmt::format("did you mean '{}'?", near);
}

/// Whether an axis gives the key this value.
bool takes(const SweepFile& file, const Assignment& wanted) {
  return std::any_of(file.axes.begin(), file.axes.end(), [&](const SweepAxis& axis) {
    return std::any_of(axis.begin(), axis.end(), [&](const SweepCase& one) {
      return std::any_of(one.values.begin(), one.values.end(),
                         [&](const Assignment& a) { return a.path == wanted.path && to_flow(a.value) == wanted.text; });
    });
  });
}

}  // namespace

SweepFile read_sweep_file(const std::string& path, const std::vector<std::string>& overrides, std::vector<Problem>& problems) {
  SweepFile file;
  file.path = path;
  ConfigTree tree;
  if (!read_root(path, tree, problems)) return file;
  file.text = tree.text;
  const YamlNode& root = tree.root;
  check_top(root, problems);
  const YamlNode* name = root.find("name");
  file.name = name != nullptr ? name->text : std::filesystem::path(path).stem().string();
  const auto no_part_of_a_name = [](unsigned char c) { return c == '/' || c < ' '; };
  if (file.name.empty() || file.name.size() > 200 || std::any_of(file.name.begin(), file.name.end(), no_part_of_a_name))
    problems.push_back({path, "name: is empty, longer than 200 bytes, or holds a '/' or a control character", "it names the output folder"});
  read_base(root, file, problems);
  if (const YamlNode* set = root.find("set")) file.common = read_assignments(*set, nullptr, problems);
  if (const YamlNode* axes = root.find("axes")) file.axes = read_axes(*axes, problems);
  if (const YamlNode* include = root.find("include")) {
    if (include->kind != NodeKind::sequence)
      problems.push_back(problem_at(include->at, fmt::format("include: expected a list of mappings, got {}", describe(*include)),
                                    "- {label: full, eviction.policy: full}"));
    for (const YamlNode& item : include->items) {
      SweepCase one;
      one.values = read_assignments(item, &one.label, problems);
      file.include.push_back(std::move(one));
    }
  }
  if (const YamlNode* exclude = root.find("exclude")) read_exclude(*exclude, file, problems);
  if (const YamlNode* repeats = root.find("repeats")) read_repeats(*repeats, file, problems);
  if (const YamlNode* expect = root.find("expect")) file.expectations = read_expectations(*expect, problems);
  for (std::string text : overrides) {
    std::replace(text.begin(), text.end(), '\n', ' ');  // the comment is one line
    file.text += (file.text.ends_with('\n') ? "# override: " : "\n# override: ") + text + "\n";
  }
  const std::vector<Assignment> values = parse_overrides(overrides, problems);
  file.common.insert(file.common.end(), values.begin(), values.end());
  return file;
}

std::vector<std::string> swept_keys(const SweepFile& file) {
  std::vector<std::string> keys;
  const auto add = [&](const SweepCase& one) {
    for (const Assignment& a : one.values) {
      if (std::find(keys.begin(), keys.end(), a.path) == keys.end()) keys.push_back(a.path);
    }
  };
  for (const SweepAxis& axis : file.axes) std::for_each(axis.begin(), axis.end(), add);
  std::for_each(file.include.begin(), file.include.end(), add);
  return keys;
}

void check_keys(const SweepFile& file, const std::vector<std::string>& swept, std::vector<Problem>& problems) {
  const auto check = [&](const SweepCase& one) {
    for (const Assignment& a : one.values) {
      if (a.path.empty() || (!is_key(a.path) && !is_section(a.path)))
        problems.push_back(problem_at(a.value.at, fmt::format("unknown key '{}'", a.path), suggest(a.path)));
    }
  };
  for (const SweepAxis& axis : file.axes) {
    std::set<std::string> seen;  // an axis of many values is told once
    for (const SweepCase& one : axis) {
      if (std::any_of(one.values.begin(), one.values.end(), [&](const Assignment& a) { return seen.insert(a.path).second; })) check(one);
    }
  }
  std::for_each(file.include.begin(), file.include.end(), check);
  const auto is_swept = [&](const std::string& key) { return std::find(swept.begin(), swept.end(), key) != swept.end(); };
  for (const Assignment& a : file.common) {
    if (!a.value.at.source || !a.value.at.source->command_line) continue;
    const auto met = std::find_if(swept.begin(), swept.end(),
                                  [&](const std::string& key) { return key == a.path || is_inside(key, a.path) || is_inside(a.path, key); });
    if (met != swept.end())
      problems.push_back(
          problem_at(a.value.at, fmt::format("{} is an axis of this sweep", *met), "choose points with --only, or edit the sweep file"));
  }
  for (const SweepAxis& condition : file.exclude) {
    for (const SweepCase& one : condition) {
      if (!one.values.empty() && !is_swept(one.values.front().path))
        problems.push_back(
            problem_at(one.values.front().value.at, fmt::format("exclude: {} is no axis of this sweep", one.values.front().path), join(swept)));
      for (const Assignment& wanted : one.values) {
        if (is_swept(wanted.path) && !takes(file, wanted))
          problems.push_back(problem_at(wanted.value.at, fmt::format("exclude: no point has {}={}", wanted.path, to_flow(wanted.value)),
                                        "written as in the axis; a value that is a list stands in a list: [[1-2]]"));
      }
    }
  }
}

void check_seeds(const SweepFile& file, std::vector<Problem>& problems) {
  const bool replaced = !file.seeds.empty() || (file.repeats > 1 && !file.same_seed);
  const std::vector<std::string> swept = swept_keys(file);
  if (!replaced || std::find(swept.begin(), swept.end(), "seed") == swept.end()) return;
  problems.push_back(problem_at(file.repeats_at, "repeats: replaces the seeds that an axis or a case of this sweep gives",
                                "leave one of them out, or repeats: {count: 3, seeds: same}"));
}

void check_excluded_labels(const SweepFile& file, const std::vector<SweepCase>& grid, std::vector<Problem>& problems) {
  std::set<std::string> known, joined;
  for (const SweepCase& point : grid) {
    known.insert(point.parts.begin(), point.parts.end());
    joined.insert(point.label);
  }
  for (const SweepAxis& condition : file.exclude) {
    for (const SweepCase& one : condition) {
      if (!one.values.empty() || known.contains(one.label) || joined.contains(one.label)) continue;
      problems.push_back(problem_at(one.at, fmt::format("exclude: no point has the label '{}'", one.label),
                                    known.empty() ? "no case of an axis has a label" : suggest_name(one.label, {known.begin(), known.end()})));
    }
  }
}

bool excluded(const SweepFile& file, const SweepCase& point) {
  const auto holds = [&](const SweepCase& part) {
    if (part.values.empty()) return part.label == point.label || std::find(point.parts.begin(), point.parts.end(), part.label) != point.parts.end();
    return std::any_of(part.values.begin(), part.values.end(), [&](const Assignment& wanted) {
      const auto it = std::find_if(point.values.rbegin(), point.values.rend(), [&](const Assignment& a) { return a.path == wanted.path; });
      return it != point.values.rend() && to_flow(it->value) == wanted.text;
    });
  };
  return std::any_of(file.exclude.begin(), file.exclude.end(),
                     [&](const SweepAxis& condition) { return std::all_of(condition.begin(), condition.end(), holds); });
}

}  // namespace moekv
