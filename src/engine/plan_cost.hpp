// predict_cost: what a run will need and move, from lengths alone: the run's own batching, uniform routing, no payload and no trace rows.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/geometry.hpp"
#include "engine/records.hpp"
#include "trace/source.hpp"

namespace moekv {

/// Bytes by class; those between different ranks unless said otherwise.
struct PlannedTraffic {
  double kv = 0, q = 0, partial = 0, lse = 0, headers = 0;
  double logical = 0;  // all classes, the own rank included
  [[nodiscard]] double wire() const { return kv + q + partial + lse + headers; }
};

/// The paper's memory formula M = (2 d / rho)(L / (G S) + K S) and S* = sqrt(L / (K G)), taken literally. Its first term counts buffers,
/// not tokens: shown beside the prediction, not trusted.
struct PaperMemory {
  double row_bytes = 0;       // 2 d / rho: stored bytes of one token in all replayed layers
  double tokens = 0;          // L: tokens of the requests in flight at the peak
  double shard_capacity = 0;  // S*, tokens
  double bytes = 0;           // M at S*, per rank
};

struct PlanCost {
  std::uint64_t steps = 0, tokens = 0, queries = 0, decode_steps = 0;
  std::uint64_t peak_step = 0;
  std::uint64_t peak_tokens = 0;            // of the requests in flight at the step with most page bytes
  std::vector<double> rank_page_bytes;      // [ranks]: largest page bytes, open pages and padding included
  std::vector<double> rank_metadata_bytes;  // [ranks]: page tables, slot maps and policy state at that size
  double rank_buffer_bytes = 0;             // exchange buffers and kept attention weights, mean over ranks at the busiest layer step
  double local_page_bytes = 0;              // the same requests under layout local, fullest rank: the baseline of every saving
  PlannedTraffic total, mean_decode_step;   // decode: steps without a prompt chunk
  double model_ns = 0;                      // of all steps: page bytes of the fullest rank over memory bandwidth, wire bytes over the network
  PaperMemory paper;
  bool evicts = false;       // evictions may free pages that this counts
  bool upper_bound = false;  // evicts, and routing does not decide which rank holds what
  std::vector<std::string> notes;

  [[nodiscard]] double page_bytes() const;  // sum over ranks
  [[nodiscard]] double max_rank_page_bytes() const;
};

/// Throws PointFailure where a request can never fit memory.shard_bytes, UserError where specification and trace do not fit. Only the
/// trace's facts and request lengths are read. Exact for layouts local, token, head and replicated without eviction; an expectation over
/// uniform routing for layout expert. Load arrivals advance the clock by page bytes over memory bandwidth and wire bytes over the network.
[[nodiscard]] PlanCost predict_cost(const RunSpec& spec, const TraceSource& trace, std::uint32_t ranks);

/// Predictions of the points of a sweep. Those that differ in nothing that a prediction reads share one: often all seeds of a point do.
class KnownCosts {
 public:
  /// As predict_cost. Valid until the next call.
  [[nodiscard]] const PlanCost& operator()(const RunSpec& spec, const TraceSource& trace, std::uint32_t ranks);

 private:
  std::map<std::pair<std::uint64_t, std::uint64_t>, PlanCost> known_;  // by a digest of all that a prediction reads
};

/// Sets `model` of the summary numbers that `cost` predicts, and adds what memory was predicted and missed by (mem_pred_bytes, mem_residual). Sums
/// over steps are left out where a warm-up is not counted.
void add_predictions(const PlanCost& cost, const RunSpec& spec, std::vector<Summary>& summary);

}  // namespace moekv
