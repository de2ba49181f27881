// moekv report: what the axes of a sweep did, whether what was expected of it holds, and comparisons with intervals.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/command.hpp"
#include "config/sweep_expect.hpp"
#include "core/json_text.hpp"
#include "core/number_text.hpp"
#include "results/compare.hpp"

namespace moekv {
namespace {

struct ReportArguments {
  std::string file, by, baseline;
  std::vector<std::string> metrics;
  bool json = false;
};

using Json = nlohmann::ordered_json;

Json json_of(const Comparison& c) {
  const auto number = [](double v) { return std::isfinite(v) ? Json(v) : Json(nullptr); };
  return {{"verdict", to_string(c.verdict)},
          {"mean", number(c.mean_a)},
          {"mean_versus", number(c.mean_b)},
          {"difference", number(c.difference)},
          {"low", number(c.low)},
          {"high", number(c.high)},
          {"pairs", c.pairs},
          {"clusters", c.clusters},
          {"left_out", c.left_out},
          {"unmatched", c.unmatched},
          {"different_queries", c.different_queries},
          {"without_value", c.without_value},
          {"different_traces", c.different_traces},
          {"also_different", c.also_different},
          {"resampled", c.resampled}};
}

std::string text_of(const Comparison& c) {
  std::string text = fmt::format("{:.6g} versus {:.6g}, difference {:+.4g}", c.mean_a, c.mean_b, c.difference);
  if (std::isfinite(c.low)) text += fmt::format(" [{:+.4g}, {:+.4g}]", c.low, c.high);
  text += fmt::format(" ({} pairs, {} {}): {}", c.pairs, c.clusters, c.resampled, to_string(c.verdict));
  if (c.verdict == Verdict::undecided)
    text += c.pairs == 0                  ? ", no pair of points to compare"
            : c.clusters == 0             ? ", no pair has values"
            : std::isfinite(c.difference) ? ", one value has no interval"
                                          : ", not all values are finite";
  if (c.left_out > 0) text += fmt::format("; {} points not_exercised left out", c.left_out);
  if (c.unmatched > 0) text += fmt::format("; {} probed queries that one side alone measured left out", c.unmatched);
  if (c.different_queries > 0)
    text += fmt::format("; {} pairs answer different numbers of queries: set prefill.queries, whose auto follows the policy", c.different_queries);
  if (c.without_value > 0) text += fmt::format("; {} pairs without a value on both sides left out", c.without_value);
  if (c.different_traces > 0) text += fmt::format("; {} pairs replay different traces: compared run by run", c.different_traces);
  if (!c.also_different.empty()) text += fmt::format("; {} differ too", fmt::join(c.also_different, ", "));
  return text;
}

PointChoice choice_of(const std::vector<SweepSetting>& side) {
  PointChoice choice;
  for (const SweepSetting& s : side) choice.emplace_back(s.key, s.value);
  return choice;
}

bool holds(const SweepExpectation& expected, const Comparison& c) {
  const bool large = std::abs(c.difference) >= expected.by * std::abs(c.mean_b);
  switch (expected.is) {
    case ExpectedRelation::greater:
      return c.verdict == Verdict::higher && large;
    case ExpectedRelation::less:
      return c.verdict == Verdict::lower && large;
    case ExpectedRelation::equal:
      return c.verdict == Verdict::no_difference;
    default:
      return (c.verdict == Verdict::higher || c.verdict == Verdict::lower) && large;
  }
}

/// The report as it is collected; printed at once, or as JSON at the end.
class Report {
 public:
  explicit Report(const ReportArguments& arguments) : arguments_(arguments), table_(read_point_table(arguments.file)) {}

  ExitCode operator()() {
    points();
    effects();
    expectations();
    comparisons();
    if (!problems_.empty()) throw UserError(problems_);
    if (arguments_.json) fmt::print("{}\n", json_text(out_, 1));
    return failed_ == 0 ? ExitCode::ok : ExitCode::points_failed;
  }

 private:
  template <class... Arguments>
  void line(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
    if (!arguments_.json) fmt::print("{}\n", fmt::format(format, std::forward<Arguments>(arguments)...));
  }

  void points() {
    const PointColumn* status = table_.find("", "status");
    const PointColumn* labels = table_.find("", "labels");
    std::size_t ok = 0, idle = 0;
    for (std::size_t i = 0; status != nullptr && i < table_.n_points; ++i) {
      ok += status->texts[i] == "ok" ? 1 : 0;
      idle += labels != nullptr && labels->texts[i].find("not_exercised") != std::string::npos ? 1 : 0;
    }
    line("{}: {} points, {} ok{}", table_.title, table_.n_points, ok,
         idle > 0 ? fmt::format("; {} of them are not_exercised: leave them out", idle) : "");
    out_["points"] = {{"n", table_.n_points}, {"ok", ok}, {"not_exercised", idle}};
  }

  void effects() {
    out_["effects"] = Json::array();
    for (const Effect& e : audit_effects(table_)) {
      out_["effects"].push_back({{"key", e.key},
                                 {"pairs", e.pairs},
                                 {"changed_decisions", e.changed_decisions},
                                 {"counters", e.counters},
                                 {"changed_counters", e.changed_counters},
                                 {"changed_fidelity", e.changed_fidelity},
                                 {"also_different", e.also_different},
                                 {"no_effect", e.none()}});
      if (e.pairs == 0)
        line("effect of {}: no two points differ in it alone", e.key);
      else
        line("effect of {}{}: {} of {} counters and {} of {} decision digests changed{}{}", e.key,
             e.also_different.empty() ? "" : fmt::format(" (with {})", fmt::join(e.also_different, ", ")), e.changed_counters, e.counters,
             e.changed_decisions, e.pairs, e.changed_fidelity > 0 ? "; fidelity changed" : "",
             e.none() ? "   NO EFFECT: this axis changed no counter" : "");
    }
  }

  /// Nothing where it cannot be made; the problem is told when the rest of the report stands.
  std::optional<Comparison> compare(const std::vector<PointList>& lists, const std::string& metric, const PointChoice& a, const PointChoice& b) {
    try {
      return compare_points(table_, lists, arguments_.file, metric, a, b);
    } catch (const UserError& e) {
      problems_.insert(problems_.end(), e.problems().begin(), e.problems().end());
      return std::nullopt;
    }
  }

  /// What a sweep file states is judged over its own points, in its own words.
  void expectations() {
    out_["expect"] = Json::array();
    const std::vector<PointList> lists = lists_of(table_);
    for (auto list = lists.begin(); list != lists.end(); ++list) {
      const auto same = [&](const PointList& other) { return other.sweep_yaml == list->sweep_yaml && other.points == list->points; };
      if (list->sweep_yaml.empty() || std::any_of(lists.begin(), list, same)) continue;  // a copy of a sweep says it once
      for (const SweepExpectation& expected : expectations_of(list->sweep_yaml, arguments_.file)) judge(expected, {*list});
    }
  }

  void judge(const SweepExpectation& expected, const std::vector<PointList>& lists) {
    const std::optional<Comparison> compared = compare(lists, expected.metric, choice_of(expected.of), choice_of(expected.versus));
    if (!compared) return;
    const Comparison& c = *compared;
    const bool good = holds(expected, c);
    failed_ += good ? 0 : 1;
    line("{} {}: {} {}", good ? "holds:" : "FAILS:", expected.claim, expected.metric, text_of(c));
    Json entry = json_of(c);
    entry["claim"] = expected.claim;
    entry["metric"] = expected.metric;
    entry["is"] = expected_relation_names[static_cast<std::size_t>(expected.is)];
    entry["holds"] = good;
    out_["expect"].push_back(std::move(entry));
  }

  [[nodiscard]] std::string axes() const {
    std::string text = "known: label";
    for (const PointColumn& c : table_.columns) text += c.group == "setting" ? ", " + c.name : "";
    return text;
  }

  static bool is_axis(const PointList& list, const std::string& key) {
    const PointColumn* column = list.find(key);
    return column != nullptr && (column->group == "setting" || key == "label");
  }

  static std::vector<std::string> values_of(const std::vector<PointList>& lists, const std::string& key) {
    std::vector<std::string> values;
    for (const PointList& list : lists) {
      for (const std::string& value : list.find(key)->texts) {
        const bool chosen = !value.empty() || key == "label";  // a point outside the grid may have no value of the axis
        if (chosen && std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
      }
    }
    return values;
  }

  /// The value of --by that --baseline means, in the words of any sweep; the first where it is not given.
  [[nodiscard]] std::string baseline_of(const std::vector<std::string>& values) const {
    if (arguments_.baseline.empty()) return values.front();
    const auto means = [&](const std::string& value) { return same_value(value, arguments_.baseline); };
    if (const auto found = std::find_if(values.begin(), values.end(), means); found != values.end()) return *found;
    const std::vector<PointList> own = lists_of(table_), shared = lists_of(table_, Words::shared);
    for (std::size_t i = 0; i < own.size(); ++i) {
      if (!is_axis(own[i], arguments_.by)) continue;
      const std::vector<std::string>& texts = own[i].find(arguments_.by)->texts;
      if (const auto found = std::find_if(texts.begin(), texts.end(), means); found != texts.end())
        return shared[i].find(arguments_.by)->texts[static_cast<std::size_t>(found - texts.begin())];
    }
    throw UserError("<command line>", fmt::format("--baseline: no point has {}={}", arguments_.by, arguments_.baseline),
                    suggest_name(arguments_.baseline, {values.begin(), values.end()}));
  }

  /// Every value of --by against the baseline, or the first value.
  void comparisons() {
    if (arguments_.by.empty()) return;
    std::vector<PointList> lists = lists_of(table_, Words::shared);
    std::erase_if(lists, [&](const PointList& list) { return !is_axis(list, arguments_.by); });
    if (lists.empty()) throw UserError(arguments_.file, fmt::format("'{}' is no axis of this sweep", arguments_.by), axes());
    const std::vector<std::string> values = values_of(lists, arguments_.by);
    if (values.empty()) throw UserError(arguments_.file, fmt::format("no point has a value of '{}'", arguments_.by), axes());
    const std::string baseline = baseline_of(values);
    if (arguments_.metrics.empty())
      throw UserError("<command line>", "--by: names no metric to compare", "--metric attn_mass_kept_mean, for example");
    out_["comparisons"] = Json::array();
    for (const std::string& metric : arguments_.metrics) {
      for (const std::string& value : values) {
        if (value == baseline) continue;
        const std::optional<Comparison> compared = compare(lists, metric, {{arguments_.by, value}}, {{arguments_.by, baseline}});
        if (!compared) break;
        const Comparison& c = *compared;
        const auto name = [](const std::string& text) { return text.empty() ? "points without a label" : text; };
        line("{} of {} against {}: {}", metric, name(value), name(baseline), text_of(c));
        Json entry = json_of(c);
        entry["metric"] = metric;
        entry["value"] = value;
        entry["versus"] = baseline;
        out_["comparisons"].push_back(std::move(entry));
      }
    }
  }

  const ReportArguments& arguments_;
  PointTable table_;
  Json out_;
  std::vector<Problem> problems_;
  std::size_t failed_ = 0;
};

}  // namespace

void add_report(Command& parent, Action& action) {
  Command* report = parent.add_subcommand("report", "judge a merged sweep: effects of its axes, its expectations, comparisons with intervals");
  auto arguments = std::make_shared<ReportArguments>();
  report->add_option("file", arguments->file, "file of moekv merge")->required();
  Option* by = report->add_option("--by", arguments->by, "compare the values of this axis (or label), all else equal");
  report->add_option("--metric", arguments->metrics, "with --by: metric to compare; may be given several times")->needs(by);
  report->add_option("--baseline", arguments->baseline, "with --by: value to compare with; default: the first")->needs(by);
  report->add_flag("--json", arguments->json, "print JSON");
  report->footer(
      "Intervals are 95 % bootstrap intervals of paired differences. What is resampled: requests where a metric is the mean of a value that each "
      "probed\n"
      "query or request has and both sides replay one trace, else repeats where there are several, else pairs.\n"
      "exit code: 0 = everything that the sweep file expects holds, 1 = something does not\n"
      "examples:\n  moekv report evict.h5\n  moekv report evict.h5 --by eviction.policy --baseline lru --metric attn_mass_kept_mean");
  report->callback([arguments, &action] { action.run = [arguments] { return Report(*arguments)(); }; });
}

}  // namespace moekv
