// Synthetic routing: calibrated presets and plain distributions, each row a pure function of (seed, request, position, layer).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "trace/source.hpp"

namespace moekv {

/// Parameters of a synthetic trace; every draw is keyed by (seed, request, position, layer, expert) (routing.md section 4.3).
struct SyntheticSpec {
  std::string preset = "dsv2lite";  // flame, dsv2lite, gptoss, uniform, zipf, k_hot, power_law, deepep_ratio, bootstrap
  std::uint32_t n_requests = 16;
  std::uint32_t prompt_tokens = 256;
  std::uint32_t output_tokens = 128;
  double length_sigma = 0.0;        // lognormal spread of both lengths; 0 = all equal
  std::string arrivals = "none";    // none (arrival unknown), poisson, gamma
  double rate_per_s = 1.0;
  double arrival_cv = 1.0;          // of gamma
  double zipf_s = 1.0;              // zipf
  double hot_experts = 32;          // k_hot: number of hot experts ...
  double hot_share = 0.9;           // ... and their share of the choices
  double power_alpha = 1.01;        // power_law
  double overload_ratio = 2.0;      // deepep_ratio: one expert-parallel rank of 8 gets this multiple of the mean
  std::uint32_t n_domains = 4;
  std::string bootstrap_path;       // bootstrap: native trace whose 64-token blocks are resampled
  std::uint64_t seed = 1;
};

/// A synthetic source for the shape's MoE layers, n_experts and top_k. Level logits for calibrated presets, weights otherwise.
[[nodiscard]] std::unique_ptr<TraceSource> make_synthetic_trace(const SyntheticSpec& spec, const ModelShape& shape);

}  // namespace moekv
