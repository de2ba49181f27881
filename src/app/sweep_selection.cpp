// From options to points: parts of a sweep, lists of indices and ids.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <numeric>
#include <utility>

#include "app/sweep.hpp"
#include "core/error.hpp"
#include "core/number_text.hpp"
#include "results/checkpoint_file.hpp"
#include "results/provenance.hpp"

namespace moekv {
namespace {

bool read_whole(std::string_view text, std::size_t& out) {
  const auto value = parse_whole<std::size_t>(text);
  out = value.value_or(0);
  return value.has_value();
}

SweepPart read_part(const std::string& text) {
  SweepPart part;
  if (text.empty()) return part;
  const std::size_t slash = text.find('/');
  const bool good = slash != std::string::npos && read_whole(std::string_view(text).substr(0, slash), part.index) &&
                    read_whole(std::string_view(text).substr(slash + 1), part.count) && part.index < part.count;
  if (!good) throw UserError("<command line>", fmt::format("--part: '{}' is no part", text), "i/N with i from 0 to N-1, for example 0/4");
  return part;
}

/// Marks what one item of --only names: an index, a range of indices, the start of an id, or a label.
void mark(const std::string& item, const SweepList& list, std::vector<bool>& marked) {
  if (item.empty()) throw UserError("<command line>", "--only: names nothing between two commas", "for example 3,7-9,lru,1f0a");
  const std::size_t dash = item.find('-');
  std::size_t first = 0, last = 0;
  const auto out_of_range = [&] {
    throw UserError("<command line>", fmt::format("--only: '{}' is out of range", item),
                    fmt::format("the sweep has points 0 to {}", list.points.size() - 1));
  };
  if (read_whole(std::string_view(item).substr(0, dash), first) &&
      (dash == std::string::npos || read_whole(std::string_view(item).substr(dash + 1), last))) {
    if (dash == std::string::npos) last = first;
    const auto begins = [&](const ListedPoint& p) { return p.id.starts_with(item); };  // an id may begin with digits alone
    const bool id = dash == std::string::npos && item.size() >= 4 && first >= list.points.size() && std::ranges::any_of(list.points, begins);
    if (!id && (last >= list.points.size() || first > last)) out_of_range();
    if (!id) {
      std::fill(marked.begin() + static_cast<std::ptrdiff_t>(first), marked.begin() + static_cast<std::ptrdiff_t>(last) + 1, true);
      return;
    }
  }
  bool found = false;
  for (std::size_t i = 0; i < list.points.size(); ++i) {
    const ListedPoint& point = list.points[i];
    if (point.label != item && !(item.size() >= 4 && point.id.starts_with(item))) continue;
    marked[i] = found = true;
  }
  if (!found)
    throw UserError("<command line>", fmt::format("--only: '{}' is no index, label or start of an id", item), "moekv sweep --list shows all");
}

/// What a generator makes is a function of these.
std::pair<std::string_view, GeneratorSpec> inputs_of(const RunSpec& spec) { return {spec.model.name, spec.payload.generator}; }

/// In the order in which the first of each group stands.
void group_by_inputs(const Sweep& sweep, std::vector<std::size_t>& points) {
  std::map<std::pair<std::string_view, GeneratorSpec>, std::size_t> groups;
  std::vector<std::pair<std::size_t, std::size_t>> order;  // group, point
  for (const std::size_t i : points) order.emplace_back(groups.try_emplace(inputs_of(*sweep.points[i].spec), groups.size()).first->second, i);
  std::sort(order.begin(), order.end());
  std::transform(order.begin(), order.end(), points.begin(), [](const auto& o) { return o.second; });
}

}  // namespace

std::string SweepPart::name() const { return isolated.empty() ? fmt::format("{}of{}", index, count) : isolated; }

SweepList make_list(const Sweep& sweep) {
  SweepList list{sweep.name, utc_now(), sweep.path, sweep.text, sweep.swept, {}};
  for (const SweepPoint& p : sweep.points) {
    ListedPoint point{p.id, p.label, p.repeat, {}, p.problems.empty() ? "" : format_problems(p.problems)};
    for (const SweepSetting& s : p.settings) point.settings.emplace_back(s.key, s.value);
    list.points.push_back(std::move(point));
  }
  return list;
}

std::vector<std::size_t> choose_points(const SweepOptions& options, const SweepList& list, SweepPart& part) {
  part = read_part(options.part);
  part.isolated = options.isolated ? options.only : "";
  std::vector<bool> marked(list.points.size(), options.only.empty());
  for (std::size_t begin = 0; begin <= options.only.size() && !options.only.empty();) {
    const std::size_t end = std::min(options.only.find(',', begin), options.only.size());
    mark(options.only.substr(begin, end - begin), list, marked);
    begin = end + 1;
  }
  std::vector<std::size_t> by_id(list.points.size());
  std::iota(by_id.begin(), by_id.end(), std::size_t{0});
  std::sort(by_id.begin(), by_id.end(), [&](std::size_t a, std::size_t b) { return list.points[a].id < list.points[b].id; });
  std::vector<std::size_t> chosen;
  std::erase_if(by_id, [&](std::size_t i) { return !marked[i]; });
  for (std::size_t place = part.index; place < by_id.size(); place += part.count) chosen.push_back(by_id[place]);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

double parse_duration(const std::string& text, const char* option) {
  if (text.empty()) return 0;
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const std::string unit = end;
  const double seconds = unit.empty() || unit == "s" ? 1 : unit == "m" ? 60 : unit == "h" ? 3600 : 0;
  if (end == text.c_str() || seconds == 0 || !(value >= 0) || value > 1e9)
    throw UserError("<command line>", fmt::format("{}: '{}' is no duration", option, text), "for example 90s, 5m or 2h");
  return value * seconds;
}

SweepLimits read_limits(const SweepOptions& options) {
  return {parse_duration(options.grace, "--grace"), parse_duration(options.budget, "--budget"), parse_duration(options.point_limit, "--point-limit")};
}

bool same_inputs(const RunSpec& a, const RunSpec& b) { return inputs_of(a) == inputs_of(b); }

std::vector<std::size_t> take_up(const SweepOptions& options, const SweepWork& work, const SweepFolder& folder, SweepJournal& journal,
                                 std::vector<PointProgress>& progress) {
  progress = folder.progress(work.list, work.part.name());
  std::vector<std::size_t> todo;
  for (const std::size_t i : work.chosen) {
    PointProgress& p = progress[i];
    const ListedPoint& point = work.list.points[i];
    if (p.status == RunStatus::failed && options.retry_failed && point.error.empty()) {
      std::filesystem::remove(folder.result_path(point.id));
      remove_checkpoint(folder.checkpoint_base(point.id));
      journal.append({point.id, SweepEvent::Kind::retry, p.attempts, "", 0});
      p = {};
    } else if (p.status == RunStatus::interrupted && p.crashes >= options.attempts && !p.running) {
      p.status = RunStatus::failed;
      p.reason = fmt::format("left alone: it ended {} times without a result, killed or crashed (--retry-failed tries again)", p.crashes);
      journal.append({point.id, SweepEvent::Kind::failed, p.attempts, p.reason, 0});
    }
    if (p.status != RunStatus::ok && p.status != RunStatus::failed) todo.push_back(i);
  }
  group_by_inputs(work.sweep, todo);
  return todo;
}

std::string settings_text(const ListedPoint& point) {
  std::string text;
  for (const auto& [key, value] : point.settings) text += fmt::format("{}{}={}", text.empty() ? "" : " ", key, value);
  return text;
}

}  // namespace moekv
