// Expands a sweep file: the product of its axes over the base, cases added and left out, repeats, and an id for every point.
#include "config/sweep.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <set>

#include "config/key.hpp"
#include "config/reader.hpp"
#include "config/sweep_file.hpp"

namespace moekv {
namespace {

constexpr std::size_t most_points = 100000;

/// The grid of the axes, the last one fastest, without what is excluded; then the included cases.
std::vector<SweepCase> grid(const SweepFile& file, std::vector<Problem>& problems) {
  std::vector<SweepCase> cases{{}};
  for (const SweepAxis& axis : file.axes) {
    std::vector<SweepCase> next;
    for (const SweepCase& left : cases) {
      for (const SweepCase& right : axis) {
        SweepCase both = left;
        both.label += (left.label.empty() || right.label.empty() ? "" : "/") + right.label;
        if (!right.label.empty()) both.parts.push_back(right.label);
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
  check_excluded_labels(file, cases, problems);
  std::erase_if(cases, [&](const SweepCase& one) { return excluded(file, one); });
  cases.insert(cases.end(), file.include.begin(), file.include.end());
  return cases;
}

std::string hash_text(const std::string& text) { return fmt::format("{:016x}", XXH3_128bits(text.data(), text.size()).high64); }

/// Of a point that makes no run what it is made of.
std::string id_of(const SweepPoint& point, const SweepFile& file) {
  std::string text;
  if (point.spec) {
    text = fmt::format("{}\n{}\n{}\n{}\n", point.spec->config_digest, point.spec->backend, point.spec->transport, point.spec->threads);
    if (!point.spec->graphs) text += "no graphs\n";
  } else {
    text = to_flow(file.base.root) + "\n";
    for (const Assignment& a : file.common) text += a.path + ": " + to_flow(a.value) + "\n";
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
  point.id = id_of(point, file);
  return point;
}

/// The problems of the first point that has some, where no point can run: then the file is bad, not a combination.
void require_one_good(const Sweep& sweep) {
  const auto good = [](const SweepPoint& p) { return p.spec.has_value(); };
  if (std::any_of(sweep.points.begin(), sweep.points.end(), good)) return;
  if (sweep.points.empty()) throw UserError(sweep.path, "makes no point at all", "look at its axes, and at 'exclude' where it has one");
  throw UserError(sweep.points.front().problems);
}

}  // namespace

Sweep read_sweep(const std::string& path, const std::vector<std::string>& overrides, int n_processes) {
  std::vector<Problem> problems;
  SweepFile file = read_sweep_file(path, overrides, problems);
  Sweep sweep{file.name, path, file.text, swept_keys(file), {}, 0};
  check_keys(file, sweep.swept, problems);
  check_seeds(file, problems);
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
