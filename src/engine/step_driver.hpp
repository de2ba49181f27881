// StepDriver: drives the sharded caches from a trace: rows in, keys, q, k and v made.
#pragma once

#include <memory>
#include <vector>

#include "engine/driver.hpp"
#include "engine/kept_inputs.hpp"

namespace moekv {

class StepDriver final : public Driver {
 public:
  /// `qkv` may be null for a backend without payload. `inputs` keeps what it makes, for other runs whose `qkv` gives the same rows; null: nothing is
  /// kept.
  StepDriver(Geometry& geometry, TraceSource& trace, QkvSource* qkv, bool payload, bool recorded_qkv, ShardedCache& cache,
             std::uint64_t total_queries, KeptInputs* inputs = nullptr)
      : Driver(geometry, trace.info(), RowsCome::from_trace, qkv, payload, recorded_qkv, cache, total_queries),
        trace_(&trace),
        qkv_(qkv),
        inputs_(inputs) {
    probe_.keep_exact(inputs);
  }

 private:
  void begin(const StepBatch& batch) override { router_.read(batch, items_, *trace_); }
  void route(const ReplayLayer& layer) override;
  void fill(const ReplayLayer& layer) override;
  void make_payload(const ReplayLayer& layer, LayerInput& input) override;
  void sinks(const ReplayLayer& layer, float* out) override { qkv_->sink_logits(layer.layer, out); }

  enum class WantQueries : std::uint8_t { no, yes };
  /// Those of the step's items.
  void list_ranges();
  /// Makes k32_, v32_ and, where wanted, q32_ of ranges_.
  void make_rows(const ReplayLayer& layer, WantQueries queries);
  /// Names the rows of ranges_ and takes those that are kept.
  void find_kept(const ReplayLayer& layer);
  /// Room for rows in payload type: kept where there is room for that, else the driver's own.
  std::byte* room_for(const KeptInputs::Rows& rows, std::size_t n_bytes, std::shared_ptr<const std::byte[]>& kept, std::vector<std::byte>& own);

  TraceSource* trace_;
  QkvSource* qkv_;
  KeptInputs* inputs_;

  // Of the layer, on this process.
  std::vector<generate::RowRange> ranges_;
  std::uint64_t n_tokens_ = 0, n_queries_ = 0;
  KeptInputs::Rows key_rows_, query_rows_;
  std::shared_ptr<const std::byte[]> kept_keys_, kept_queries_;
};

}  // namespace moekv
