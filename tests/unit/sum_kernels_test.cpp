// Loops over doubles against the plain ones that they stand for.
#include "trace/sum_kernels.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "rules/generate.hpp"

namespace moekv {
namespace {

TEST(SumKernels, ColumnsAreSummedUpInTheirOrder) {
  constexpr std::uint32_t n = 53, n_rows = 7;  // no whole number of what is done at once
  constexpr std::size_t stride = n + 2;
  std::vector<double> columns(n * n_side_by_side);
  std::vector<float> x(n_rows * stride);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = generate::normal_component(1, Stream::query, 0, static_cast<std::uint32_t>(i), 1, 0);
  for (std::size_t i = 0; i < columns.size(); ++i) columns[i] = generate::normal_component(4, Stream::query, 0, static_cast<std::uint32_t>(i), 1, 0);
  double out[n_rows * n_side_by_side];
  dot_columns(columns.data(), n, x.data(), stride, n_rows, out);
  for (std::uint32_t i = 0; i < n_rows * n_side_by_side; ++i) {
    const float* row = &x[i / n_side_by_side * stride];
    double sum = 0;
    for (std::uint32_t c = 0; c < n; ++c) sum += columns[c * n_side_by_side + i % n_side_by_side] * static_cast<double>(row[c]);
    EXPECT_EQ(out[i], sum) << i;
  }
}

/// A sum of eight partial sums, as orthonormalise states.
double dot_of_eight(const double* a, const double* b, std::uint32_t n) {
  double partial[8] = {}, sum = 0;
  for (std::uint32_t i = 0; i < n; ++i) partial[i < n / 8 * 8 ? i % 8 : 0] += a[i] * b[i];
  for (const double x : partial) sum += x;
  return sum;
}

TEST(SumKernels, OrthonormalRowsEqualGramSchmidtRowByRow) {
  constexpr std::uint32_t rank = 21, dim = 43, stride = 45;  // no whole number of what is done at once
  std::vector<double> rows(rank * stride), expected(rank * dim);
  for (std::uint32_t i = 0; i < rank * dim; ++i) {
    expected[i] = generate::normal_component(3, Stream::kv_basis, 0, i, 1, 0);
    rows[i / dim * stride + i % dim] = expected[i];
  }
  for (std::uint32_t r = 0; r < rank; ++r) {
    double* row = &expected[std::size_t{r} * dim];
    for (std::uint32_t s = 0; s < r; ++s) {
      const double* other = &expected[std::size_t{s} * dim];
      const double share = dot_of_eight(row, other, dim);
      for (std::uint32_t c = 0; c < dim; ++c) row[c] -= share * other[c];
    }
    const double norm = std::sqrt(dot_of_eight(row, row, dim));
    for (std::uint32_t c = 0; c < dim; ++c) row[c] /= norm;
  }
  orthonormalise(rows.data(), rank, dim, stride);
  for (std::uint32_t i = 0; i < rank * dim; ++i) ASSERT_EQ(rows[i / dim * stride + i % dim], expected[i]) << i;
  for (std::uint32_t r = 0; r < rank; ++r) EXPECT_EQ(rows[r * stride + dim], 0) << "what lies between rows was written";
  EXPECT_NEAR(dot_of_eight(rows.data(), &rows[20 * stride], dim), 0, 1e-14);
}

TEST(SumKernels, WeightedRowsAreAddedOneAfterTheOther) {
  constexpr std::uint32_t n = 5, n_sums = 6, dim = 64 + 16 + 8 + 3;  // whole tiles and what is left of them, of every width
  constexpr std::size_t stride = dim + 2;
  std::vector<float> rows(n * stride);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = generate::normal_component(3, Stream::query, 1, static_cast<std::uint32_t>(i), 1, 0);
  double shrinks[n_sums * n], weights[n_sums * n];
  for (std::uint32_t i = 0; i < n_sums * n; ++i) {
    shrinks[i] = i % 2 == 0 ? 1.0 : 0.1 * (i % 7);
    weights[i] = 1.0 / (i % 5 + 1);
  }
  std::vector<double> out(n_sums * dim + 1, 2.5), expected = out;
  add_weighted_rows(rows.data(), stride, n, shrinks, weights, n_sums, dim, out.data());
  for (std::uint32_t s = 0; s < n_sums; ++s) {
    for (std::uint32_t i = 0; i < n; ++i) {
      for (std::uint32_t c = 0; c < dim; ++c) {
        const double shrunk = expected[s * dim + c] * shrinks[s * n + i];
        expected[s * dim + c] = shrunk + weights[s * n + i] * static_cast<double>(rows[i * stride + c]);
      }
    }
  }
  EXPECT_EQ(out, expected);
}

}  // namespace
}  // namespace moekv
