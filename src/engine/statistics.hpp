// Statistics of samples and loads as METRICS 7.0 and 7.5 define them: pure functions of a list of numbers.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace moekv {

class StateStream;

/// Nearest-rank percentile x[ceil(n p / 100) - 1] of ascending samples, p in (0, 100]; NaN of none.
[[nodiscard]] double percentile(std::span<const double> ascending, double p);

/// Moments of a list; std is of the population. All NaN (n = 0) of an empty list.
struct Moments {
  std::int64_t n = 0;
  double sum = 0, mean = 0, std = 0, min = 0, max = 0;
};
[[nodiscard]] Moments moments(std::span<const double> samples);

/// Counts of values in log2 bins: bin 0 holds 0, bin b the values from 2^(b - 1) to 2^b - 1.
struct LogBins {
  static constexpr std::size_t n_bins = 65;
  std::array<std::int64_t, n_bins> count{}, total{};  // values, and their sum

  void add(std::uint64_t value, std::int64_t n = 1) {
    const auto bin = static_cast<std::size_t>(std::bit_width(value));
    count[bin] += n;
    total[bin] += n * static_cast<std::int64_t>(value);
  }
  [[nodiscard]] static std::uint64_t low(std::size_t bin) { return bin == 0 ? 0 : std::uint64_t{1} << (bin - 1); }
  [[nodiscard]] static std::uint64_t high(std::size_t bin) { return bin == 0 ? 0 : low(bin) + (low(bin) - 1); }
};

/// Nonnegative samples in constant memory: all of them up to a cap, then counts in bins whose middle is within `relative_error` of what they hold
/// (DDSketch). n, mean, std, min and max stay exact.
class SampleSketch {
 public:
  static constexpr double relative_error = 0.001;
  SampleSketch() = default;
  explicit SampleSketch(std::size_t cap) : cap_(cap) {}

  void add(double sample);
  [[nodiscard]] Moments summary() const;
  /// As `percentile` of all samples.
  [[nodiscard]] double percentile_of(double p) const;
  /// The same of several p, ascending.
  [[nodiscard]] std::vector<double> percentiles(std::span<const double> ascending_p) const;
  void transfer(StateStream& stream);

 private:
  void put_in_bin(double sample);

  std::size_t cap_ = std::size_t{1} << 16;
  std::vector<double> samples_;       // up to the cap; then empty
  std::map<int, std::int64_t> bins_;  // bin i holds (gamma^(i - 1), gamma^i]; the lowest holds 0
  // Of what is in bins.
  std::int64_t n_ = 0;
  double mean_ = 0, squares_ = 0, sum_ = 0, min_ = 0, max_ = 0;  // squares_: sum of (x - mean)^2
};

/// How evenly a load lies on its entities. All NaN where there is no load at all.
struct Balance {
  std::int64_t entities = 0, loaded = 0;  // loaded: with load > 0
  double max = 0, mean = 0, min = 0, variance = 0;
  double gini = 0;     // sum_ij |x_i - x_j| / (2 n^2 mean)
  double entropy = 0;  // -sum p ln p, p = x / sum
  double sum = 0, sum_of_squares = 0;
};
[[nodiscard]] Balance balance(std::span<const double> loads);

/// Jensen-Shannon divergence (nat) of two load vectors of one length, each normalised to 1; NaN where either is all 0.
[[nodiscard]] double jensen_shannon(std::span<const double> a, std::span<const double> b);

/// Exponent s for which counts by rank i = 1.. are most likely drawn with i^-s (0 to 10), ranks by falling count; NaN without two counts.
[[nodiscard]] double zipf_exponent(std::span<const double> loads);

/// Exponent a (0 to 10) for which values, over their smallest one above 0, are most likely drawn with density x^-a on [1, top]; NaN without two.
[[nodiscard]] double power_law_exponent(std::span<const double> loads, double top);

/// Share of the load on the `n` most loaded entities; NaN without load.
[[nodiscard]] double hottest_share(std::span<const double> loads, std::size_t n);

/// How far a square matrix [n][n], scaled to sum n, is from a doubly stochastic one: mean absolute difference of its row and column sums from 1. NaN
/// of zeros.
[[nodiscard]] double stochastic_distance(std::span<const double> matrix, std::size_t n);

/// The `q` most loaded entities, ascending; ties go to the lower index.
[[nodiscard]] std::vector<std::size_t> hottest(std::span<const double> loads, std::size_t q);
/// Jaccard index of two ascending lists; NaN where both are empty.
[[nodiscard]] double jaccard(std::span<const std::size_t> a, std::span<const std::size_t> b);

/// Quantile of Student's t above which 2.5 % lie (Abramowitz and Stegun 26.7.3 and 26.7.4). `freedom` >= 1.
[[nodiscard]] double student_t_975(std::size_t freedom);

/// What a cluster (a request, a repeat) adds to a mean.
struct ClusterSum {
  double sum = 0, weight = 0;
};
struct ConfidenceInterval {
  double low = 0, high = 0;
};
/// 95 % interval of sum / weight over clusters: the percentile bootstrap, the same draws for the same seed, widened as Student's t is wider than the
/// normal law, since resampling alone is far too sure of few clusters (Hesterberg, The American Statistician 69, 2015). NaN with fewer than two.
[[nodiscard]] ConfidenceInterval bootstrap_interval(std::span<const ClusterSum> clusters, std::size_t resamples, std::uint64_t seed);

}  // namespace moekv
