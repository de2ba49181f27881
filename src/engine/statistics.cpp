// Statistics of samples and loads; sums run in index order, so results do not depend on threads or processes.
#include "engine/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace moekv {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

std::vector<std::size_t> hottest(std::span<const double> loads, std::size_t q) {
  std::vector<std::size_t> order(loads.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t i, std::size_t j) { return loads[i] > loads[j]; });
  order.resize(std::min(q, order.size()));
  std::sort(order.begin(), order.end());
  return order;
}

/// p ln(p / m), 0 for p = 0.
double divergence_term(double p, double m) { return p > 0 ? p * std::log(p / m) : 0; }

}  // namespace

double percentile(std::span<const double> ascending, double p) {
  if (ascending.empty()) return nan;
  const double rank = std::ceil(static_cast<double>(ascending.size()) * p / 100.0);
  return ascending[static_cast<std::size_t>(std::clamp(rank, 1.0, static_cast<double>(ascending.size()))) - 1];
}

Moments moments(std::span<const double> samples) {
  Moments m;
  m.n = static_cast<std::int64_t>(samples.size());
  if (samples.empty()) {
    m.sum = m.mean = m.std = m.min = m.max = nan;
    return m;
  }
  m.sum = std::accumulate(samples.begin(), samples.end(), 0.0);
  m.mean = m.sum / static_cast<double>(m.n);
  double squares = 0;
  for (const double x : samples) squares += (x - m.mean) * (x - m.mean);
  m.std = std::sqrt(squares / static_cast<double>(m.n));
  m.min = *std::min_element(samples.begin(), samples.end());
  m.max = *std::max_element(samples.begin(), samples.end());
  return m;
}

Balance balance(std::span<const double> loads) {
  Balance b;
  b.entities = static_cast<std::int64_t>(loads.size());
  b.loaded = std::count_if(loads.begin(), loads.end(), [](double x) { return x > 0; });
  if (b.loaded == 0) {
    b.max = b.mean = b.min = b.variance = b.gini = b.entropy = b.sum = b.sum_of_squares = nan;
    return b;
  }
  const Moments m = moments(loads);
  b.max = m.max;
  b.min = m.min;
  b.mean = m.mean;
  b.sum = m.sum;
  b.variance = m.std * m.std;
  std::vector<double> ascending(loads.begin(), loads.end());
  std::sort(ascending.begin(), ascending.end());
  const auto n = static_cast<double>(loads.size());
  for (std::size_t i = 0; i < ascending.size(); ++i) {
    const double x = ascending[i];
    b.gini += (2.0 * static_cast<double>(i + 1) - n - 1.0) * x / (n * m.sum);
    b.entropy -= x > 0 ? x / m.sum * std::log(x / m.sum) : 0;
    b.sum_of_squares += x * x;
  }
  return b;
}

double jensen_shannon(std::span<const double> a, std::span<const double> b) {
  const double sum_a = std::accumulate(a.begin(), a.end(), 0.0), sum_b = std::accumulate(b.begin(), b.end(), 0.0);
  if (!(sum_a > 0) || !(sum_b > 0)) return nan;
  double total = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double p = a[i] / sum_a, q = b[i] / sum_b, m = (p + q) / 2;
    total += (divergence_term(p, m) + divergence_term(q, m)) / 2;
  }
  return total;
}

double hot_overlap(std::span<const double> a, std::span<const double> b, std::size_t q) {
  const auto top_a = hottest(a, q), top_b = hottest(b, q);
  std::vector<std::size_t> common;
  std::set_intersection(top_a.begin(), top_a.end(), top_b.begin(), top_b.end(), std::back_inserter(common));
  const std::size_t all = top_a.size() + top_b.size() - common.size();
  return all > 0 ? static_cast<double>(common.size()) / static_cast<double>(all) : nan;
}

}  // namespace moekv
