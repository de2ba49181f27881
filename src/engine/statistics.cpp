// Statistics of samples and loads; sums run in index order, so results do not depend on threads or processes.
#include "engine/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <limits>
#include <numbers>
#include <numeric>
#include <utility>

#include "core/rng.hpp"

namespace moekv {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

constexpr double gamma_base = (1 + SampleSketch::relative_error) / (1 - SampleSketch::relative_error);
double log_gamma() { return std::log(gamma_base); }
constexpr int zero_bin = std::numeric_limits<int>::min();

int bin_of(double x) { return x > 0 ? static_cast<int>(std::ceil(std::log(x) / log_gamma())) : zero_bin; }

/// Place of a percentile among n ascending samples, n > 0.
std::size_t nearest_rank(std::size_t n, double p) {
  const double rank = std::ceil(static_cast<double>(n) * p / 100.0);
  return static_cast<std::size_t>(std::clamp(rank, 1.0, static_cast<double>(n))) - 1;
}

/// Where a falling function crosses 0 between two values; the nearer end where it does not.
template <class F>
double root_between(double low, double high, F&& falls) {
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (falls(middle) > 0 ? low : high) = middle;
  }
  return (low + high) / 2;
}

/// p ln(p / m), 0 for p = 0.
double divergence_term(double p, double m) { return p > 0 ? p * std::log(p / m) : 0; }

}  // namespace

double percentile(std::span<const double> ascending, double p) { return ascending.empty() ? nan : ascending[nearest_rank(ascending.size(), p)]; }

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

void SampleSketch::add(double sample) {
  if (bins_.empty() && samples_.size() < cap_) return samples_.push_back(sample);
  for (const double x : std::exchange(samples_, {})) put_in_bin(x);
  put_in_bin(sample);
}

void SampleSketch::put_in_bin(double sample) {
  n_ += 1;
  const double off = sample - mean_;
  sum_ += sample;
  mean_ += off / static_cast<double>(n_);
  squares_ += off * (sample - mean_);
  min_ = n_ == 1 ? sample : std::min(min_, sample);
  max_ = n_ == 1 ? sample : std::max(max_, sample);
  bins_[bin_of(sample)] += 1;
}

Moments SampleSketch::summary() const {
  if (bins_.empty()) return moments(samples_);
  return {n_, sum_, sum_ / static_cast<double>(n_), std::sqrt(squares_ / static_cast<double>(n_)), min_, max_};
}

std::vector<double> SampleSketch::percentiles(std::span<const double> ascending_p) const {
  std::vector<double> values, samples = samples_;
  auto sorted = samples.begin();  // all before it are at most what stands here and behind
  for (const double p : ascending_p) {
    if (samples.empty()) {
      values.push_back(bins_.empty() ? nan : percentile_of(p));
      continue;
    }
    const auto at = samples.begin() + static_cast<std::ptrdiff_t>(nearest_rank(samples.size(), p));
    std::nth_element(sorted, at, samples.end());
    values.push_back(*at);
    sorted = at;
  }
  return values;
}

double SampleSketch::percentile_of(double p) const {
  if (bins_.empty()) return percentiles({&p, 1}).front();
  auto rank = static_cast<std::int64_t>(std::clamp(std::ceil(static_cast<double>(n_) * p / 100.0), 1.0, static_cast<double>(n_)));
  if (rank == n_) return max_;
  for (const auto& [bin, count] : bins_) {
    rank -= count;
    if (rank <= 0) return bin == zero_bin ? 0 : std::clamp(2 * std::exp(bin * log_gamma()) / (gamma_base + 1), min_, max_);
  }
  return max_;
}

double zipf_exponent(std::span<const double> loads) {
  std::vector<double> falling(loads.begin(), loads.end());
  std::sort(falling.begin(), falling.end(), std::greater<>());
  const double sum = std::accumulate(falling.begin(), falling.end(), 0.0);
  if (falling.size() < 2 || !(sum > 0)) return nan;
  double seen = 0;  // mean of ln i
  std::vector<double> log_rank;
  for (std::size_t i = 0; i < falling.size(); ++i) {
    log_rank.push_back(std::log(static_cast<double>(i + 1)));
    seen += falling[i] / sum * log_rank.back();
  }
  // Newton's method, kept between two values that the root lies between: the mean of ln i falls with s as fast as its variance is large.
  double low = 0, high = 10, s = 1;
  for (int i = 0; i < 100 && high - low > 1e-15; ++i) {
    double weight = 0, first = 0, second = 0;
    for (const double x : log_rank) {
      const double p = std::exp(-s * x);
      weight += p;
      first += p * x;
      second += p * x * x;
    }
    const double off = first / weight - seen, variance = second / weight - first / weight * (first / weight);
    (off > 0 ? low : high) = s;
    const double next = s + off / variance;
    if (std::abs(next - s) <= 1e-15 * s) return s;
    s = next > low && next < high ? next : (low + high) / 2;
  }
  return s;
}

double power_law_exponent(std::span<const double> loads, double top) {
  std::vector<double> values;
  std::copy_if(loads.begin(), loads.end(), std::back_inserter(values), [](double x) { return x > 0; });
  if (values.size() < 2) return nan;
  const double least = *std::min_element(values.begin(), values.end()), log_top = std::log(top);
  double seen = 0;  // mean of ln x
  for (const double x : values) seen += std::log(x / least) / static_cast<double>(values.size());
  return root_between(0, 10, [&](double a) {
    const double b = 1 - a;
    if (std::abs(b) < 1e-6) return log_top / 2 - seen;
    return log_top / (1 - std::exp(-b * log_top)) - 1 / b - seen;
  });
}

std::vector<std::size_t> hottest(std::span<const double> loads, std::size_t q) {
  std::vector<std::size_t> order(loads.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const std::size_t n = std::min(q, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(n), order.end(),
                    [&](std::size_t i, std::size_t j) { return loads[i] != loads[j] ? loads[i] > loads[j] : i < j; });
  order.resize(n);
  std::sort(order.begin(), order.end());
  return order;
}

double hottest_share(std::span<const double> loads, std::size_t n) {
  const double sum = std::accumulate(loads.begin(), loads.end(), 0.0);
  double hot = 0;
  for (const std::size_t i : hottest(loads, n)) hot += loads[i];
  return sum > 0 ? hot / sum : nan;
}

double stochastic_distance(std::span<const double> matrix, std::size_t n) {
  const double sum = std::accumulate(matrix.begin(), matrix.end(), 0.0);
  if (!(sum > 0)) return nan;
  double off = 0;
  for (std::size_t i = 0; i < n; ++i) {
    double row = 0, column = 0;
    for (std::size_t j = 0; j < n; ++j) {
      row += matrix[i * n + j];
      column += matrix[j * n + i];
    }
    off += std::abs(row * static_cast<double>(n) / sum - 1) + std::abs(column * static_cast<double>(n) / sum - 1);
  }
  return off / (2 * static_cast<double>(n));
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

double jaccard(std::span<const std::size_t> a, std::span<const std::size_t> b) {
  std::vector<std::size_t> common;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(common));
  const std::size_t all = a.size() + b.size() - common.size();
  return all > 0 ? static_cast<double>(common.size()) / static_cast<double>(all) : nan;
}

double student_t_975(std::size_t freedom) {
  const bool odd = freedom % 2 == 1;
  const auto central = [&](double t) {  // share between -t and t
    const double angle = std::atan(t / std::sqrt(static_cast<double>(freedom))), cosine = std::cos(angle);
    double term = odd ? cosine : 1, sum = freedom == 1 ? 0 : term;
    for (std::size_t k = odd ? 3 : 2; k < freedom; k += 2) {
      const auto x = static_cast<double>(k);
      term *= cosine * cosine * (x - 1) / x;
      sum += term;
    }
    sum *= std::sin(angle);
    return odd ? (angle + sum) * 2 / std::numbers::pi : sum;
  };
  return root_between(1, 16, [&](double t) { return 0.95 - central(t); });
}

ConfidenceInterval bootstrap_interval(std::span<const ClusterSum> clusters, std::size_t resamples, std::uint64_t seed) {
  if (clusters.size() < 2) return {nan, nan};
  ClusterSum all;
  for (const ClusterSum& c : clusters) all = {all.sum + c.sum, all.weight + c.weight};
  std::vector<double> means;
  for (std::size_t r = 0; r < resamples; ++r) {
    ClusterSum drawn;
    for (std::size_t c = 0; c < clusters.size(); ++c) {
      const ClusterSum& one = clusters[hash_words(seed, 0x626FU, r, c) % clusters.size()];
      drawn = {drawn.sum + one.sum, drawn.weight + one.weight};
    }
    means.push_back(drawn.sum / drawn.weight);
  }
  if (!std::all_of(means.begin(), means.end(), [](double m) { return std::isfinite(m); })) return {nan, nan};
  std::sort(means.begin(), means.end());
  const auto n = static_cast<double>(clusters.size());
  const double mean = all.sum / all.weight, wider = student_t_975(clusters.size() - 1) * std::sqrt(n / (n - 1)) / 1.959963984540054;
  return {mean + wider * (percentile(means, 2.5) - mean), mean + wider * (percentile(means, 97.5) - mean)};
}

}  // namespace moekv
