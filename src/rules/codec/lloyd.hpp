// Lloyd-Max quantiser of a standard normal value in 2, 3 or 4 bits: levels and thresholds of compression.md section 3.
#pragma once

#include <cstdint>

#include "core/hd.hpp"

namespace moekv {

/// Code of y, ascending with y: 0 .. 2^bits - 1.
MOEKV_HD std::uint32_t lloyd_code(float y, std::uint32_t bits) {
  constexpr float thresholds[] = {0.9816F, 0.5005F, 1.0500F, 1.7479F, 0.2582F, 0.5224F, 0.7995F, 1.0993F, 1.4371F, 1.8435F, 2.4008F};
  const std::uint32_t half = 1U << (bits - 1);
  const float* t = thresholds + (bits == 2 ? 0 : bits == 3 ? 1 : 4);
  const float a = y < 0.0F ? -y : y;
  std::uint32_t level = 0;
  for (std::uint32_t i = 0; i + 1 < half; ++i) level += a > t[i] ? 1U : 0U;
  return y < 0.0F ? half - 1 - level : half + level;
}

MOEKV_HD float lloyd_level(std::uint32_t code, std::uint32_t bits) {
  constexpr float levels[] = {0.4528F, 1.5104F, 0.2451F, 0.7560F, 1.3439F, 2.1519F, 0.1284F,
                              0.3880F, 0.6568F, 0.9423F, 1.2562F, 1.6180F, 2.0690F, 2.7326F};
  const std::uint32_t half = 1U << (bits - 1);
  const float* l = levels + (bits == 2 ? 0 : bits == 3 ? 2 : 6);
  return code < half ? -l[half - 1 - code] : l[code - half];
}

}  // namespace moekv
