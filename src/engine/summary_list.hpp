// SummaryList: collects the summary numbers of a run; every ratio is stored with its numerator and denominator.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/records.hpp"
#include "engine/run_spec.hpp"

namespace moekv {

/// What a number is, apart from its value.
struct SummaryInfo {
  std::string_view unit;
  ClaimClass claim = ClaimClass::derived;
  std::string definition;
};

class SummaryList {
 public:
  void add(std::string name, const SummaryInfo& info, double value);
  /// numerator / denominator, NaN for a denominator of 0.
  void add_ratio(std::string name, const SummaryInfo& info, double numerator, double denominator);
  /// name_n, name_mean, name_std, name_cv, name_min, name_max, name_p50, _p90, _p95, _p99, _p99_9 of the samples that are not NaN (METRICS 7.0;
  /// p99_9 is NaN below 1000 samples).
  void add_samples(const std::string& name, const SummaryInfo& info, std::vector<double> samples);
  void add_samples(const std::string& name, const SummaryInfo& info, const SampleSketch& samples);

  [[nodiscard]] std::vector<Summary> take() { return std::move(list_); }

 private:
  /// `at`: the percentiles of `sample_percentiles`.
  void add_moments(const std::string& name, const SummaryInfo& info, const Moments& m, std::span<const double> at);

  std::vector<Summary> list_;
};

/// The parts of summarise(), one per section of METRICS. `steps` are the windows that count.
void add_totals(std::span<const StepRecord> steps, SummaryList& list);
void add_cache(std::span<const StepRecord> steps, std::string_view suffix, SummaryList& list);
void add_memory(std::span<const StepRecord> steps, std::int64_t page_slots, std::int64_t payload_bytes, std::int64_t capacity_bytes,
                SummaryList& list);
/// `codecs`: empty without a codec.
void add_codec(const RunSpec& spec, std::span<const CodecRecord> codecs, SummaryList& list);
void add_traffic(std::span<const StepRecord> steps, std::span<const TrafficRecord> traffic, std::int64_t ranks, SummaryList& list);
void add_times(std::span<const StepRecord> steps, std::int64_t wall_ns, SummaryList& list);
void add_requests(std::span<const RequestRecord> requests, std::int64_t t_step_ns, SummaryList& list);
void add_rates(const RunSpec& spec, std::span<const StepRecord> steps, std::int64_t n_ranks, std::int64_t n_processes, SummaryList& list);
/// Nothing where no bound is stated.
void add_slo(const MetricsSpec& metrics, std::span<const RequestRecord> requests, std::int64_t t_step_ns, SummaryList& list);
void add_reuse(std::span<const HistogramRecord> rows, SummaryList& list);
/// `n`: entities, with load or without.
void add_layer_balance(std::span<const LayerLoadRecord> rows, Entity entity, std::size_t n, SummaryList& list);
void add_skew(const RunSpec& spec, std::span<const LayerLoadRecord> rows, std::size_t n_experts, SummaryList& list);
/// Nothing where a process hosts several ranks.
void add_waits(std::span<const LoadRecord> loads, double n_steps, SummaryList& list);
void add_balance(std::span<const LoadRecord> loads, Entity entity, SummaryList& list);
void add_replans(std::span<const StepRecord> steps, std::span<const LoadRecord> loads, SummaryList& list);
void add_fidelity(std::span<const ProbeRecord> probes, SummaryList& list);
/// Nothing without a model in the loop.
void add_score(const RunSpec& spec, const RunOutcome& outcome, SummaryList& list);

/// Sum of one field over rows, exact.
template <class Record>
[[nodiscard]] double total(std::span<const Record> rows, std::int64_t Record::*field) {
  std::int64_t sum = 0;
  for (const Record& row : rows) sum += row.*field;
  return static_cast<double>(sum);
}
/// Largest value of one field over rows, 0 of none.
template <class Record>
[[nodiscard]] double largest(std::span<const Record> rows, std::int64_t Record::*field) {
  std::int64_t most = 0;
  for (const Record& row : rows) most = row.*field > most ? row.*field : most;
  return static_cast<double>(most);
}

/// Bytes between different ranks, all classes.
[[nodiscard]] constexpr std::int64_t wire_bytes(const StepRecord& s) {
  return s.wire_kv + s.wire_q + s.wire_partial + s.wire_lse + s.wire_notices + s.wire_headers + s.wire_pages;
}
[[nodiscard]] constexpr std::int64_t all_bytes(const TrafficRecord& t) { return t.kv + t.q + t.partial + t.lse + t.notices + t.headers + t.pages; }
[[nodiscard]] constexpr std::string_view to_string(Entity e) {
  constexpr std::string_view names[] = {"expert", "shard", "rank", "node"};
  return names[static_cast<std::size_t>(e)];
}

}  // namespace moekv
