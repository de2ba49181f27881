// Probe: compares a deterministic sample of queries with exact attention over the full, uncompressed, unsharded history (MODEL section 9).
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "comm/transport.hpp"
#include "engine/attention_sample.hpp"
#include "engine/geometry.hpp"
#include "engine/home.hpp"
#include "engine/kept_inputs.hpp"
#include "engine/records.hpp"
#include "trace/qkv.hpp"

namespace moekv {

class Probe {
 public:
  /// `total_queries` is the number of (token, layer) pairs that will attend; about spec.probe.samples of them are measured.
  /// `recorded` says that q, k and v are the trace's own.
  Probe(const Geometry& geometry, QkvSource* qkv, bool payload, bool recorded, std::uint64_t total_queries);

  /// Also measures every query of the sample's pairs.
  void sample_attention(AttentionSample sample) { sample_ = std::move(sample); }
  [[nodiscard]] AttentionSample& attention() { return sample_; }
  /// Takes exact attention from there and leaves there what it computes; null: every probe computes its own.
  void keep_exact(KeptInputs* inputs) { inputs_ = inputs; }
  /// What is measured from now on waits for `settle_some`, so that queries of one request and layer have their history made once: for a source that
  /// gives it after the run too.
  void defer() { deferred_ = true; }
  /// Measures what waits of one request and layer; until then its rows have no fidelity. False where nothing waited.
  bool settle_some();
  /// How many queries wait.
  [[nodiscard]] std::size_t n_waiting() const { return waiting_.size(); }
  /// Sets HomeToken::probe for this layer.
  void mark(const ReplayLayer& layer, std::span<HomeToken> tokens) const;
  /// Measures the marked queries of a layer step. `keys` is [tokens][top_k] or empty, `q` is [queries][n_heads][d_k]
  /// before conversion to the payload type, or empty: then it is made again where it is needed.
  void measure(const ReplayLayer& layer, std::span<const HomeToken> tokens, std::span<const std::uint16_t> keys, std::span<const float> q,
               const LayerOutput& output);
  /// This process's rows so far, in the order measured.
  [[nodiscard]] std::span<const ProbeRecord> rows() const { return rows_; }
  /// Collective. All rows on process 0, by (request, layer, position); those that wait without fidelity.
  void collect(Transport& transport, RunOutcome& out);
  /// Without the sample of attention.
  void transfer(StateStream& stream);

 private:
  void remember_keys(const ReplayLayer& layer, std::span<const HomeToken> tokens, std::span<const std::uint16_t> keys);
  /// A query whose fidelity is to be measured.
  struct Waiting {
    ExactQuery query;      // without q, sinks and experts
    std::vector<float> q;  // [n_heads][d_k], or empty: then it is made again
    std::vector<float> o;  // [n_heads][d_v], of the run
    std::vector<HeadReads> reads;
    std::size_t row = 0;  // of rows_
    void transfer(StateStream& stream);
  };
  /// Adds a row without fidelity.
  void record(const ReplayLayer& layer, const HomeToken& token, std::int64_t history, std::size_t read);
  void compare(const ExactResult& truth, const Waiting& waiting);
  /// Those of one request and layer, by position.
  void settle_group(std::span<Waiting> group);
  /// Null where it is not kept.
  [[nodiscard]] std::shared_ptr<const ExactResult> kept_exact(const ExactQuery& query) const;
  /// Exact attention of queries of one request and layer, which is kept where there is room.
  [[nodiscard]] std::vector<std::shared_ptr<const ExactResult>> exact_of(std::span<Waiting* const> asked);
  [[nodiscard]] bool chosen(RequestId request, LayerId layer, std::uint32_t position) const;

  const Geometry* geometry_;
  QkvSource* qkv_;
  KeptInputs* inputs_ = nullptr;
  bool active_, recorded_, deferred_ = false;
  std::uint64_t threshold_ = 0;  // a query is measured when its 64-bit hash is at most this
  std::vector<ProbeRecord> rows_;
  std::vector<Waiting> waiting_;
  std::uint64_t waiting_bytes_ = 0;
  AttentionSample sample_;
  std::map<std::pair<std::uint32_t, std::uint16_t>, std::vector<std::uint16_t>> history_;  // (request, layer) -> keys, with expert affinity only
};

}  // namespace moekv
