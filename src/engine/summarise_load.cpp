// Load balance over experts, shards, ranks and nodes, and fidelity over the probes.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "engine/statistics.hpp"
#include "engine/summary_list.hpp"

namespace moekv {
namespace {

using enum ClaimClass;

/// Rows of one kind of entity, in the order of windows.
using EntityRows = std::vector<const LoadRecord*>;

EntityRows rows_of(std::span<const LoadRecord> loads, Entity entity) {
  EntityRows rows;
  for (const LoadRecord& l : loads) {
    if (l.entity == static_cast<std::int64_t>(entity)) rows.push_back(&l);
  }
  return rows;
}

/// One field of one kind of entity: the loads of each window, by its first step, and the totals of the run. Entities without a row have load 0.
struct LoadTable {
  std::vector<std::pair<std::int64_t, std::vector<double>>> windows;
  std::vector<double> run;
};

LoadTable load_table(const EntityRows& rows, std::int64_t LoadRecord::*field) {
  LoadTable table;
  std::size_t n = 0;
  for (const LoadRecord* row : rows) n = std::max(n, static_cast<std::size_t>(row->index) + 1);
  table.run.resize(n);
  for (const LoadRecord* row : rows) {
    if (table.windows.empty() || table.windows.back().first != row->first_step) table.windows.emplace_back(row->first_step, n);
    table.windows.back().second[static_cast<std::size_t>(row->index)] += static_cast<double>(row->*field);
    table.run[static_cast<std::size_t>(row->index)] += static_cast<double>(row->*field);
  }
  return table;
}

/// Mean over windows with load of max / mean; NaN without any.
double mean_window_imbalance(const LoadTable& table) {
  std::vector<double> ratios;
  for (const auto& [first_step, loads] : table.windows) {
    const double sum = std::accumulate(loads.begin(), loads.end(), 0.0);
    if (sum > 0) ratios.push_back(*std::max_element(loads.begin(), loads.end()) / (sum / static_cast<double>(loads.size())));
  }
  return moments(ratios).mean;
}

/// How much the hot experts move from window to window.
void add_drift(const LoadTable& table, SummaryList& list) {
  std::vector<double> overlaps, divergences;
  const std::size_t q = std::max<std::size_t>(1, table.run.size() / 10);
  std::vector<std::size_t> hot_before;
  for (std::size_t w = 0; w < table.windows.size(); ++w) {
    const std::vector<double>& loads = table.windows[w].second;
    std::vector<std::size_t> hot = hottest(loads, q);
    if (const double divergence = w > 0 ? jensen_shannon(table.windows[w - 1].second, loads) : std::nan(""); !std::isnan(divergence)) {
      divergences.push_back(divergence);
      overlaps.push_back(jaccard(hot_before, hot));
    }
    hot_before = std::move(hot);
  }
  list.add("expert_hot_overlap", {"1", counted, "Jaccard index of the hottest tenth of the experts in successive windows, mean over windows"},
           moments(overlaps).mean);
  list.add("expert_load_divergence", {"nat", counted, "Jensen-Shannon divergence of the expert loads of successive windows, mean over windows"},
           moments(divergences).mean);
}

/// Busy time that ranks wait for the busiest one.
void add_lost_time(const EntityRows& ranks, SummaryList& list) {
  double lost = 0, busiest = 0;
  for (const auto& [first_step, busy] : load_table(ranks, &LoadRecord::busy_ns).windows) {
    const Moments m = moments(busy);
    lost += m.max - m.mean;
    busiest += m.max;
  }
  const char* text = "sum over windows of (largest - mean) busy time of a rank, over the sum of the largest";
  list.add_ratio("lost_time_imbalance", {"1", ClaimClass::measured, text}, lost, busiest);
  const LoadTable peaks = load_table(ranks, &LoadRecord::peak_bytes);
  std::vector<double> most(peaks.run.size());
  for (const auto& [first_step, bytes] : peaks.windows) {
    for (std::size_t r = 0; r < bytes.size(); ++r) most[r] = std::max(most[r], bytes[r]);
  }
  const Balance b = balance(most);
  list.add("rank_peak_bytes_max", {"byte", counted, "largest peak_bytes of a rank"}, b.max);
  list.add_ratio("rank_memory_imbalance", {"1", counted, "largest over mean of the ranks' peak_bytes"}, b.max, b.mean);
}

}  // namespace

void add_balance(std::span<const LoadRecord> loads, Entity entity, SummaryList& list) {
  const EntityRows rows = rows_of(loads, entity);
  const LoadTable table = load_table(rows, &LoadRecord::load);
  if (table.run.empty()) return;
  const Balance b = balance(table.run);
  const std::string prefix = std::string(to_string(entity)) + "_";
  const auto ratio = [&](const char* name, const char* definition, double numerator, double denominator, std::string_view unit = "1") {
    list.add_ratio(prefix + name, {unit, counted, std::string(definition) + "; load of each " + std::string(to_string(entity)) + " over the run"},
                   numerator, denominator);
  };
  ratio("imbalance_ratio", "max / mean", b.max, b.mean);
  ratio("max_vio", "max / mean - 1", b.max - b.mean, b.mean);
  ratio("min_ratio", "min / mean", b.min, b.mean);
  ratio("utilisation", "entities with load / entities", static_cast<double>(b.loaded), static_cast<double>(b.entities));
  ratio("load_cv", "standard deviation / mean", std::sqrt(b.variance), b.mean);
  ratio("dispersion", "variance / mean", b.variance, b.mean);
  ratio("jain", "(sum x)^2 / (n sum x^2)", b.sum * b.sum, static_cast<double>(b.entities) * b.sum_of_squares);
  list.add(prefix + "gini", {"1", counted, "Gini coefficient of the loads over the run"}, b.gini);
  const double most_entropy = std::log(static_cast<double>(b.entities));
  list.add(prefix + "entropy_norm", {"1", counted, "entropy of the loads over the run / ln n; 0 for one entity"},
           b.entities > 1 ? b.entropy / most_entropy : 0);
  const double step = mean_window_imbalance(table);
  list.add(prefix + "imbalance_window", {"1", counted, "max / mean of each window with load, mean over windows"}, step);
  list.add_ratio(prefix + "imbalance_temporal", {"1", counted, "imbalance_window / imbalance_ratio: above 1 the hot entities change"}, step,
                 b.max / b.mean);
  if (entity == Entity::expert) add_drift(table, list);
  if (const Balance r = entity == Entity::expert ? balance(load_table(rows, &LoadRecord::recorded_load).run) : Balance{}; r.sum > 0) {
    ratio("imbalance_recorded", "max / mean had the recorded choice been followed", r.max, r.mean);
    list.add("expert_imbalance_gained", {"1", counted, "expert_imbalance_recorded - expert_imbalance_ratio"}, r.max / r.mean - b.max / b.mean);
  }
  if (entity == Entity::rank) add_lost_time(rows, list);
}

void add_replans(std::span<const StepRecord> steps, std::span<const LoadRecord> loads, SummaryList& list) {
  using Step = StepRecord;
  const auto first = std::find_if(steps.begin(), steps.end(), [](const Step& s) { return s.replans > 0; });
  if (first == steps.end()) return;
  const std::string load = " over mean load of a shard in the windows of replans, summed over layers and replans";
  list.add_ratio("plan_imbalance_before", {"1", counted, "largest under the old plan" + load}, total(steps, &Step::plan_load_max_before),
                 total(steps, &Step::plan_load_mean));
  list.add_ratio("plan_imbalance_after", {"1", counted, "largest under the new plan" + load}, total(steps, &Step::plan_load_max_after),
                 total(steps, &Step::plan_load_mean));
  LoadTable before = load_table(rows_of(loads, Entity::rank), &LoadRecord::insertions), after = before;
  std::erase_if(before.windows, [&](const auto& window) { return window.first >= first->first_step; });
  std::erase_if(after.windows, [&](const auto& window) { return window.first < first->first_step; });
  const std::string text = "max / mean over ranks of the entries stored, mean over windows ";
  list.add("store_imbalance_before_replan", {"1", counted, text + "before the one of the first replan"}, mean_window_imbalance(before));
  list.add("store_imbalance_after_replan", {"1", counted, text + "from the one of the first replan on"}, mean_window_imbalance(after));
  list.add_ratio("moved_bytes_per_replan", {"byte", counted, "bytes_moved / replans"}, total(steps, &Step::bytes_moved),
                 total(steps, &Step::replans));
  list.add_ratio("cold_miss_ratio", {"1", counted, "cold_misses / n_req"}, total(steps, &Step::cold_misses), total(steps, &Step::n_req));
}

void add_fidelity(std::span<const ProbeRecord> probes, SummaryList& list) {
  list.add("n_probes", {"1", counted, "queries compared with exact attention"}, static_cast<double>(probes.size()));
  for_each_field(ProbeRecord::metrics, [&](const auto& m) {
    if constexpr (std::is_same_v<decltype(m.member), double ProbeRecord::*>) {
      std::vector<double> samples;
      for (const ProbeRecord& p : probes) samples.push_back(p.*m.member);
      list.add_samples(std::string(m.name), {m.unit, m.claim, std::string(m.definition) + "; one layer under the trace's queries"},
                       std::move(samples));
    }
  });
}

}  // namespace moekv
