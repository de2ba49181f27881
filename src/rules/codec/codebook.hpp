// Product quantisation (Jegou et al., TPAMI 2011): a row is cut into sub-vectors, and each becomes the number of its nearest centroid of 256.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "core/hd.hpp"
#include "rules/codec/element.hpp"

namespace moekv {

/// Centroids of a sub-vector: its code is one byte.
inline constexpr std::uint32_t n_centroids = 256;

/// Sub-vector i of m, m <= d, is channels [subvector_begin(i), subvector_begin(i + 1)) of d.
MOEKV_HD std::uint32_t subvector_begin(std::uint32_t i, std::uint32_t d, std::uint32_t m) { return i * d / m; }
/// The sub-vector that has channel c.
MOEKV_HD std::uint32_t subvector_of(std::uint32_t c, std::uint32_t d, std::uint32_t m) { return ((c + 1) * m - 1) / d; }

/// Where a codebook [d][n_centroids] has channel c of centroid k.
MOEKV_HD std::size_t centroid_index(std::uint32_t c, std::uint32_t k) { return std::size_t{c} * n_centroids + k; }

/// What is compared with centroids, which are fp16: NaN is 0, and nothing lies beyond their range.
MOEKV_HD float to_codebook_range(float x) {
  if (x != x) return 0.0F;
  return x > fp16_max ? fp16_max : x < -fp16_max ? -fp16_max : x;
}

/// Number of the centroid with the least squared distance to x[begin..end), the lowest of several. `centroid(c, k)` is channel c of centroid k.
template <class Centroid>
MOEKV_HD std::uint32_t nearest_centroid(const float* x, std::uint32_t begin, std::uint32_t end, Centroid&& centroid) {
  std::uint32_t nearest = 0;
  float least = std::numeric_limits<float>::infinity();
  for (std::uint32_t k = 0; k < n_centroids; ++k) {
    float sum = 0.0F;
    for (std::uint32_t c = begin; c < end; ++c) {
      const float error = to_codebook_range(x[c]) - centroid(c, k);
      sum += error * error;
    }
    if (sum < least) {
      least = sum;
      nearest = k;
    }
  }
  return nearest;
}

}  // namespace moekv
