// QueryRouter: names a token's experts from its own query, so that storing and reading need no router of the model (routing.key: query_router).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/id.hpp"
#include "core/model_shape.hpp"

namespace moekv {

class QueryRouter {
 public:
  /// Weights [n_experts][d_k] from dataset `weights` of an HDF5 file, or standard normal ones from `seed` where `path` is empty.
  /// Throws UserError naming the file where it is missing or has another shape.
  QueryRouter(const std::string& path, std::uint64_t seed, const ModelShape& model, std::uint32_t n_experts, std::uint32_t top_k);

  /// The top_k experts by (mean query head) . weights[e], ties to the lower id. `q` is [tokens][n_heads][d_k]; appends [tokens][top_k] to `out`.
  void choose(std::span<const float> q, std::vector<std::uint16_t>& out) const;

 private:
  std::vector<float> weights_;
  std::uint32_t n_heads_, d_k_, n_experts_, top_k_;
};

}  // namespace moekv
