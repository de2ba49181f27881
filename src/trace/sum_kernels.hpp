// Loops over doubles whose sums have a fixed order whatever the processor: bases of the q, k, v generator, and exact attention.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moekv {

/// out[r][j] = sum over c of columns[c][j] x[r][c] for n_side_by_side columns, c ascending; x is [n_rows][stride].
inline constexpr std::uint32_t n_side_by_side = 16;
void dot_columns(const double* columns, std::uint32_t n, const float* x, std::size_t stride, std::uint32_t n_rows, double* out);

/// out[s][c] = shrinks[s][i] out[s][c] + weights[s][i] rows[i][c] for one row after the other, n_side_by_side rows at most; rows are [n][stride],
/// shrinks and weights [n_sums][n], out is [n_sums][dim].
void add_weighted_rows(const float* rows, std::size_t stride, std::uint32_t n, const double* shrinks, const double* weights, std::uint32_t n_sums,
                       std::uint32_t dim, double* out);

/// Makes the rows of a matrix [rank][stride], of `dim` columns each, orthonormal from the first on (modified Gram-Schmidt); sums have a fixed order.
/// Fastest where rows begin at cache lines and not a multiple of 4 KiB apart.
void orthonormalise(double* rows, std::uint32_t rank, std::uint32_t dim, std::size_t stride);

}  // namespace moekv
