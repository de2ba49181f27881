// Summary numbers that are made of samples, ratios or totals.
#include "engine/summary_list.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "engine/statistics.hpp"

namespace moekv {
namespace {

constexpr std::array sample_percentiles{50.0, 90.0, 95.0, 99.0, 99.9};
constexpr std::array percentile_labels{"p50", "p90", "p95", "p99", "p99_9"};

}  // namespace

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
  std::vector<double> at;
  for (const double p : sample_percentiles) at.push_back(percentile(samples, p));
  add_moments(name, info, moments(samples), at);
}

void SummaryList::add_samples(const std::string& name, const SummaryInfo& info, const SampleSketch& samples) {
  add_moments(name, info, samples.summary(), samples.percentiles(sample_percentiles));
}

void SummaryList::add_moments(const std::string& name, const SummaryInfo& info, const Moments& m, std::span<const double> at) {
  const auto with = [&](const char* what) { return SummaryInfo{info.unit, info.claim, info.definition + "; " + what}; };
  add(name + "_n", {"1", ClaimClass::counted, info.definition + "; number of samples"}, static_cast<double>(m.n));
  add_ratio(name + "_mean", with("mean"), m.sum, static_cast<double>(m.n));
  add(name + "_std", with("population standard deviation"), m.std);
  add_ratio(name + "_cv", {"1", info.claim, info.definition + "; standard deviation over mean"}, m.std, m.mean);
  add(name + "_min", with("smallest"), m.min);
  add(name + "_max", with("largest"), m.max);
  for (std::size_t i = 0; i < sample_percentiles.size(); ++i) {
    const bool blank = sample_percentiles[i] > 99 && m.n < 1000;
    add(name + "_" + percentile_labels[i], with("nearest-rank percentile"), blank ? std::numeric_limits<double>::quiet_NaN() : at[i]);
  }
}

}  // namespace moekv
