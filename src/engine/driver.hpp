// Driver: one step of a run, layer by layer. A trace (StepDriver) or a model in the loop supplies routing, q, k and v.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/phase_timer.hpp"
#include "engine/probe.hpp"
#include "engine/query_router.hpp"
#include "engine/replanner.hpp"
#include "engine/router.hpp"
#include "engine/sharded_cache.hpp"
#include "trace/qkv.hpp"

namespace moekv {

class Driver {
 public:
  /// `geometry` takes the new plans of experts that fall due. `qkv` gives probes the history; null for a backend without payload. `recorded` says
  /// that q, k and v are not generated.
  Driver(Geometry& geometry, const TraceInfo& trace, RowsCome rows, QkvSource* qkv, bool payload, bool recorded, ShardedCache& cache,
         std::uint64_t total_queries);
  virtual ~Driver() = default;
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  /// Runs one step on every process. Returns its measured time without generation, model and probes.
  std::int64_t run(const StepBatch& batch);
  [[nodiscard]] const Geometry& geometry() const { return *geometry_; }
  [[nodiscard]] Probe& probe() { return probe_; }
  /// Collective. What was measured beside the counters, complete on process 0.
  virtual void collect(Transport& transport, RunOutcome& out) { probe_.collect(transport, out); }
  /// Between two steps of a trace; the geometry gets the plan of experts that the saved run had.
  void transfer(StateStream& stream);

 protected:
  /// Phase read: what the step needs, before its first layer.
  virtual void begin(const StepBatch& batch) = 0;
  /// Before a layer is routed. What a driver does here, in `leave` and in `finish` is no part of the step: it laps the timer into t_model.
  virtual void enter(const ReplayLayer&, PhaseTimer&) {}
  /// Phase route: leaves the layer's key in keys_ (empty where it has none).
  virtual void route(const ReplayLayer& layer) = 0;
  /// Makes k32_, v32_ of all tokens and q32_ of the queries.
  virtual void fill(const ReplayLayer& layer) = 0;
  /// k, v and q in payload type; timed as t_generate. They last as long as the layer.
  virtual void make_payload(const ReplayLayer& layer, LayerInput& input);
  /// Learned sink logits [n_heads] of a layer that has them.
  virtual void sinks(const ReplayLayer& layer, float* out) = 0;
  /// After a layer's attention, which stands in output_.
  virtual void leave(const ReplayLayer&, PhaseTimer&) {}
  /// After the last layer.
  virtual void finish(const StepBatch&, PhaseTimer&) {}
  /// Books what expert parallelism would move for the layer's choices.
  void count_hidden_states(const ReplayLayer& layer);
  [[nodiscard]] std::size_t payload_bytes(std::size_t values) const { return values * (element_bits(geometry_->spec().payload.element) / 8); }
  /// Values in payload type.
  void convert(std::span<const float> from, std::byte* to) const;
  const std::byte* convert(std::span<const float> from, std::vector<std::byte>& to) const;
  /// Keys by the query of each token; `q` is [tokens][n_heads][d_k].
  void choose_by_query(std::span<const float> q);

  Geometry* geometry_;
  ShardedCache* cache_;
  bool payload_;
  Router router_;
  Replanner replanner_;
  Probe probe_;
  std::unique_ptr<QueryRouter> query_router_;  // null for other keys

  // Of the step, on this process: its items by home, their tokens, and of the layer the keys [tokens][top_k], q, k, v and attention.
  std::vector<BatchItem> items_;
  std::vector<HomeToken> tokens_;
  std::vector<std::uint16_t> keys_;
  std::vector<float> k32_, v32_, q32_;
  std::vector<std::byte> k_, v_, q_;  // in payload type
  std::span<const float> probe_q_;    // q32_, or empty where the layer's queries were not made
  LayerOutput output_;

 private:
  void collect_tokens(const StepBatch& batch);
  /// `timer` marks when the phase before it ended; afterwards, when the layer did.
  void run_layer(std::uint32_t index, PhaseTimer& timer);

  std::vector<float> sinks_;
};

/// Makes the driver of a run; `total_queries` counts (token, layer) pairs that will attend.
using DriverFactory = std::function<std::unique_ptr<Driver>(Geometry&, ShardedCache&, std::uint64_t total_queries)>;

}  // namespace moekv
