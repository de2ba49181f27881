// Loops over doubles, one body each for several instruction sets (instruction_sets.hpp).
#include "trace/sum_kernels.hpp"

#include <type_traits>
#include <utility>

#include "trace/instruction_sets.hpp"

namespace moekv {
namespace {

struct ColumnSums {
  const double* columns;
  std::uint32_t n;
  const float* x;
  std::size_t stride;
  std::uint32_t n_rows;
  double* out;
};

/// Rows from `first` on, at once so that their sums do not wait for each other.
template <std::size_t Bytes, std::uint32_t Rows>
[[gnu::always_inline]] inline void dot_rows(const ColumnSums& p, std::uint32_t first) {
  using Lanes = typename Vector<double, Bytes>::Type;
  constexpr std::uint32_t n_sums = n_side_by_side / Vector<double, Bytes>::lanes;
  Lanes sums[Rows][n_sums] = {};
  const float* x = p.x + first * p.stride;
  for (std::uint32_t c = 0; c < p.n; ++c) {
    const auto* row = reinterpret_cast<const Lanes*>(p.columns + static_cast<std::size_t>(c) * n_side_by_side);
    for (std::uint32_t r = 0; r < Rows; ++r) {
      const auto factor = static_cast<double>(x[r * p.stride + c]);
      for (std::uint32_t i = 0; i < n_sums; ++i) sums[r][i] += row[i] * factor;
    }
  }
  auto* out = reinterpret_cast<Lanes*>(p.out + static_cast<std::size_t>(first) * n_side_by_side);
  for (std::uint32_t r = 0; r < Rows; ++r) {
    for (std::uint32_t i = 0; i < n_sums; ++i) out[r * n_sums + i] = sums[r][i];
  }
}

template <std::size_t Bytes>
[[gnu::always_inline]] inline void dot_columns_body(const ColumnSums& p) {
  constexpr std::uint32_t at_once = Bytes / 16;  // 8 sums, which fit all registers
  std::uint32_t row = 0;
  for (; row + at_once <= p.n_rows; row += at_once) dot_rows<Bytes, at_once>(p, row);
  for (; row < p.n_rows; ++row) dot_rows<Bytes, 1>(p, row);
}

struct Matrix {
  double* rows;
  std::uint32_t rank, dim;
  std::size_t stride;
};

/// Columns of a matrix in the order in which sums over them run: eight partial sums, the columns behind the last whole eight in the first.
constexpr std::uint32_t n_partial = 8;

/// Calls f with 0 to N - 1 as constants, so that what they index can stay in registers.
template <std::uint32_t N, class F>
[[gnu::always_inline]] inline void each(F&& f) {
  [&]<std::uint32_t... I>(std::integer_sequence<std::uint32_t, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<std::uint32_t, I>()), ...);
  }
  (std::make_integer_sequence<std::uint32_t, N>());
}

/// Some rows at once, so that their sums do not wait for each other: takes out `shares` of row `from` (none where it is null), and returns in
/// `shares` those along row `next`, of the rows as they are then (each along itself where it is null).
template <std::size_t Bytes, std::uint32_t Rows>
[[gnu::always_inline]] inline void take_out(double* const (&rows)[Rows], const double* from, const double* next, std::uint32_t dim,
                                            double (&shares)[Rows]) {
  using Lanes = typename Vector<double, Bytes>::Type;
  constexpr std::uint32_t lanes = Vector<double, Bytes>::lanes, n_vectors = n_partial / lanes;
  Lanes sums[Rows * n_vectors] = {};
  double* row_of[Rows];  // copies: a vector that is written may lie anywhere, so what is not local would be read again
  double share[Rows];
  each<Rows>([&](auto r) __attribute__((always_inline)) {
    row_of[r] = rows[r];
    share[r] = shares[r];
  });
  std::uint32_t c = 0;
  for (; c + n_partial <= dim; c += n_partial) {
    each<n_vectors>([&](auto v) __attribute__((always_inline)) {
      const std::uint32_t at = c + v * lanes;
      Lanes row[Rows];
      each<Rows>([&](auto r) __attribute__((always_inline)) { row[r] = *reinterpret_cast<const Lanes*>(row_of[r] + at); });
      if (from != nullptr) {
        const Lanes finished = *reinterpret_cast<const Lanes*>(from + at);
        each<Rows>([&](auto r) __attribute__((always_inline)) { row[r] -= finished * share[r]; });
        each<Rows>([&](auto r) __attribute__((always_inline)) { *reinterpret_cast<Lanes*>(row_of[r] + at) = row[r]; });
      }
      if (next != nullptr) {
        const Lanes finished = *reinterpret_cast<const Lanes*>(next + at);
        each<Rows>([&](auto r) __attribute__((always_inline)) { sums[r * n_vectors + v] += row[r] * finished; });
      } else {
        each<Rows>([&](auto r) __attribute__((always_inline)) { sums[r * n_vectors + v] += row[r] * row[r]; });
      }
    });
  }
  each<Rows>([&](auto r) __attribute__((always_inline)) {
    double partial[n_partial];
    each<n_vectors>([&](auto v) __attribute__((always_inline)) { *reinterpret_cast<Lanes*>(partial + v * lanes) = sums[r * n_vectors + v]; });
    for (std::uint32_t i = c; i < dim; ++i) {
      if (from != nullptr) row_of[r][i] -= share[r] * from[i];
      partial[0] += row_of[r][i] * (next != nullptr ? next[i] : row_of[r][i]);
    }
    double sum = 0;
    for (const double x : partial) sum += x;
    shares[r] = sum;
  });
}

/// `Rows` rows from `first` on, all before it being finished: they pass those together, each in their order, then each other.
template <std::size_t Bytes, std::uint32_t Rows>
[[gnu::always_inline]] inline void orthonormal_rows(const Matrix& m, std::uint32_t first) {
  double* rows[Rows];
  double shares[Rows] = {};
  const auto row_of = [&](std::uint32_t r) { return m.rows + r * m.stride; };
  for (std::uint32_t r = 0; r < Rows; ++r) rows[r] = row_of(first + r);
  for (std::uint32_t next = 0; next < first; ++next) take_out<Bytes, Rows>(rows, next > 0 ? row_of(next - 1) : nullptr, row_of(next), m.dim, shares);
  for (std::uint32_t r = 0; r < Rows; ++r) {
    double* const row[] = {rows[r]};
    double share[] = {shares[r]};  // along `from`
    const double* from = first > 0 ? row_of(first - 1) : nullptr;
    for (std::uint32_t next = 0; next < r; ++next, from = rows[next - 1]) take_out<Bytes, 1>(row, from, rows[next], m.dim, share);
    take_out<Bytes, 1>(row, from, nullptr, m.dim, share);
    const double norm = __builtin_sqrt(share[0]);
    for (std::uint32_t c = 0; c < m.dim; ++c) row[0][c] /= norm;
  }
}

template <std::size_t Bytes>
[[gnu::always_inline]] inline void orthonormal_body(const Matrix& m) {
  constexpr std::uint32_t at_once = Bytes == 64 ? 8 : 4;
  std::uint32_t first = 0;
  for (; first + at_once <= m.rank; first += at_once) orthonormal_rows<Bytes, at_once>(m, first);
  for (; first < m.rank; ++first) orthonormal_rows<Bytes, 1>(m, first);
}

struct WeightedRows {
  const float* rows;
  std::size_t stride;
  std::uint32_t n;
  const double *shrinks, *weights;
  std::uint32_t n_sums, dim;
  double* out;
};

/// Columns of some sums, kept in registers over all rows; `wide` are those columns of the rows.
template <std::size_t Bytes, std::uint32_t Sums, std::uint32_t Vectors>
[[gnu::always_inline]] inline void weighted_tile(const WeightedRows& p, std::uint32_t first, std::uint32_t column,
                                                 const typename Vector<double, Bytes>::Type (*wide)[Vectors]) {
  using Lanes = typename Vector<double, Bytes>::Type;
  const double* shrinks = p.shrinks + static_cast<std::size_t>(first) * p.n;
  const double* weights = p.weights + static_cast<std::size_t>(first) * p.n;
  double* out = p.out + static_cast<std::size_t>(first) * p.dim + column;
  Lanes sums[Sums][Vectors];
  for (std::uint32_t s = 0; s < Sums; ++s) {
    for (std::uint32_t v = 0; v < Vectors; ++v) sums[s][v] = reinterpret_cast<const Lanes*>(out + static_cast<std::size_t>(s) * p.dim)[v];
  }
  for (std::uint32_t i = 0; i < p.n; ++i) {
    for (std::uint32_t s = 0; s < Sums; ++s) {
      const double shrink = shrinks[static_cast<std::size_t>(s) * p.n + i], weight = weights[static_cast<std::size_t>(s) * p.n + i];
      if (shrink != 1.0) {
        for (std::uint32_t v = 0; v < Vectors; ++v) sums[s][v] *= shrink;
      }
      for (std::uint32_t v = 0; v < Vectors; ++v) sums[s][v] += wide[i][v] * weight;
    }
  }
  for (std::uint32_t s = 0; s < Sums; ++s) {
    for (std::uint32_t v = 0; v < Vectors; ++v) reinterpret_cast<Lanes*>(out + static_cast<std::size_t>(s) * p.dim)[v] = sums[s][v];
  }
}

template <std::size_t Bytes, std::uint32_t Vectors>
[[gnu::always_inline]] inline void weighted_columns(const WeightedRows& p, std::uint32_t column) {
  using Lanes = typename Vector<double, Bytes>::Type;
  using Narrow = typename Vector<float, Bytes / 2>::Type;
  constexpr std::uint32_t at_once = 4;
  Lanes wide[n_side_by_side][Vectors];
  for (std::uint32_t i = 0; i < p.n; ++i) {
    const auto* row = reinterpret_cast<const Narrow*>(p.rows + i * p.stride + column);
    for (std::uint32_t v = 0; v < Vectors; ++v) wide[i][v] = __builtin_convertvector(row[v], Lanes);
  }
  std::uint32_t first = 0;
  for (; first + at_once <= p.n_sums; first += at_once) weighted_tile<Bytes, at_once, Vectors>(p, first, column, wide);
  for (; first < p.n_sums; ++first) weighted_tile<Bytes, 1, Vectors>(p, first, column, wide);
}

template <std::size_t Bytes>
[[gnu::always_inline]] inline void weighted_body(const WeightedRows& p) {
  constexpr std::uint32_t lanes = Vector<double, Bytes>::lanes, vectors = Bytes == 64 ? 4 : 2;
  std::uint32_t column = 0;
  for (; column + vectors * lanes <= p.dim; column += vectors * lanes) weighted_columns<Bytes, vectors>(p, column);
  for (; column + lanes <= p.dim; column += lanes) weighted_columns<Bytes, 1>(p, column);
  for (std::uint32_t s = 0; s < p.n_sums; ++s) {
    for (std::uint32_t c = column; c < p.dim; ++c) {
      double& sum = p.out[static_cast<std::size_t>(s) * p.dim + c];
      for (std::uint32_t i = 0; i < p.n; ++i) {
        const std::size_t at = static_cast<std::size_t>(s) * p.n + i;
        sum = sum * p.shrinks[at] + p.weights[at] * static_cast<double>(p.rows[i * p.stride + c]);
      }
    }
  }
}

/// The loops for one instruction set.
struct Loops {
  void (*columns)(const ColumnSums&);
  void (*orthonormal)(const Matrix&);
  void (*weighted)(const WeightedRows&);
};
void columns_baseline(const ColumnSums& p) { dot_columns_body<16>(p); }
void orthonormal_baseline(const Matrix& m) { orthonormal_body<16>(m); }
void weighted_baseline(const WeightedRows& p) { weighted_body<16>(p); }
constexpr Loops baseline{columns_baseline, orthonormal_baseline, weighted_baseline};

#if defined(__x86_64__)
[[gnu::target("avx2")]] void columns_avx2(const ColumnSums& p) { dot_columns_body<32>(p); }
[[gnu::target("avx2")]] void orthonormal_avx2(const Matrix& m) { orthonormal_body<32>(m); }
[[gnu::target("avx2")]] void weighted_avx2(const WeightedRows& p) { weighted_body<32>(p); }
[[gnu::target("arch=x86-64-v4")]] void columns_avx512(const ColumnSums& p) { dot_columns_body<64>(p); }
[[gnu::target("arch=x86-64-v4")]] void orthonormal_avx512(const Matrix& m) { orthonormal_body<64>(m); }
[[gnu::target("arch=x86-64-v4")]] void weighted_avx512(const WeightedRows& p) { weighted_body<64>(p); }
constexpr Loops avx2{columns_avx2, orthonormal_avx2, weighted_avx2};
constexpr Loops avx512{columns_avx512, orthonormal_avx512, weighted_avx512};
const Loops& sum_loops = pick_loops(baseline, avx2, avx512);
#else
const Loops& sum_loops = baseline;
#endif

}  // namespace

void dot_columns(const double* columns, std::uint32_t n, const float* x, std::size_t stride, std::uint32_t n_rows, double* out) {
  sum_loops.columns({columns, n, x, stride, n_rows, out});
}

void add_weighted_rows(const float* rows, std::size_t stride, std::uint32_t n, const double* shrinks, const double* weights, std::uint32_t n_sums,
                       std::uint32_t dim, double* out) {
  sum_loops.weighted({rows, stride, n, shrinks, weights, n_sums, dim, out});
}

void orthonormalise(double* rows, std::uint32_t rank, std::uint32_t dim, std::size_t stride) { sum_loops.orthonormal({rows, rank, dim, stride}); }

}  // namespace moekv
