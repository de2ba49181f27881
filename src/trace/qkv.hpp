// QkvSource: where q, k and v of any (layer, request, position) come from: the trace's recording or the counter-based generator.
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/id.hpp"
#include "core/model_shape.hpp"
#include "rules/generate.hpp"
#include "trace/kept_bytes.hpp"
#include "trace/source.hpp"

namespace moekv {

/// The generator of compression.md section 9.
struct GeneratorSpec {
  std::string preset = "A";      // A outlier channels + sinks, B no outliers, C extreme bias, D Gaussian (E: MLA latent is chosen by the shape)
  double expert_affinity = 0.0;  // weight of an expert-dependent component in q and k
  double sequence_mix = 0.0;     // eta: 0 = one subspace for all requests, 1 = one per request
  std::uint64_t seed = 1;
  friend auto operator<=>(const GeneratorSpec&, const GeneratorSpec&) = default;
};

/// Which experts a token was routed to, for GeneratorSpec::expert_affinity; ids may be null when it is 0.
struct TokenExperts {
  const std::uint16_t* ids = nullptr;  // [tokens][top_k]
  std::uint32_t top_k = 0;
  [[nodiscard]] TokenExperts from(std::size_t token) const { return {ids != nullptr ? ids + token * top_k : nullptr, top_k}; }
};

/// How a backend makes the rows of a layer: all planes and rows of GenerateBatch (device/backend.hpp), which point into the source.
struct RowList {
  std::vector<generate::PlaneView> planes;
  std::vector<generate::RowPlan> rows;
  std::span<const double> turns;
};

/// Rows are fp32, position-major: q [tokens][n_heads][d_k], k [tokens][n_kv_heads][d_k], v [tokens][n_kv_heads][d_v] (v untouched for MLA).
/// A pure function of its arguments, so any process regenerates any entry. RoPE is applied. Thread-compatible.
class QkvSource {
 public:
  virtual ~QkvSource() = default;
  virtual void keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* k, float* v) = 0;
  virtual void queries(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* q) = 0;
  /// Those of many ranges of one layer, each at its first_token and first_query; `experts` are of all tokens. Keys, or queries, are made where
  /// there is room for them: `k` (and `v`, but for MLA), `q`.
  virtual void rows(const ModelShape& shape, LayerId layer, TokenExperts experts, std::span<const generate::RowRange> ranges, float* k, float* v,
                    float* q);
  /// Fills the list and returns true where rows can be made by it; false where only keys_values and queries make them.
  virtual bool list_rows(LayerId /*layer*/, TokenExperts /*experts*/, RowList& /*list*/) { return false; }
  /// Learned sink logits per query head [n_heads]; only called for layers with sinks.
  virtual void sink_logits(LayerId layer, float* out) = 0;
};

/// The generator for a shape (GQA, or the latent preset E for MLA). `n_threads` 0: as OpenMP says. What it keeps of its keys is counted in `kept`;
/// null: it alone keeps as much as a process may.
[[nodiscard]] std::unique_ptr<QkvSource> make_qkv_generator(const GeneratorSpec& spec, const ModelShape& shape, int n_threads = 0,
                                                            std::shared_ptr<KeptBytes> kept = nullptr);
/// Recorded q, k, v of a trace that has them; borrows `trace`. Sink logits come from the generator's seed.
[[nodiscard]] std::unique_ptr<QkvSource> make_recorded_qkv(TraceSource& trace, const ModelShape& shape);

}  // namespace moekv
