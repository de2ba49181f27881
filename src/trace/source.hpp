// TraceSource: requests and routing rows as a pure function of (file or seed); any process reads just the rows it needs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/id.hpp"
#include "core/model_shape.hpp"

namespace moekv {

/// What a trace's rows carry beyond expert ids (routing.md section 4.1).
enum class RoutingLevel : std::uint8_t { ids = 0, weights = 1, candidates = 2, logits = 3 };

struct RequestInfo {
  std::int64_t arrival_ns = -1;    // -1 = unknown
  std::uint32_t prompt_tokens = 0;
  std::uint32_t output_tokens = 0;
  std::int32_t session = -1;
  std::uint16_t domain = 0;
  [[nodiscard]] std::uint32_t total_tokens() const { return prompt_tokens + output_tokens; }
};

/// Facts of a trace that do not depend on a row. Shape fields that the source does not know are 0.
struct TraceInfo {
  std::string path;                 // file, or "synthetic:<preset>"
  std::string model_name;
  std::string workload;
  std::string source, source_uri, license;
  std::string digest;               // hex; of the file's bytes, or of the generator's parameters
  RoutingLevel level = RoutingLevel::ids;
  bool pseudo_logits = false;
  bool joined = false;              // sequences were concatenated from shorter recordings
  std::uint32_t n_experts = 0;
  std::uint32_t top_k = 0;
  std::uint32_t n_candidates = 0;           // level candidates: M
  std::vector<std::uint16_t> moe_layers;    // model layer index of each routing row, ascending
  std::vector<std::uint16_t> kv_layers;     // model layers with recorded q/k/v; empty when there is none
  /// False for a request trace: arrivals, lengths and prefix hashes without routing rows (n_experts, top_k and moe_layers empty).
  [[nodiscard]] bool has_routing() const { return !moe_layers.empty(); }
  ModelShape shape;                         // as far as the trace knows it; shape.layers empty when unknown
};

/// Routing rows of one request, positions [begin, end), the MoE layers [layer_begin, layer_end) of TraceInfo::moe_layers.
struct RoutingRows {
  std::uint32_t begin = 0, end = 0;
  std::uint32_t layer_begin = 0, layer_end = 0;
  std::vector<std::uint16_t> ids;      // [tokens][layers][top_k]; ExpertId::invalid = absent
  std::vector<float> weights;          // same shape; empty when the level is ids
  std::vector<float> logits;           // [tokens][layers][n_experts]; filled only when asked for and known (levels >= candidates:
                                       // unlisted experts get -infinity at level candidates)
};

/// Recorded attention inputs of one request and layer, positions [begin, end), as fp32 (converted from the file's type).
struct RecordedKv {
  std::vector<float> q;  // [tokens][n_heads][d_k]
  std::vector<float> k;  // [tokens][n_kv_heads][d_k]
  std::vector<float> v;  // [tokens][n_kv_heads][d_v]; empty for MLA
};

enum class WantLogits : std::uint8_t { no, yes };

/// Thread-compatible: one reader per thread, or external locking. Errors are UserError naming the file and the row.
class TraceSource {
 public:
  virtual ~TraceSource() = default;
  [[nodiscard]] virtual const TraceInfo& info() const = 0;
  [[nodiscard]] virtual std::uint32_t n_requests() const = 0;
  [[nodiscard]] virtual RequestInfo request(RequestId r) const = 0;
  /// Reads rows into `out`, reusing its capacity. Ranges must lie inside the request and the layer list.
  virtual void read(RequestId r, std::uint32_t begin, std::uint32_t end, std::uint32_t layer_begin, std::uint32_t layer_end, WantLogits want,
                    RoutingRows& out) = 0;
  /// Reads recorded q, k, v of model layer `layer`; a UserError where the trace has none.
  virtual void read_kv(RequestId r, std::uint32_t begin, std::uint32_t end, LayerId layer, RecordedKv& out);
};

/// Opens a native trace file for reading; validates structure (not every row) and throws UserError with every problem found.
[[nodiscard]] std::unique_ptr<TraceSource> open_native_trace(const std::string& path);

}  // namespace moekv
