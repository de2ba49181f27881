// The pieces behind make_synthetic_trace: a request table and one row generator per family of presets.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/error.hpp"
#include "core/model_shape.hpp"
#include "trace/source.hpp"
#include "trace/synthetic.hpp"

namespace moekv::synthetic {

/// Fills ids, weights and logits of rows whose ranges are set and whose arrays are sized; a pure function of (request, position, layer row).
class RowGenerator {
 public:
  virtual ~RowGenerator() = default;
  virtual void fill(std::uint32_t request, WantLogits want, RoutingRows& rows) = 0;
};

/// What every generator needs to know of the shape and the specification.
struct Frame {
  SyntheticSpec spec;
  GateShape gate;              // n_experts and top_k filled
  std::uint32_t n_layers = 0;  // routing rows per token
};

/// A request's domain: round robin, so that every domain is equally frequent.
[[nodiscard]] inline std::uint16_t domain_of(const SyntheticSpec& spec, std::uint32_t request) {
  return static_cast<std::uint16_t>(request % spec.n_domains);
}

/// Lengths and arrivals of all requests.
[[nodiscard]] std::vector<RequestInfo> make_requests(const SyntheticSpec& spec);
/// Adds a problem for every value of `spec` outside its range.
void check_requests(const SyntheticSpec& spec, std::vector<Problem>& problems);

/// A permutation of the experts that belongs to (seed, layer).
[[nodiscard]] std::vector<std::uint32_t> shuffled_experts(std::uint64_t seed, std::uint32_t layer, std::uint32_t n_experts);

/// flame, dsv2lite, gptoss: a latent-factor model of the gate (calibrated.cpp).
[[nodiscard]] bool is_calibrated(const std::string& preset);
[[nodiscard]] std::unique_ptr<RowGenerator> make_calibrated(const Frame& frame);

/// uniform, zipf, k_hot, power_law, deepep_ratio: independent draws without replacement (independent.cpp).
[[nodiscard]] bool is_independent(const std::string& preset);
void check_independent(const Frame& frame, std::vector<Problem>& problems);
[[nodiscard]] std::unique_ptr<RowGenerator> make_independent(const Frame& frame);

/// bootstrap: 64-token blocks of a recorded trace (bootstrap.cpp). The result has the recorded trace's experts, layers and level.
[[nodiscard]] std::unique_ptr<TraceSource> make_bootstrap(const SyntheticSpec& spec, const ModelShape& shape, std::unique_ptr<TraceSource> recorded);

}  // namespace moekv::synthetic
