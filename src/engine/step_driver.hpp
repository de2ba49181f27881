// StepDriver: drives the sharded caches from a trace: rows in, keys, q, k and v made, layer steps, probes.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/probe.hpp"
#include "engine/query_router.hpp"
#include "engine/replanner.hpp"
#include "engine/router.hpp"
#include "engine/sharded_cache.hpp"
#include "trace/qkv.hpp"

namespace moekv {

class StepDriver {
 public:
  /// `qkv` may be null for a backend without payload. `geometry` takes the new plans of experts that fall due.
  StepDriver(Geometry& geometry, TraceSource& trace, QkvSource* qkv, bool payload, bool recorded_qkv, ShardedCache& cache, std::uint64_t total_queries);

  /// Runs one step on every process. Returns its measured time without generation and probes.
  std::int64_t run(const StepBatch& batch);
  [[nodiscard]] const Router& router() const { return router_; }
  [[nodiscard]] const Geometry& geometry() const { return *geometry_; }
  [[nodiscard]] Probe& probe() { return probe_; }

 private:
  void collect_tokens(const StepBatch& batch);
  void choose_by_query(const ReplayLayer& layer);
  void make_payload(const ReplayLayer& layer, LayerInput& input);
  void fill(const ReplayLayer& layer);

  Geometry* geometry_;
  TraceSource* trace_;
  QkvSource* qkv_;
  bool payload_;
  ShardedCache* cache_;
  Router router_;
  Replanner replanner_;
  Probe probe_;
  std::unique_ptr<QueryRouter> query_router_;

  std::vector<BatchItem> items_;
  std::vector<HomeToken> tokens_;
  std::vector<std::uint16_t> keys_;
  std::vector<float> k32_, v32_, q32_, sinks_;
  std::vector<std::byte> k_, v_, q_;
  LayerOutput output_;
};

}  // namespace moekv
