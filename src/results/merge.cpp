// Finds what each point has come to, the best result of each, and hands them to the writer in one order.
#include "results/merge.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <string_view>
#include <tuple>

#include "core/error.hpp"
#include "results/merged_file.hpp"

namespace moekv {
namespace {

/// A point before its best result is chosen.
struct Candidate {
  MergedPoint point;
  std::string list;  // name of the sweep; empty for single files, which come last
  std::size_t index = 0;
};

void add_folder(const SweepFolder& folder, std::vector<Candidate>& candidates, std::vector<SweepList>& sweeps) {
  const SweepList list = folder.read_list();
  const std::vector<PointProgress> progress = folder.progress(list);
  const std::map<std::string, ResultPlace> places = folder.results();
  sweeps.push_back(list);
  for (std::size_t i = 0; i < list.points.size(); ++i) {
    const ListedPoint& listed = list.points[i];
    const PointProgress& p = progress[i];
    MergedPoint point{{listed.id, listed.label, listed.repeat, p.attempts}, listed.settings, p.status, p.reason, p.started, p.seconds, {}};
    const auto it = places.find(listed.id);
    const bool whole = p.status == RunStatus::ok || (p.status == RunStatus::failed && it != places.end() && is_whole(it->second, listed.id));
    if (it != places.end() && whole) point.place = it->second;
    candidates.push_back({std::move(point), list.name, i});
  }
}

void add_file(const std::string& path, std::vector<Candidate>& candidates) {
  const RunFile run = read_run_file(path);
  candidates.push_back({{run.point, {}, run.status, "", run.facts.text("created"), 0, {path}}, "", 0});
}

/// ok before failed before the rest; then the one that started first. The order of the inputs decides nothing.
auto preference(const Candidate& c) {
  const RunStatus s = c.point.status;
  const int rank = s == RunStatus::ok ? 0 : s == RunStatus::failed ? 1 : s == RunStatus::interrupted ? 2 : 3;
  const ResultPlace& place = c.point.place;
  return std::tuple(rank, !place.found(), c.point.started, c.point.seconds, std::string_view(place.path), place.offset, c.list.empty(),
                    std::string_view(c.list), c.index);
}

/// The first counted metric in which two results differ, as text; empty where there is none.
std::string counted_difference(const RunOutcome& a, const RunOutcome& b) {
  std::map<std::string_view, const Summary*> in_b;
  for (const Summary& s : b.summary) in_b[s.name] = &s;
  const auto same = [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); };
  for (const Summary& s : a.summary) {
    const auto it = in_b.find(s.name);
    if (it == in_b.end()) continue;
    const Summary& t = *it->second;
    const bool counted = s.claim == ClaimClass::counted || t.claim == ClaimClass::counted;
    const bool equal = same(s.value, t.value) && same(s.numerator, t.numerator) && same(s.denominator, t.denominator);
    if (counted && !equal) return fmt::format("{} {} and {}", s.name, t.value, s.value);
  }
  return {};
}

/// Two finished results of one point must have decided and counted alike.
void require_equal(const ResultPlace& a, const ResultPlace& b) {
  if (!a.found() || !b.found() || (a.path == b.path && a.offset == b.offset)) return;
  const RunOutcome one = read_result(a).outcome, other = read_result(b).outcome;
  const std::string first = to_hex(one.digest), second = to_hex(other.digest);
  if (first != second)
    throw UserError(b.path, fmt::format("holds another result of a point of {}, which decided differently: digests {} and {}", a.path, second, first),
                    "moekv diff --decisions names the first steps that differ; the builds may differ");
  if (const std::string text = counted_difference(one, other); !text.empty())
    throw UserError(b.path, fmt::format("holds another result of a point of {}, which decided alike and counted differently: {}", a.path, text),
                    "moekv diff names what differs; the builds may differ, or one file is damaged");
}

/// A point of several sweeps has the settings of all.
void add_settings(const std::vector<std::pair<std::string, std::string>>& from, std::vector<std::pair<std::string, std::string>>& to) {
  for (const auto& setting : from) {
    if (std::none_of(to.begin(), to.end(), [&](const auto& s) { return s.first == setting.first; })) to.push_back(setting);
  }
}

/// The different lists, in an order that does not depend on the inputs'. Folders that share the points of one sweep have one.
std::vector<SweepList> different_lists(const std::vector<SweepList>& sweeps) {
  std::map<std::vector<std::string>, const SweepList*> lists;
  for (const SweepList& sweep : sweeps) {
    std::vector<std::string> content{sweep.name, sweep.sweep_yaml};
    for (const ListedPoint& point : sweep.points) {
      content.push_back(fmt::format("{} {} {}", point.id, point.repeat, point.label));
      for (const auto& [key, value] : point.settings) content.push_back(key + "=" + value);
    }
    lists.emplace(std::move(content), &sweep);
  }
  std::vector<SweepList> out;
  for (const auto& [content, sweep] : lists) out.push_back(*sweep);
  return out;
}

}  // namespace

MergeReport merge_results(const std::vector<std::string>& inputs, const std::string& out, MergedRecords records) {
  std::vector<Candidate> candidates;
  std::vector<SweepList> sweeps;
  for (const std::string& input : inputs) {
    if (std::filesystem::is_directory(input))
      add_folder(SweepFolder(input), candidates, sweeps);
    else
      add_file(input, candidates);
  }
  std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) { return preference(a) < preference(b); });
  std::map<std::string, Candidate*> best;
  for (Candidate& c : candidates) {
    const auto [it, added] = best.emplace(c.point.info.id, &c);
    if (added) continue;
    if (it->second->point.status == RunStatus::ok && c.point.status == RunStatus::ok) require_equal(it->second->point.place, c.point.place);
    if (it->second->list.empty() && !c.list.empty()) std::tie(it->second->list, it->second->index) = std::tuple(c.list, c.index);
    add_settings(c.point.settings, it->second->point.settings);
  }
  std::vector<const Candidate*> order;
  for (const auto& [id, candidate] : best) order.push_back(candidate);
  std::stable_sort(order.begin(), order.end(), [](const Candidate* a, const Candidate* b) {
    return std::tuple(a->list.empty(), a->list, a->index) < std::tuple(b->list.empty(), b->list, b->index);
  });
  MergeReport report;
  std::vector<MergedPoint> points;
  for (const Candidate* c : order) {
    report.points += 1;
    report.ok += c->point.status == RunStatus::ok ? 1 : 0;
    report.failed += c->point.status == RunStatus::failed ? 1 : 0;
    points.push_back(c->point);
  }
  report.unfinished = report.points - report.ok - report.failed;
  write_merged_file(out, std::move(points), different_lists(sweeps), records);
  return report;
}

}  // namespace moekv
