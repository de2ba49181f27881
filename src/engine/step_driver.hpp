// StepDriver: drives the sharded caches from a trace: rows in, keys, q, k and v made.
#pragma once

#include "engine/driver.hpp"

namespace moekv {

class StepDriver final : public Driver {
 public:
  /// `qkv` may be null for a backend without payload.
  StepDriver(Geometry& geometry, TraceSource& trace, QkvSource* qkv, bool payload, bool recorded_qkv, ShardedCache& cache, std::uint64_t total_queries)
      : Driver(geometry, trace.info(), RowsCome::from_trace, qkv, payload, recorded_qkv, cache, total_queries), trace_(&trace), qkv_(qkv) {}

 private:
  void begin(const StepBatch& batch) override { router_.read(batch, items_, *trace_); }
  void route(const ReplayLayer& layer) override;
  void fill(const ReplayLayer& layer) override;
  void sinks(const ReplayLayer& layer, float* out) override { qkv_->sink_logits(layer.layer, out); }

  TraceSource* trace_;
  QkvSource* qkv_;
  std::vector<generate::RowRange> ranges_;  // of the step's items
};

}  // namespace moekv
