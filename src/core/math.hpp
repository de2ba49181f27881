// Elementary functions with fixed polynomials: the same bits on host and device, so no rule calls libm.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "core/hd.hpp"

namespace moekv {

MOEKV_HD float float_from_bits(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }
MOEKV_HD std::uint32_t bits_of(float x) { return __builtin_bit_cast(std::uint32_t, x); }

/// 2^n for n in [-126, 127].
MOEKV_HD float pow2i(int n) { return float_from_bits(static_cast<std::uint32_t>(n + 127) << 23); }

/// exp(x), relative error below 2e-7; 0 below -87, infinity above 88.7.
MOEKV_HD float exp_fixed(float x) {
  if (!(x > -87.0F)) return x != x ? x : 0.0F;
  if (x > 88.7F) return std::numeric_limits<float>::infinity();
  const float t = x * 1.44269504F;
  const int n = static_cast<int>(t + (t >= 0.0F ? 0.5F : -0.5F));
  const float r = (x - static_cast<float>(n) * 0.693359375F) + static_cast<float>(n) * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  const int half = n / 2;  // two steps: 2^128 does not fit one exponent
  return p * pow2i(half) * pow2i(n - half);
}

/// Natural logarithm of a positive normal x, relative error below 3e-7 away from 1; absolute 1e-7 near 1.
MOEKV_HD float log_fixed(float x) {
  const std::uint32_t bits = bits_of(x);
  int e = static_cast<int>(bits >> 23) - 126;
  float m = float_from_bits((bits & 0x007FFFFFU) | 0x3F000000U);
  if (m < 0.707106781F) {
    e -= 1;
    m = m + m - 1.0F;
  } else {
    m = m - 1.0F;
  }
  const float z = m * m;
  float p = 7.0376836292e-2F;
  p = p * m - 1.1514610310e-1F;
  p = p * m + 1.1676998740e-1F;
  p = p * m - 1.2420140846e-1F;
  p = p * m + 1.4249322787e-1F;
  p = p * m - 1.6668057665e-1F;
  p = p * m + 2.0000714765e-1F;
  p = p * m - 2.4999993993e-1F;
  p = p * m + 3.3333331174e-1F;
  float y = p * m * z;
  const auto fe = static_cast<float>(e);
  y += fe * -2.12194440e-4F;
  y -= 0.5F * z;
  return m + y + fe * 0.693359375F;
}

/// Square root of x >= 0, correctly rounded on host and device; 0 for 0, subnormal and negative x.
MOEKV_HD float sqrt_fixed(float x) {
  const bool normal = x >= std::numeric_limits<float>::min();
#if defined(__CUDA_ARCH__)
  return normal ? __fsqrt_rn(x) : 0.0F;
#else
  return __builtin_sqrtf(normal ? x : 0.0F);
#endif
}

/// cos and sin of 2 pi u for u in [0, 1) (no argument reduction error, no branch).
struct CosSin {
  float cos, sin;
};
MOEKV_HD CosSin cos_sin_turns(float u) {
  const int quadrant = static_cast<int>(u * 4.0F + 0.5F);                       // nearest multiple of a quarter turn
  const float r = (u - static_cast<float>(quadrant) * 0.25F) * 6.28318531F;     // in [-pi/4, pi/4]
  const float z = r * r;
  const float s = ((-1.9515295891e-4F * z + 8.3321608736e-3F) * z - 1.6666654611e-1F) * z * r + r;
  const float c = ((2.443315711809948e-5F * z - 1.388731625493765e-3F) * z + 4.166664568298827e-2F) * z * z - 0.5F * z + 1.0F;
  const bool odd = (quadrant & 1) != 0;
  const float x = odd ? s : c;
  const float y = odd ? c : s;
  return {((quadrant + 1) & 2) != 0 ? -x : x, (quadrant & 2) != 0 ? -y : y};
}

}  // namespace moekv
