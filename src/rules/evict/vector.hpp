// Products and norms of rows, for rules that look at keys and values.
#pragma once

#include <cstdint>

#include "core/hd.hpp"
#include "core/math.hpp"

namespace moekv::evict {

[[nodiscard]] MOEKV_HD float dot(const float* a, const float* b, std::uint32_t d) {
  float sum = 0;
  for (std::uint32_t i = 0; i < d; ++i) sum += a[i] * b[i];
  return sum;
}

[[nodiscard]] MOEKV_HD float norm_of(const float* x, std::uint32_t d) { return sqrt_fixed(dot(x, x, d)); }

}  // namespace moekv::evict
