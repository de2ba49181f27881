// The gate of key query_router: a matrix from file or seed, applied to the mean query head.
#include "engine/query_router.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.hpp"
#include "core/math.hpp"
#include "core/rng.hpp"
#include "io/hdf5.hpp"

namespace moekv {

QueryRouter::QueryRouter(const std::string& path, std::uint64_t seed, const ModelShape& model, std::uint32_t n_experts, std::uint32_t top_k)
    : n_heads_(model.n_heads), d_k_(model.d_k), n_experts_(n_experts), top_k_(top_k) {
  if (!path.empty()) {
    const h5::File file = h5::File::open(path);  // closing it closes the dataset
    const h5::Dataset weights = file.dataset("weights");
    const h5::Dims dims = weights.dims();
    if (dims.size() != 2 || dims[0] != n_experts || dims[1] != d_k_) {
      throw UserError(path + ":/weights", fmt::format("the query router needs a matrix of [{}, {}] (experts, d_k)", n_experts, d_k_),
                      "check routing.query_router_path");
    }
    weights_ = weights.read<float>();
    return;
  }
  weights_.resize(std::size_t{n_experts} * d_k_);
  for (std::uint32_t i = 0; i < weights_.size(); ++i) {  // Box-Muller
    const Draw4 d = draw4(seed, Stream::hash_router, i, 0x71U, 0);
    weights_[i] = std::sqrt(-2.0F * log_fixed(uniform_open(d.v[0]))) * cos_sin_turns(uniform_float(d.v[1])).cos;
  }
}

void QueryRouter::choose(std::span<const float> q, std::vector<std::uint16_t>& out) const {
  const std::size_t row = std::size_t{n_heads_} * d_k_;
  std::vector<float> mean(d_k_), score(n_experts_);
  std::vector<std::uint16_t> order(n_experts_);
  for (std::size_t t = 0; t * row < q.size(); ++t) {
    std::fill(mean.begin(), mean.end(), 0.0F);
    for (std::uint32_t h = 0; h < n_heads_; ++h) {
      for (std::uint32_t d = 0; d < d_k_; ++d) mean[d] += q[t * row + h * d_k_ + d];
    }
    for (std::uint32_t e = 0; e < n_experts_; ++e) {
      score[e] = 0;
      for (std::uint32_t d = 0; d < d_k_; ++d) score[e] += mean[d] * weights_[std::size_t{e} * d_k_ + d];
    }
    std::iota(order.begin(), order.end(), std::uint16_t{0});
    const auto better = [&](std::uint16_t a, std::uint16_t b) { return score[a] != score[b] ? score[a] > score[b] : a < b; };
    std::partial_sort(order.begin(), order.begin() + top_k_, order.end(), better);
    out.insert(out.end(), order.begin(), order.begin() + top_k_);
  }
}

}  // namespace moekv
