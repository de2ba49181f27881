// Which tokens selectors keep before any codec sees them: layer budgets of PyramidKV and chunks of ChunkKV (compression.md 2.1, 2.2).
#pragma once

#include <cstdint>

#include "core/hd.hpp"

namespace moekv::retain {

/// PyramidKV: a window that always stays, and a capacity per layer on average that falls linearly from the first layer to 1 / beta of it at the last.
struct PyramidShape {
  std::uint64_t window = 8, capacity = 512, beta = 20;  // tokens; capacity includes the window
  std::uint32_t layers = 1;
  std::uint64_t prompt = ~std::uint64_t{0};  // tokens that there are
};

/// Tokens outside the window that layer `layer` keeps, as the authors' integer code has it: its sums drift from layers * (capacity - window),
/// which allocate::Pyramid keeps exactly.
MOEKV_HD std::uint64_t pyramid_integer(const PyramidShape& s, std::uint32_t layer) {
  const std::uint64_t mean = s.capacity - s.window;
  if (s.prompt < s.capacity) return s.prompt - (s.prompt < s.window ? s.prompt : s.window);
  if (s.prompt < 2 * mean) return mean;
  std::uint64_t low = mean / s.beta;
  std::uint64_t high = 2 * mean - low;
  if (high >= s.prompt - s.window) {
    high = s.prompt - s.window;
    low = 2 * mean - high;
  }
  return high - (s.layers > 1 ? layer * ((high - low) / (s.layers - 1)) : 0);
}

/// Mean score of the tokens of chunk `index` of a row of n tokens.
MOEKV_HD double chunk_score(const double* scores, std::uint64_t n, std::uint64_t chunk, std::uint64_t index) {
  double sum = 0;
  const std::uint64_t end = (index + 1) * chunk < n ? (index + 1) * chunk : n;
  for (std::uint64_t t = index * chunk; t < end; ++t) sum += scores[t];
  return sum / static_cast<double>(end - index * chunk);
}

/// ChunkKV: whether chunk `index` is among the `keep` with the highest mean scores, ties to the earlier one.
MOEKV_HD bool chunk_is_kept(const double* scores, std::uint64_t n, std::uint64_t chunk, std::uint64_t keep, std::uint64_t index) {
  const double own = chunk_score(scores, n, chunk, index);
  std::uint64_t before = 0;
  for (std::uint64_t i = 0; i * chunk < n; ++i) {
    const double other = chunk_score(scores, n, chunk, i);
    before += other > own || (other == own && i < index) ? 1 : 0;
  }
  return before < keep;
}

}  // namespace moekv::retain
