// Expands a sweep file: the product of its axes over the base, cases added and left out, repeats, and an id for every point.
#include "config/sweep.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "config/reader.hpp"
#include "config/schema.hpp"
#include "config/sweep_axes.hpp"
#include "config/sweep_expect.hpp"

namespace moekv {
namespace {

constexpr std::size_t most_points = 100000;

/// A sweep file as it is written, before points are made.
struct SweepFile {
  std::string name, path, text;
  ConfigTree base;
  std::string base_name;
  std::vector<Assignment> common;  // `set`, then overrides of the command line
  std::vector<SweepAxis> axes;
  std::vector<SweepCase> include;
  std::vector<SweepAxis> exclude;    // each a condition: one case per value and key
  std::vector<std::uint64_t> seeds;  // of repeats; empty: none
  bool same_seed = false;
  std::uint32_t repeats = 1;
  std::vector<SweepExpectation> expectations;
};

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
    if (!label.empty()) alternatives.push_back({label, {}});
    if (alternatives.empty()) problems.push_back(problem_at(condition.at, "exclude: a condition names at least one key", "- {eviction.policy: lru}"));
    file.exclude.push_back(std::move(alternatives));
  }
  if (node.kind != NodeKind::sequence) problems.push_back(problem_at(node.at, "exclude: expected a list of mappings", "- {eviction.policy: lru}"));
}

SweepFile read_file(const std::string& path, const std::vector<std::string>& overrides, std::vector<Problem>& problems) {
  SweepFile file;
  file.path = path;
  ConfigTree tree;
  if (!read_root(path, tree, problems)) return file;
  file.text = tree.text;
  const YamlNode& root = tree.root;
  check_top(root, problems);
  const YamlNode* name = root.find("name");
  file.name = name != nullptr ? name->text : std::filesystem::path(path).stem().string();
  if (file.name.empty() || file.name.find('/') != std::string::npos)
    problems.push_back({path, "name: is empty or holds a '/'", "it names the output folder"});
  read_base(root, file, problems);
  if (const YamlNode* set = root.find("set")) file.common = read_assignments(*set, nullptr, problems);
  if (const YamlNode* axes = root.find("axes")) file.axes = read_axes(*axes, problems);
  if (const YamlNode* include = root.find("include")) {
    for (const YamlNode& item : include->items) {
      SweepCase one;
      one.values = read_assignments(item, &one.label, problems);
      file.include.push_back(std::move(one));
    }
  }
  if (const YamlNode* exclude = root.find("exclude")) read_exclude(*exclude, file, problems);
  if (const YamlNode* repeats = root.find("repeats")) read_repeats(*repeats, file, problems);
  if (const YamlNode* expect = root.find("expect")) file.expectations = read_expectations(*expect, problems);
  for (const std::string& text : overrides) file.text += (file.text.ends_with('\n') ? "# override: " : "\n# override: ") + text + "\n";
  const std::vector<Assignment> values = parse_overrides(overrides, problems);
  file.common.insert(file.common.end(), values.begin(), values.end());
  return file;
}

/// Keys that any axis or case sets, in the order in which they appear.
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

std::string suggest(const std::string& path) {
  std::vector<std::string_view> known;
  for (const Key& key : schema()) known.push_back(key.path);
  const std::string_view near = nearest_name(path, known);
  return near.empty() ? "moekv list keys names every key" : fmt::format("did you mean '{}'?", near);
}

/// What an override of the command line cannot do, and conditions that can never hold.
void check_keys(const SweepFile& file, const std::vector<std::string>& swept, std::vector<Problem>& problems) {
  const auto check = [&](const SweepCase& one) {
    for (const Assignment& a : one.values) {
      if (!is_key(a.path) && !is_section(a.path))
        problems.push_back(problem_at(a.value.at, fmt::format("unknown key '{}'", a.path), suggest(a.path)));
    }
  };
  for (const SweepAxis& axis : file.axes) {
    if (!axis.empty()) check(axis.front());
  }
  std::for_each(file.include.begin(), file.include.end(), check);
  const auto is_swept = [&](const std::string& key) { return std::find(swept.begin(), swept.end(), key) != swept.end(); };
  for (const Assignment& a : file.common) {
    if (a.value.at.source && a.value.at.source->command_line && is_swept(a.path))
      problems.push_back(
          problem_at(a.value.at, fmt::format("{} is an axis of this sweep", a.path), "choose points with --only, or edit the sweep file"));
  }
  for (const SweepAxis& condition : file.exclude) {
    for (const SweepCase& one : condition) {
      if (!one.values.empty() && !is_swept(one.values.front().path))
        problems.push_back(
            problem_at(one.values.front().value.at, fmt::format("exclude: {} is no axis of this sweep", one.values.front().path), join(swept)));
    }
  }
}

bool excluded(const SweepFile& file, const SweepCase& point) {
  const auto holds = [&](const SweepCase& part) {
    if (part.values.empty()) return part.label == point.label;
    return std::any_of(part.values.begin(), part.values.end(), [&](const Assignment& wanted) {
      const auto it = std::find_if(point.values.rbegin(), point.values.rend(), [&](const Assignment& a) { return a.path == wanted.path; });
      return it != point.values.rend() && to_flow(it->value) == wanted.text;
    });
  };
  return std::any_of(file.exclude.begin(), file.exclude.end(),
                     [&](const SweepAxis& condition) { return std::all_of(condition.begin(), condition.end(), holds); });
}

/// The grid of the axes, the last one fastest, without what is excluded; then the included cases.
std::vector<SweepCase> grid(const SweepFile& file, std::vector<Problem>& problems) {
  std::vector<SweepCase> cases{{}};
  for (const SweepAxis& axis : file.axes) {
    std::vector<SweepCase> next;
    for (const SweepCase& left : cases) {
      for (const SweepCase& right : axis) {
        SweepCase both = left;
        both.label += (left.label.empty() || right.label.empty() ? "" : "/") + right.label;
        both.values.insert(both.values.end(), right.values.begin(), right.values.end());
        next.push_back(std::move(both));
      }
      if (next.size() > most_points) {
        problems.push_back({file.path, fmt::format("makes more than {} points", most_points), "shorten an axis, or sample"});
        return {};
      }
    }
    cases = std::move(next);
  }
  if (file.axes.empty() && !file.include.empty()) cases.clear();
  std::erase_if(cases, [&](const SweepCase& one) { return excluded(file, one); });
  cases.insert(cases.end(), file.include.begin(), file.include.end());
  return cases;
}

std::string hash_text(const std::string& text) { return fmt::format("{:016x}", XXH3_128bits(text.data(), text.size()).high64); }

std::string id_of(const SweepPoint& point) {
  std::string text;
  if (point.spec) {
    text = fmt::format("{}\n{}\n{}\n{}\n", point.spec->config_digest, point.spec->backend, point.spec->transport, point.spec->threads);
    if (!point.spec->graphs) text += "no graphs\n";
  } else {
    for (const SweepSetting& s : point.settings) text += s.key + ": " + s.value + "\n";
  }
  return hash_text(fmt::format("{}label: {}\nrepeat: {}\n", text, point.label, point.repeat));
}

SweepPoint make_point(const SweepFile& file, const SweepCase& one, std::uint32_t repeat, int n_processes) {
  SweepPoint point;
  point.label = one.label;
  point.repeat = repeat;
  std::vector<Assignment> values = file.common;
  for (const Assignment& a : one.values) {
    values.push_back(a);
    std::erase_if(point.settings, [&](const SweepSetting& s) { return s.key == a.path; });
    point.settings.push_back({a.path, to_flow(a.value)});
  }
  try {
    RunSpec spec = make_run_spec(file.base, values, file.base_name, n_processes);
    const bool own_seed = file.repeats > 1 && !file.same_seed;
    if (own_seed || !file.seeds.empty()) {
      const std::uint64_t seed = file.seeds.empty() ? spec.seed + repeat : file.seeds.at(repeat);
      std::vector<Problem> none;
      values.push_back(parse_overrides({fmt::format("seed={}", seed)}, none).front());
      spec = make_run_spec(file.base, values, file.base_name, n_processes);
    }
    point.spec = std::move(spec);
  } catch (const UserError& e) {
    point.problems = e.problems();
  }
  point.id = id_of(point);
  return point;
}

/// The problems of the first point that has some, where no point can run: then the file is bad, not a combination.
void require_one_good(const Sweep& sweep) {
  const auto good = [](const SweepPoint& p) { return p.spec.has_value(); };
  if (std::any_of(sweep.points.begin(), sweep.points.end(), good)) return;
  if (sweep.points.empty()) throw UserError(sweep.path, "makes no point at all", "'exclude' leaves nothing");
  throw UserError(sweep.points.front().problems);
}

}  // namespace

Sweep read_sweep(const std::string& path, const std::vector<std::string>& overrides, int n_processes) {
  std::vector<Problem> problems;
  SweepFile file = read_file(path, overrides, problems);
  Sweep sweep{file.name, path, file.text, swept_keys(file), {}, 0};
  check_keys(file, sweep.swept, problems);
  file.base.included = std::make_shared<IncludedFiles>();
  const std::vector<SweepCase> cases = grid(file, problems);
  if (problems.empty() && cases.size() * file.repeats > most_points)
    problems.push_back({path, fmt::format("makes more than {} points", most_points), "fewer repeats"});
  if (!problems.empty()) throw UserError(std::move(problems));
  std::set<std::string> seen;
  for (const SweepCase& one : cases) {
    for (std::uint32_t repeat = 0; repeat < file.repeats; ++repeat) {
      SweepPoint point = make_point(file, one, repeat, n_processes);
      if (seen.insert(point.id).second)
        sweep.points.push_back(std::move(point));
      else
        sweep.n_duplicates += 1;
    }
  }
  require_one_good(sweep);
  check_sides(file.expectations, sweep, problems);
  if (!problems.empty()) throw UserError(std::move(problems));
  return sweep;
}

}  // namespace moekv
