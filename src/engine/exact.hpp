// Exact attention of one query over its whole history, regenerated entry by entry in double: the truth that probes and tests compare with.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/model_shape.hpp"
#include "trace/qkv.hpp"

namespace moekv {

class StateStream;

/// One query of one layer. `q` is [n_heads][d_k]; `sinks` [n_heads] or null. Keys are positions [begin(), position].
struct ExactQuery {
  LayerId layer;
  LayerShape shape;
  RequestId request;
  std::uint32_t position = 0;
  const float* q = nullptr;
  const float* sinks = nullptr;
  double scale = 1.0;
  const std::uint16_t* experts = nullptr;  // [position + 1][top_k] of the history, for generators with expert affinity; else null
  std::uint32_t top_k = 0;

  /// First position inside the layer's own window.
  [[nodiscard]] std::uint32_t begin() const {
    const bool windowed = shape.attention == AttentionKind::window && position + 1 > shape.window_tokens;
    return windowed ? position + 1 - shape.window_tokens : 0;
  }
};

struct ExactResult {
  std::vector<double> o;        // [n_heads][d_v]
  std::vector<double> weights;  // [n_heads][position + 1 - begin] softmax weights (a sink takes its share of 1)
};

/// softmax(scale q.k (+ sink)) v over the history, keys and values from `qkv` in fp32, arithmetic in double.
[[nodiscard]] ExactResult exact_attention(QkvSource& qkv, const ModelShape& model, const ExactQuery& query);
/// The same results for several queries of one layer, request and scale, whose history is made once; threads share their heads.
[[nodiscard]] std::vector<ExactResult> exact_attention(QkvSource& qkv, const ModelShape& model, std::span<const ExactQuery> queries,
                                                       int n_threads = 1);

/// Positions that some query heads of a query read, once per copy read.
struct HeadReads {
  std::uint32_t first_head = 0, n_heads = 0;
  std::vector<std::uint32_t> positions;
  void transfer(StateStream& stream);
};

struct Fidelity {
  double out_err = 0, cosine = 0, mass_kept = 0, kl = 0, topk_recall = 0, max_abs_err = 0;
};

/// Compares an output `o` [n_heads][d_v] with the exact result. A head read what all `reads` that name it list.
[[nodiscard]] Fidelity compare_with_exact(const ExactResult& exact, const ModelShape& model, std::uint32_t begin, std::span<const HeadReads> reads,
                                          const float* o, std::uint32_t top_k);

}  // namespace moekv
