// Comparisons of points of a merged file: pairs that differ in one thing only, differences with bootstrap intervals, and what each axis changed.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "results/point_table.hpp"

namespace moekv {

/// Settings (or label, repeat) with their values.
using PointChoice = std::vector<std::pair<std::string, std::string>>;

/// A value on each side, of the same sequence or of the same repeat. Resampling takes whole clusters.
struct PairedValue {
  double a = 0, b = 0;
  std::uint64_t cluster = 0;
};

enum class Verdict : std::uint8_t { higher, lower, no_difference, undecided };
/// "higher", "lower", "no detectable difference", "undecided".
[[nodiscard]] std::string_view to_string(Verdict verdict);

struct Comparison {
  std::size_t pairs = 0, clusters = 0;
  std::size_t left_out = 0;           // points labelled not_exercised, which take no part in comparisons
  std::size_t unmatched = 0;          // probed queries of one side that the other did not measure: they take no part either
  std::size_t different_queries = 0;  // pairs whose runs did not answer equally many queries, where nothing matches them
  std::string resampled;              // "requests" or "pairs"
  double mean_a = 0, mean_b = 0;
  double difference = 0;     // mean of a - b
  double low = 0, high = 0;  // 95 % bootstrap interval of it; NaN with fewer than two clusters
  /// Where the interval spans zero there is no detectable difference. One cluster has no interval: undecided, unless both sides are equal.
  Verdict verdict = Verdict::undecided;
};

/// Percentile bootstrap, 10000 resamples of clusters, the same draws every time.
[[nodiscard]] Comparison compare_values(std::span<const PairedValue> values);

/// Whether two texts of a setting are one value: true is 1 in a column of numbers, and 0.10 is 0.1.
[[nodiscard]] bool same_value(const std::string& a, const std::string& b);

/// Pairs every point of `a` that is ok and exercised with the one of `b` that has the same other settings, label and repeat. A metric that the
/// requests of a run give (X_mean of a field X of record probe or request) is compared request by request; one of probes over the queries that
/// both sides measured, since policies may ask for different prompt queries. In a file of several sweeps pairs stay within the list of one. Throws
/// UserError for a metric that does not exist, and where a point has several partners.
[[nodiscard]] Comparison compare_points(const PointTable& table, const std::string& path, const std::string& metric, const PointChoice& a,
                                        const PointChoice& b);

/// What an axis did: pairs of points that differ in nothing else, and the counters (claim class counted) that differ between them.
struct Effect {
  std::string key;
  std::size_t pairs = 0, changed_decisions = 0;
  std::size_t counters = 0, changed_counters = 0;  // counters that differ in at least one pair
  [[nodiscard]] bool none() const { return pairs > 0 && changed_decisions == 0 && changed_counters == 0; }
};
[[nodiscard]] std::vector<Effect> audit_effects(const PointTable& table);

}  // namespace moekv
