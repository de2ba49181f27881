// Comparisons of points of a merged file: pairs that differ in one thing only, differences with bootstrap intervals, and what each axis changed.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "results/pairing.hpp"

namespace moekv {

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
  std::size_t left_out = 0;                 // points labelled not_exercised, which take no part in comparisons
  std::size_t unmatched = 0;                // probed queries of one side that the other did not measure: they take no part either
  std::size_t different_queries = 0;        // pairs whose runs did not answer equally many queries, where nothing matches them
  std::size_t without_value = 0;            // pairs of which a side has no value, or no query that the other has
  std::size_t different_traces = 0;         // pairs that replay different traces, which have no requests in common
  std::vector<std::string> also_different;  // settings that differ within pairs, besides those compared
  std::string resampled;                    // "requests", "repeats" or "pairs"
  double mean_a = 0, mean_b = 0;
  double difference = 0;     // mean of a - b
  double low = 0, high = 0;  // 95 % bootstrap interval of it; NaN with fewer than two clusters
  /// Where the interval spans zero there is no detectable difference. One cluster has no interval: undecided, unless both sides are equal.
  Verdict verdict = Verdict::undecided;
};

/// 10000 resamples of clusters, the same draws every time (bootstrap_interval). Undecided where a value is not finite.
[[nodiscard]] Comparison compare_values(std::span<const PairedValue> values);

/// Compares the pairs of `pair_points` in these lists. A metric that the requests of a run give (X_mean of a field X of record probe or request) is
/// compared request by request where both sides of every pair replay one trace, and each request of a trace is a cluster; one of probes over the
/// queries that both sides measured, since policies may ask for different prompt queries. All else is compared run by run: repeats are the clusters
/// where there are several, else pairs, and clusters that are equal in decisions and values are one. Throws UserError for a metric that does not
/// exist, and what `pair_points` throws.
[[nodiscard]] Comparison compare_points(const PointTable& table, std::span<const PointList> lists, const std::string& path, const std::string& metric,
                                        const PointChoice& a, const PointChoice& b);

/// What an axis did: pairs of points that differ in nothing else, and the counters (claim class counted) that differ between them.
struct Effect {
  std::string key;
  std::vector<std::string> also_different;  // settings that change with it, such as partners in `zip`
  std::size_t pairs = 0, changed_decisions = 0;
  std::size_t counters = 0, changed_counters = 0;  // counters that differ in at least one pair
  std::size_t changed_fidelity = 0;                // metrics of attention's or the model's output that do
  [[nodiscard]] bool none() const { return pairs > 0 && changed_decisions == 0 && changed_counters == 0 && changed_fidelity == 0; }
};
[[nodiscard]] std::vector<Effect> audit_effects(const PointTable& table);

}  // namespace moekv
