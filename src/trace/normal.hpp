// Standard normal draws from the counter-based generator, with fixed polynomials so that every machine draws the same bits.
#pragma once

#include <cstdint>

#include "core/math.hpp"
#include "core/rng.hpp"

namespace moekv {

struct Normal4 {
  float v[4];
};

/// Four independent N(0, 1) values for (seed, stream; a, b, c) by Box-Muller.
MOEKV_HD Normal4 normal4(std::uint64_t seed, Stream stream, std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  const Draw4 d = draw4(seed, stream, a, b, c);
  const float r0 = sqrt_fixed(-2.0F * log_fixed(uniform_open(d.v[0])));
  const float r1 = sqrt_fixed(-2.0F * log_fixed(uniform_open(d.v[2])));
  const CosSin u0 = cos_sin_turns(uniform_float(d.v[1]));
  const CosSin u1 = cos_sin_turns(uniform_float(d.v[3]));
  return {{r0 * u0.cos, r0 * u0.sin, r1 * u1.cos, r1 * u1.sin}};
}

}  // namespace moekv
