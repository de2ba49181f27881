// Reads `expect` of a sweep file.
#include "config/sweep_expect.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <set>

#include "config/key.hpp"
#include "config/schema.hpp"
#include "config/sweep_axes.hpp"
#include "core/number_text.hpp"

namespace moekv {
namespace {

std::vector<SweepSetting> read_side(const YamlNode& item, const char* name, std::vector<Problem>& problems) {
  std::vector<SweepSetting> side;
  const YamlNode* node = item.find(name);
  if (node == nullptr || node->kind != NodeKind::map || node->entries.empty()) {
    problems.push_back(problem_at(node == nullptr ? item.at : node->at, fmt::format("expect: '{}' names the points of one side", name),
                                  fmt::format("{}: {{eviction.policy: lru}}", name)));
    return side;
  }
  std::string label;
  for (const Assignment& a : read_assignments(*node, &label, problems)) side.push_back({a.path, to_flow(a.value)});
  if (!label.empty()) side.push_back({"label", label});
  return side;
}

std::string text_of(const YamlNode& item, const char* name, std::vector<Problem>& problems) {
  const YamlNode* node = item.find(name);
  if (node != nullptr && node->kind == NodeKind::scalar) return node->text;
  problems.push_back(problem_at(item.at, fmt::format("expect: '{}' is missing", name), "claim, metric, of, versus, is; by where it has a size"));
  return {};
}

SweepExpectation read_one(const YamlNode& item, std::vector<Problem>& problems) {
  check_names(item, "expect", {"claim", "metric", "of", "versus", "is", "by"}, problems);
  SweepExpectation out;
  out.at = item.at;
  out.claim = text_of(item, "claim", problems);
  out.metric = text_of(item, "metric", problems);
  out.of = read_side(item, "of", problems);
  out.versus = read_side(item, "versus", problems);
  const std::string is = text_of(item, "is", problems);
  const auto* const end = std::end(expected_relation_names);
  const auto* const it = std::find(std::begin(expected_relation_names), end, is);
  if (it != end) {
    out.is = static_cast<ExpectedRelation>(it - std::begin(expected_relation_names));
  } else if (!is.empty()) {
    problems.push_back(
        problem_at(item.find("is")->at, fmt::format("is: unknown value '{}'", is), suggest_name(is, {std::begin(expected_relation_names), end})));
  }
  if (const YamlNode* by = item.find("by")) {
    const auto parsed = parse_number(by->text, "1");
    if (!parsed.ok()) problems.push_back(problem_at(by->at, "by: " + parsed.error, "a share: 5% or 0.05"));
    if (parsed.ok() && parsed.value < 0)
      problems.push_back(problem_at(by->at, fmt::format("by: {} is negative", by->text), "a share: 5%; 'is' says the direction"));
    if (is == "equal")
      problems.push_back(problem_at(by->at, "by: has no meaning with is: equal, which holds where no difference is detectable", "leave it out"));
    out.by = parsed.value;
  }
  return out;
}

/// Looks for the points that a side of an expectation names, as the report will.
struct SideCheck {
  const Sweep& sweep;
  std::vector<Problem>& problems;

  void operator()(const Place& at, const std::vector<SweepSetting>& side) const {
    const std::size_t before = problems.size();
    for (const SweepSetting& wanted : side) check_one(at, wanted);
    if (problems.size() > before) return;
    const auto all = [&](const SweepPoint& p) {
      return std::all_of(side.begin(), side.end(), [&](const SweepSetting& wanted) { return !chosen(wanted.key) || has(p, wanted); });
    };
    if (std::any_of(sweep.points.begin(), sweep.points.end(), all)) return;
    std::string text;
    for (const SweepSetting& wanted : side) text += fmt::format("{}{}={}", text.empty() ? "" : ", ", wanted.key, wanted.value);
    problems.push_back(
        problem_at(at, fmt::format("expect: no point of this sweep has {} together", text), "moekv sweep FILE --list shows the points"));
  }

 private:
  [[nodiscard]] bool chosen(const std::string& key) const {
    return key == "label" || key == "repeat" || std::find(sweep.swept.begin(), sweep.swept.end(), key) != sweep.swept.end();
  }
  static bool has(const SweepPoint& point, const SweepSetting& wanted) {
    if (wanted.key == "label") return point.label == wanted.value;
    if (wanted.key == "repeat") return fmt::format("{}", point.repeat) == wanted.value;
    return std::any_of(point.settings.begin(), point.settings.end(),
                       [&](const SweepSetting& s) { return s.key == wanted.key && same_value(s.value, wanted.value); });
  }
  void check_one(const Place& at, const SweepSetting& wanted) const {
    std::string known = "varied here: " + (sweep.swept.empty() ? "nothing" : join(sweep.swept));
    if (!chosen(wanted.key)) {
      const std::set<std::string> values = values_of(wanted.key);
      if (std::any_of(values.begin(), values.end(), [&](const std::string& v) { return same_value(v, wanted.value); })) return;
      if (!values.empty()) known = fmt::format("points have {}", fmt::join(values, " or "));
    } else if (std::any_of(sweep.points.begin(), sweep.points.end(), [&](const SweepPoint& p) { return has(p, wanted); })) {
      return;
    }
    problems.push_back(problem_at(at, fmt::format("expect: no point of this sweep has {}={}", wanted.key, wanted.value), known));
  }
  /// What points have for a key that no axis chooses.
  [[nodiscard]] std::set<std::string> values_of(const std::string& key) const {
    std::set<std::string> values;
    for (const SweepPoint& point : sweep.points) {
      if (!point.spec) continue;
      for (const KeyValue& resolved : resolved_keys(*point.spec, {key})) {
        if (resolved.path == key) values.insert(resolved.value);
      }
    }
    return values;
  }
};

}  // namespace

std::vector<SweepExpectation> read_expectations(const YamlNode& node, std::vector<Problem>& problems) {
  std::vector<SweepExpectation> out;
  if (node.kind != NodeKind::sequence)
    problems.push_back(problem_at(node.at, fmt::format("expect: expected a list, got {}", describe(node)), "- claim: ..."));
  for (const YamlNode& item : node.items) {
    if (item.kind == NodeKind::map)
      out.push_back(read_one(item, problems));
    else
      problems.push_back(problem_at(item.at, fmt::format("expect: expected a mapping, got {}", describe(item)), "- claim: ..."));
  }
  return out;
}

void check_sides(const std::vector<SweepExpectation>& expectations, const Sweep& sweep, std::vector<Problem>& problems) {
  const SideCheck check{sweep, problems};
  for (const SweepExpectation& expected : expectations) {
    for (const auto* side : {&expected.of, &expected.versus}) check(expected.at, *side);
  }
}

std::vector<SweepExpectation> expectations_of(const std::string& sweep_yaml, const std::string& name) {
  std::vector<SweepExpectation> out;
  std::vector<Problem> problems;
  auto source = std::make_shared<TextSource>();
  source->name = name;
  const YamlNode root = parse_yaml(sweep_yaml, source, problems);
  if (const YamlNode* expect = root.find("expect")) out = read_expectations(*expect, problems);
  if (!problems.empty()) throw UserError(std::move(problems));
  return out;
}

}  // namespace moekv
