// The inner loops of the generators of q, k, v and of routing, apart from the rest so that they vectorise for the processor at hand.
#pragma once

#include <cstdint>

#include "core/rng.hpp"

namespace moekv {

/// Fills out[4 * n_quads] with row (a, b) of a stream of normals; component i equals generate::normal_component.
void draw_normal_row(std::uint64_t seed, Stream stream, std::uint32_t a, std::uint32_t b, std::uint32_t n_quads, float* out);

/// Columns of a map are padded with zeros to a multiple of this.
inline constexpr std::uint32_t map_column_tile = 16;
[[nodiscard]] constexpr std::uint32_t padded_columns(std::uint32_t dim) { return (dim + map_column_tile - 1) / map_column_tile * map_column_tile; }

/// out[t][c] = sum over i of x[t][i] map[i][c], i ascending, products and sums rounded apart: the same bits for every vector width.
/// x is [n_rows][x_stride], map [rank][n_columns], out [n_rows][n_columns]; n_columns is a multiple of map_column_tile.
void map_rows(const float* x, std::uint32_t x_stride, std::uint32_t n_rows, std::uint32_t rank, const float* map, std::uint32_t n_columns,
              float* out);

/// A row of a query before RoPE: out[c] = generate::query_value of noise[c], target[c], gain[c] and expert[c], of `dim` channels. `target` null: the
/// query leans towards none; `expert` null: it has no part of its experts.
void query_row(const float* noise, const float* target, const float* gain, const float* expert, float scale, std::uint32_t dim, float* out);

/// out[e] = p[e] / Exp(1) for `n` experts: the k largest are a weighted sample of k without replacement. Expert e's draw is a half of
/// mix64(key + 2 (e / 2)).
void race_keys(std::uint64_t key, const float* p, std::uint32_t n, float* out);

}  // namespace moekv
