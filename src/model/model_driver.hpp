// ModelDriver: a model in the loop. Every attention is answered by the sharded caches, and what the model predicts is scored.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/driver.hpp"
#include "model/decoder.hpp"
#include "model/kv_history.hpp"
#include "model/number_check.hpp"
#include "model/token_source.hpp"
#include "model/trace_recorder.hpp"

namespace moekv {

class ReferenceRun;

/// What a layer of the reference gave in the current step: attention [tokens][n_heads][head_dim] and residual streams [tokens][hidden] after it.
struct LayerTrack {
  std::vector<float> attention, residual;
};

class ModelDriver final : public Driver {
 public:
  /// `decoder`, `tokens` and `recorder` (which may be null) are borrowed. `reference` may be null.
  ModelDriver(Geometry& geometry, ShardedCache& cache, const Decoder& decoder, const TokenSource& tokens, std::unique_ptr<KvHistory> history,
              std::unique_ptr<ReferenceRun> reference, TraceRecorder* recorder, std::uint64_t total_queries);
  ~ModelDriver() override;

  /// Keeps the tracks of each step's layers: this is the reference.
  void keep_tracks();
  [[nodiscard]] const std::vector<LayerTrack>& tracks() const { return tracks_; }
  [[nodiscard]] const std::vector<float>& residual() const { return x_; }
  /// Where the model left the range of numbers, out.violations says so.
  void collect(Transport& transport, RunOutcome& out) override;

 private:
  /// Squares of one request and layer: of the difference from the reference, and of the reference.
  struct Squares {
    double attention_error = 0, attention = 0, residual_error = 0, residual = 0;
  };
  struct DriftRow {
    std::uint64_t request = 0, layer = 0, n_tokens = 0;
    Squares all, tail;
  };

  void begin(const StepBatch& batch) override;
  void enter(const ReplayLayer& layer, PhaseTimer& timer) override;
  void route(const ReplayLayer& layer) override;
  void fill(const ReplayLayer&) override {}
  void sinks(const ReplayLayer& layer, float* out) override;
  void leave(const ReplayLayer& layer, PhaseTimer& timer) override;
  void finish(const StepBatch& batch, PhaseTimer& timer) override;
  void remember_history(const ReplayLayer& layer);
  void run_experts(const ReplayLayer& layer);
  void measure_drift(const ReplayLayer& layer);
  void score();
  [[nodiscard]] bool in_tail(const BatchItem& item, std::uint32_t position) const;

  const Decoder* decoder_;
  const TokenSource* tokens_file_;
  std::unique_ptr<KvHistory> history_;  // null where no probe asks for it
  std::unique_ptr<ReferenceRun> reference_;
  TraceRecorder* recorder_;
  StepBatch batch_;
  RopeAngles angles_;
  std::vector<float> x_, h_;  // residual streams, input of an FFN
  GateOutput gate_;
  NumberCheck numbers_;
  bool keeps_tracks_ = false;
  std::vector<LayerTrack> tracks_;  // [layers], where kept
  std::vector<DriftRow> drift_;     // [requests][layers] of this process's requests, by request
  std::vector<TokenRecord> scores_;
};

/// The same model with every entry at hand, uncompressed and read in full, run in the same steps.
class ReferenceRun {
 public:
  /// `spec` is the run's; the reference keeps its payload type and layout.
  ReferenceRun(const RunSpec& spec, const Decoder& decoder, const TokenSource& tokens, Transport& transport);
  ~ReferenceRun();
  void run(const StepBatch& batch);
  [[nodiscard]] const ModelDriver& driver() const { return driver_; }

 private:
  RunSpec spec_;
  std::unique_ptr<Backend> backend_;
  Geometry geometry_;
  ShardedCache cache_;
  ModelDriver driver_;
};

/// Makes the driver of a scored run. Everything is borrowed.
[[nodiscard]] DriverFactory model_driver(const RunSpec& spec, const Decoder& decoder, const TokenSource& tokens, Transport& transport,
                                         TraceRecorder* recorder);

}  // namespace moekv
