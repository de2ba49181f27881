// Statistics of samples and loads as METRICS 7.0 and 7.5 define them: pure functions of a list of numbers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moekv {

/// Nearest-rank percentile x[ceil(n p / 100) - 1] of ascending samples, p in (0, 100]; NaN of none.
[[nodiscard]] double percentile(std::span<const double> ascending, double p);

/// Moments of a list; std is of the population. All NaN (n = 0) of an empty list.
struct Moments {
  std::int64_t n = 0;
  double sum = 0, mean = 0, std = 0, min = 0, max = 0;
};
[[nodiscard]] Moments moments(std::span<const double> samples);

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

/// Jaccard index of the `q` most loaded entities of each vector; ties go to the lower index.
[[nodiscard]] double hot_overlap(std::span<const double> a, std::span<const double> b, std::size_t q);

}  // namespace moekv
