// Sobol's sequence in base 2: point n is the xor of the direction numbers of the bits of its Gray code.
#include <array>
#include <bit>

#include "config/sweep_axes.hpp"
#include "core/rng.hpp"

namespace moekv {
namespace {

/// A primitive polynomial of degree s with inner coefficients a, and the first s direction integers (Joe and Kuo 2008, new-joe-kuo-6.21201).
struct Polynomial {
  unsigned s, a;
  std::array<std::uint32_t, 5> m;
};
constexpr std::array<Polynomial, sobol_dimensions - 1> polynomials{{{1, 0, {1}},
                                                                    {2, 1, {1, 3}},
                                                                    {3, 1, {1, 3, 1}},
                                                                    {3, 2, {1, 1, 1}},
                                                                    {4, 1, {1, 1, 3, 3}},
                                                                    {4, 4, {1, 3, 5, 13}},
                                                                    {5, 2, {1, 1, 5, 5, 17}},
                                                                    {5, 4, {1, 1, 5, 5, 5}},
                                                                    {5, 7, {1, 1, 7, 11, 19}}}};
using Directions = std::array<std::uint32_t, 32>;

Directions directions_of(std::size_t dimension) {
  Directions v{};
  if (dimension == 0) {
    for (unsigned i = 0; i < 32; ++i) v[i] = 1U << (31 - i);
    return v;
  }
  const Polynomial& p = polynomials[dimension - 1];
  for (unsigned i = 0; i < p.s; ++i) v[i] = p.m[i] << (31 - i);
  for (unsigned i = p.s; i < 32; ++i) {
    v[i] = v[i - p.s] ^ (v[i - p.s] >> p.s);
    for (unsigned k = 1; k < p.s; ++k) v[i] ^= ((p.a >> (p.s - 1 - k)) & 1U) * v[i - k];
  }
  return v;
}

}  // namespace

std::vector<std::vector<double>> sobol_points(std::size_t n, std::size_t dimensions, std::uint64_t seed) {
  std::vector<std::vector<double>> points(n, std::vector<double>(dimensions));
  for (std::size_t d = 0; d < dimensions; ++d) {
    const Directions v = directions_of(d);
    const auto shift = static_cast<std::uint32_t>(hash_words(seed, d));
    std::uint32_t x = 0;
    for (std::size_t i = 0; i < n; ++i) {
      if (i > 0) x ^= v[static_cast<unsigned>(std::countr_zero(i))];
      points[i][d] = static_cast<double>(x ^ shift) * 0x1p-32;
    }
  }
  return points;
}

}  // namespace moekv
