// Codebooks of product quantisation (rules/codec/codebook.hpp) on the host: made by k-means, and searched for the rows of a page at once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rules/codec/map.hpp"

namespace moekv {

/// Writes the codebook of rows x[n][d] cut into m sub-vectors to `table`: k-means++ with fixed seeds, then Lloyd's iterations. Of many rows, some
/// 4096 at even distances count. Where a sub-vector takes no more than 256 values, they are its centroids. The same rows give the same bytes.
void fit_codebook(const float* x, std::uint32_t n, std::uint32_t d, std::uint32_t m, std::byte* table);

/// z[n][map.width] = map_forward of rows x[n][map.d], for MapKind::codebook.
void find_centroids(const MapView& map, const float* x, std::uint32_t n, float* z);

}  // namespace moekv
