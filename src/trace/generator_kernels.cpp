// Inner loops of the generator. One body per loop, compiled for the baseline and, on x86-64, for two wider instruction sets; no target
// fuses products and sums (-ffp-contract=off), so all give the same bits.
#include "trace/generator_kernels.hpp"

#include "rules/generate.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t quads_per_pass = 64;
constexpr std::uint32_t row_tile = 4;

struct RowOfNormals {
  std::uint64_t seed;
  Stream stream;
  std::uint32_t a, b, n_quads;
  float* out;
};

[[gnu::always_inline]] inline void draw_body(const RowOfNormals& row) {
  std::uint32_t words[4][quads_per_pass];
  const std::size_t n = row.n_quads;
  for (std::size_t first = 0; first < n; first += quads_per_pass) {
    const std::size_t count = n - first < quads_per_pass ? n - first : quads_per_pass;
    for (std::uint32_t j = 0; j < count; ++j) {
      const Draw4 draw = draw4(row.seed, row.stream, row.a, row.b, static_cast<std::uint32_t>(first) + j);
      for (int w = 0; w < 4; ++w) words[w][j] = draw.v[w];
    }
    for (std::size_t half = 0; half < 2; ++half) {
      float* __restrict cosines = row.out + half * n + first;
      float* __restrict sines = cosines + 2 * n;
      for (std::uint32_t j = 0; j < count; ++j) {
        const auto [c, s] = generate::normal_pair(words[half][j], words[half + 2][j]);
        cosines[j] = c;
        sines[j] = s;
      }
    }
  }
}

struct MapProduct {
  const float* x;
  std::uint32_t x_stride, n_rows, rank;
  const float* map;
  std::uint32_t n_columns;
  float* out;
};

/// A tile of Rows x map_column_tile outputs, kept in registers over the whole sum.
template <std::uint32_t Rows>
[[gnu::always_inline]] inline void map_tile(const MapProduct& p, std::uint32_t row, std::uint32_t column) {
  typedef float Lanes __attribute__((vector_size(map_column_tile * sizeof(float)), aligned(alignof(float)), may_alias));
  Lanes sums[Rows] = {};
  const float* x = p.x + static_cast<std::size_t>(row) * p.x_stride;
  for (std::uint32_t i = 0; i < p.rank; ++i) {
    const Lanes weights = *reinterpret_cast<const Lanes*>(p.map + static_cast<std::size_t>(i) * p.n_columns + column);
    for (std::uint32_t r = 0; r < Rows; ++r) sums[r] += weights * x[static_cast<std::size_t>(r) * p.x_stride + i];
  }
  for (std::uint32_t r = 0; r < Rows; ++r) *reinterpret_cast<Lanes*>(p.out + static_cast<std::size_t>(row + r) * p.n_columns + column) = sums[r];
}

[[gnu::always_inline]] inline void map_body(const MapProduct& p) {
  const std::uint32_t whole = p.n_rows / row_tile * row_tile;
  for (std::uint32_t column = 0; column < p.n_columns; column += map_column_tile) {
    for (std::uint32_t row = 0; row < whole; row += row_tile) map_tile<row_tile>(p, row, column);
    for (std::uint32_t row = whole; row < p.n_rows; ++row) map_tile<1>(p, row, column);
  }
}

// Flattened: a loop that calls draw4 or normal_pair instead of holding them does not vectorise, and takes four times as long.
[[gnu::flatten]] void draw_baseline(const RowOfNormals& row) { draw_body(row); }
void map_baseline(const MapProduct& p) { map_body(p); }
using DrawFunction = void (*)(const RowOfNormals&);
using MapFunction = void (*)(const MapProduct&);

#if defined(__x86_64__)
[[gnu::flatten, gnu::target("avx2")]] void draw_avx2(const RowOfNormals& row) { draw_body(row); }
[[gnu::target("avx2")]] void map_avx2(const MapProduct& p) { map_body(p); }
[[gnu::flatten, gnu::target("arch=x86-64-v4")]] void draw_avx512(const RowOfNormals& row) { draw_body(row); }
[[gnu::target("arch=x86-64-v4")]] void map_avx512(const MapProduct& p) { map_body(p); }

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
}
const DrawFunction draw_function = has_avx512() ? draw_avx512 : __builtin_cpu_supports("avx2") ? draw_avx2 : draw_baseline;
const MapFunction map_function = has_avx512() ? map_avx512 : __builtin_cpu_supports("avx2") ? map_avx2 : map_baseline;
#else
const DrawFunction draw_function = draw_baseline;
const MapFunction map_function = map_baseline;
#endif

}  // namespace

void draw_normal_row(std::uint64_t seed, Stream stream, std::uint32_t a, std::uint32_t b, std::uint32_t n_quads, float* out) {
  draw_function({seed, stream, a, b, n_quads, out});
}

void map_rows(const float* x, std::uint32_t x_stride, std::uint32_t n_rows, std::uint32_t rank, const float* map, std::uint32_t n_columns,
              float* out) {
  map_function({x, x_stride, n_rows, rank, map, n_columns, out});
}

}  // namespace moekv
