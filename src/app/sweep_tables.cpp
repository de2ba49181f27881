// moekv sweep --list, --dry-run and --status: what a sweep is, will need, and has come to.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "app/sweep.hpp"
#include "app/sweep_plan.hpp"
#include "core/heap.hpp"
#include "core/json_text.hpp"
#include "core/units.hpp"

namespace moekv {
namespace {

/// The plan, refused also where it exceeds the memory that this host has to give; where evictions may free some of it, that is only told.
PointPlan plan_here(const SweepPoint& point, PointCache& cache) {
  PointPlan plan = plan_point(point, cache);
  if (!plan.refusal.empty() || plan.job_bytes <= static_cast<double>(available_memory()) || point.spec->backend != "host") return plan;
  (plan.evicts ? plan.caution : plan.refusal) =
      fmt::format("needs {}{}, this host has {} free", plan.evicts ? "up to " : "", format_bytes(std::llround(plan.job_bytes)),
                  format_bytes(static_cast<std::int64_t>(available_memory())));
  return plan;
}

nlohmann::ordered_json json_of(const PointPlan& plan, const ListedPoint& point, std::size_t index) {
  nlohmann::ordered_json out{{"index", index}, {"id", point.id}, {"label", point.label}, {"repeat", point.repeat}};
  for (const auto& [key, value] : point.settings) out["settings"][key] = value;
  out["rank_bytes"] = plan.rank_bytes;
  out["job_bytes"] = plan.job_bytes;
  out["upper_bound"] = plan.upper_bound;
  out["model_ns"] = plan.model_ns;
  out["tokens"] = plan.tokens;
  out["refusal"] = plan.refusal;
  out["caution"] = plan.caution;
  return out;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

std::string point_text(const ListedPoint& point, std::size_t index) {
  const std::string repeat = point.repeat > 0 ? fmt::format(" repeat={}", point.repeat) : "";
  return fmt::format("{:5} {}  {}{}{}{}", index, point.id, point.label, point.label.empty() ? "" : "  ", settings_text(point), repeat);
}

}  // namespace

void print_points(const SweepWork& work) {
  for (const std::size_t i : work.chosen) {
    const ListedPoint& point = work.list.points[i];
    fmt::print("{}{}\n", point_text(point, i), point.error.empty() ? "" : "  cannot run: " + first_line(point.error));
  }
  fmt::print("{} points", work.chosen.size());
  if (work.chosen.size() != work.list.points.size()) fmt::print(" of {}", work.list.points.size());
  if (work.sweep.n_duplicates > 0) fmt::print(", {} more are equal to one of them and left out", work.sweep.n_duplicates);
  fmt::print("\n");
}

ExitCode print_plans(const SweepWork& work, bool json) {
  PointCache cache;
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  std::size_t refused = 0;
  double largest = 0;
  std::int64_t model_ns = 0;
  if (!json) fmt::print("index id                 fullest rank     all ranks  modelled time  settings\n");
  for (const std::size_t i : work.chosen) {
    const ListedPoint& point = work.list.points[i];
    const PointPlan plan = plan_here(work.sweep.points[i], cache);
    refused += plan.refusal.empty() ? 0 : 1;
    largest = std::max(largest, plan.job_bytes);
    model_ns += plan.model_ns;
    if (json) {
      all.push_back(json_of(plan, point, i));
      continue;
    }
    const auto bytes = [&](double b) { return fmt::format("{}{}", plan.upper_bound ? "<= " : "", format_bytes(std::llround(b))); };
    fmt::print("{:5} {} {:>13} {:>13} {:>14}  {} {}\n", i, point.id, bytes(plan.rank_bytes), bytes(plan.job_bytes), format_ns(plan.model_ns),
               point.label, settings_text(point));
    if (!plan.refusal.empty()) fmt::print("      refused: {}\n", plan.refusal);
    if (!plan.caution.empty()) fmt::print("      may not fit: {}\n", plan.caution);
  }
  if (json) {
    fmt::print("{}\n", json_text(all, 1));
  } else {
    fmt::print("{} points, {} refused; most memory {}; {} of modelled KV time in all (steps one after another, on the cluster file's numbers)\n",
               work.chosen.size(), refused, format_bytes(std::llround(largest)), format_ns(model_ns));
  }
  return refused == 0 ? ExitCode::ok : ExitCode::points_failed;
}

ExitCode print_status(const SweepFolder& folder, bool json) {
  const SweepList list = folder.read_list();
  const std::vector<PointProgress> progress = folder.progress(list);
  std::map<RunStatus, std::size_t> counts;
  std::size_t running = 0;
  double seconds = 0;
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < list.points.size(); ++i) {
    const PointProgress& p = progress[i];
    const std::string_view word = p.running ? "running" : run_status_names[static_cast<std::size_t>(p.status)];
    running += p.running ? 1 : 0;
    counts[p.running ? RunStatus::pending : p.status] += 1;
    if (p.status == RunStatus::ok) seconds += p.seconds;
    if (json) {
      all.push_back({{"index", i},
                     {"id", list.points[i].id},
                     {"status", word},
                     {"attempts", p.attempts},
                     {"crashes", p.crashes},
                     {"seconds", p.seconds},
                     {"reason", p.reason}});
    } else if (p.running || p.status == RunStatus::failed || p.status == RunStatus::interrupted || !p.reason.empty()) {
      fmt::print("{}  {}{}{}\n", point_text(list.points[i], i), word, p.reason.empty() ? "" : ": ", first_line(p.reason));
    }
  }
  if (json) {
    fmt::print("{}\n", json_text(all, 1));
    return ExitCode::ok;
  }
  fmt::print("{}: {} points: {} ok, {} failed, {} interrupted, {} running, {} pending; {:.1f} s in points that are ok\n", list.name,
             list.points.size(), counts[RunStatus::ok], counts[RunStatus::failed], counts[RunStatus::interrupted], running,
             counts[RunStatus::pending] - running, seconds);
  return ExitCode::ok;
}

}  // namespace moekv
