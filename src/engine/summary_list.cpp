// Summary numbers that are made of samples, ratios or totals.
#include "engine/summary_list.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/statistics.hpp"

namespace moekv {

void SummaryList::add(std::string name, const SummaryInfo& info, double value) {
  list_.push_back({std::move(name), std::string(info.unit), info.definition, info.claim, value, 0, 0});
}

void SummaryList::add_ratio(std::string name, const SummaryInfo& info, double numerator, double denominator) {
  const double value = denominator != 0 ? numerator / denominator : std::numeric_limits<double>::quiet_NaN();
  list_.push_back({std::move(name), std::string(info.unit), info.definition, info.claim, value, numerator, denominator});
}

void SummaryList::add_samples(const std::string& name, const SummaryInfo& info, std::vector<double> samples) {
  std::erase_if(samples, [](double x) { return std::isnan(x); });
  std::sort(samples.begin(), samples.end());
  add_moments(name, info, moments(samples), [&](double p) { return percentile(samples, p); });
}

void SummaryList::add_samples(const std::string& name, const SummaryInfo& info, const SampleSketch& samples) {
  const std::vector<double> sorted = samples.ascending();  // once, not for every percentile
  add_moments(name, info, samples.summary(), [&](double p) { return sorted.empty() ? samples.percentile_of(p) : percentile(sorted, p); });
}

template <class Percentile>
void SummaryList::add_moments(const std::string& name, const SummaryInfo& info, const Moments& m, Percentile&& percentile_at) {
  const auto with = [&](const char* what) { return SummaryInfo{info.unit, info.claim, info.definition + "; " + what}; };
  add(name + "_n", {"1", ClaimClass::counted, info.definition + "; number of samples"}, static_cast<double>(m.n));
  add_ratio(name + "_mean", with("mean"), m.sum, static_cast<double>(m.n));
  add(name + "_std", with("population standard deviation"), m.std);
  add_ratio(name + "_cv", {"1", info.claim, info.definition + "; standard deviation over mean"}, m.std, m.mean);
  add(name + "_min", with("smallest"), m.min);
  add(name + "_max", with("largest"), m.max);
  for (const auto& [label, p] : {std::pair{"p50", 50.0}, {"p90", 90.0}, {"p95", 95.0}, {"p99", 99.0}, {"p99_9", 99.9}}) {
    const bool blank = p > 99 && m.n < 1000;
    add(name + "_" + label, with("nearest-rank percentile"), blank ? std::numeric_limits<double>::quiet_NaN() : percentile_at(p));
  }
}

}  // namespace moekv
