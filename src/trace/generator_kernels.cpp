// Inner loops of the generator over floats, one body each for several instruction sets (instruction_sets.hpp).
#include "trace/generator_kernels.hpp"

#include "rules/generate.hpp"
#include "trace/instruction_sets.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t quads_per_pass = 64;
template <std::size_t Bytes>
constexpr std::uint32_t row_tile = Bytes == 64 ? 8 : 4;  // as many sums at once as hide the time of an addition
constexpr std::uint32_t wide_tile = 4 * map_column_tile;  // columns of a single row: less of a line of the map is read at a time with fewer

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

/// A tile of Rows x Columns outputs, kept in registers over the whole sum.
template <std::size_t Bytes, std::uint32_t Rows, std::uint32_t Columns>
[[gnu::always_inline]] inline void map_tile(const MapProduct& p, std::uint32_t row, std::uint32_t column) {
  using Lanes = typename Vector<float, Bytes>::Type;
  constexpr std::uint32_t n = Columns / Vector<float, Bytes>::lanes;
  Lanes sums[Rows][n] = {};
  const float* x = p.x + static_cast<std::size_t>(row) * p.x_stride;
  for (std::uint32_t i = 0; i < p.rank; ++i) {
    const auto* weights = reinterpret_cast<const Lanes*>(p.map + static_cast<std::size_t>(i) * p.n_columns + column);
    for (std::uint32_t r = 0; r < Rows; ++r) {
      for (std::uint32_t v = 0; v < n; ++v) sums[r][v] += weights[v] * x[static_cast<std::size_t>(r) * p.x_stride + i];
    }
  }
  for (std::uint32_t r = 0; r < Rows; ++r) {
    auto* out = reinterpret_cast<Lanes*>(p.out + static_cast<std::size_t>(row + r) * p.n_columns + column);
    for (std::uint32_t v = 0; v < n; ++v) out[v] = sums[r][v];
  }
}

template <std::size_t Bytes>
[[gnu::always_inline]] inline void map_body(const MapProduct& p) {
  constexpr std::uint32_t at_once = row_tile<Bytes>;
  const std::uint32_t whole = p.n_rows / at_once * at_once;
  for (std::uint32_t column = 0; column < p.n_columns; column += map_column_tile) {
    for (std::uint32_t row = 0; row < whole; row += at_once) map_tile<Bytes, at_once, map_column_tile>(p, row, column);
  }
  for (std::uint32_t row = whole; row < p.n_rows; ++row) {
    std::uint32_t column = 0;
    for (; column + wide_tile <= p.n_columns; column += wide_tile) map_tile<Bytes, 1, wide_tile>(p, row, column);
    for (; column < p.n_columns; column += map_column_tile) map_tile<Bytes, 1, map_column_tile>(p, row, column);
  }
}

struct QueryRow {
  const float *noise, *target, *gain, *expert;
  float scale;
  std::uint32_t dim;
  float* out;
};

template <bool has_target, bool has_expert>
[[gnu::always_inline]] inline void query_loop(const QueryRow& row) {
  const float* __restrict noise = row.noise;
  const float* __restrict target = row.target;
  const float* __restrict gain = row.gain;
  const float* __restrict expert = row.expert;
  float* __restrict out = row.out;
  const float scale = row.scale;
  for (std::uint32_t c = 0; c < row.dim; ++c)
    out[c] = generate::query_value(has_target, noise[c], has_target ? target[c] : 0.0F, gain[c], has_expert ? expert[c] : 0.0F, scale);
}
[[gnu::always_inline]] inline void query_body(const QueryRow& row) {
  if (row.target != nullptr) return row.expert != nullptr ? query_loop<true, true>(row) : query_loop<true, false>(row);
  return row.expert != nullptr ? query_loop<false, true>(row) : query_loop<false, false>(row);
}

struct Race {
  std::uint64_t key;
  const float* p;
  std::uint32_t n;
  float* out;
};

[[gnu::always_inline]] inline void race_body(const Race& race) {
  constexpr std::uint32_t per_pass = 128;
  std::uint32_t words[per_pass];
  for (std::uint32_t first = 0; first < race.n; first += per_pass) {
    const std::uint32_t count = race.n - first < per_pass ? race.n - first : per_pass;
    for (std::uint32_t j = 0; j < (count + 1) / 2; ++j) {
      const std::uint64_t word = mix64(race.key + first + std::uint64_t{2} * j);
      words[2 * j] = static_cast<std::uint32_t>(word);
      words[2 * j + 1] = static_cast<std::uint32_t>(word >> 32);
    }
    const float* __restrict p = race.p + first;
    float* __restrict out = race.out + first;
    // NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): the loop above has set as many words, rounded up to pairs
    for (std::uint32_t e = 0; e < count; ++e) out[e] = p[e] / (1e-12F - log_fixed(uniform_open(words[e])));
  }
}

// Flattened: a loop that calls draw4 or normal_pair instead of holding them does not vectorise, and takes four times as long.
[[gnu::flatten]] void draw_baseline(const RowOfNormals& row) { draw_body(row); }
void map_baseline(const MapProduct& p) { map_body<16>(p); }
[[gnu::flatten]] void query_baseline(const QueryRow& row) { query_body(row); }
[[gnu::flatten]] void race_baseline(const Race& race) { race_body(race); }

/// The loops for one instruction set.
struct Loops {
  void (*draw)(const RowOfNormals&);
  void (*map)(const MapProduct&);
  void (*query)(const QueryRow&);
  void (*race)(const Race&);
};
constexpr Loops baseline{draw_baseline, map_baseline, query_baseline, race_baseline};

#if defined(__x86_64__)
[[gnu::flatten, gnu::target("avx2")]] void draw_avx2(const RowOfNormals& row) { draw_body(row); }
[[gnu::target("avx2")]] void map_avx2(const MapProduct& p) { map_body<32>(p); }
[[gnu::flatten, gnu::target("avx2")]] void query_avx2(const QueryRow& row) { query_body(row); }
[[gnu::flatten, gnu::target("avx2")]] void race_avx2(const Race& race) { race_body(race); }
[[gnu::flatten, gnu::target("arch=x86-64-v4")]] void draw_avx512(const RowOfNormals& row) { draw_body(row); }
[[gnu::target("arch=x86-64-v4")]] void map_avx512(const MapProduct& p) { map_body<64>(p); }
[[gnu::flatten, gnu::target("arch=x86-64-v4")]] void query_avx512(const QueryRow& row) { query_body(row); }
[[gnu::flatten, gnu::target("arch=x86-64-v4")]] void race_avx512(const Race& race) { race_body(race); }
constexpr Loops avx2{draw_avx2, map_avx2, query_avx2, race_avx2};
constexpr Loops avx512{draw_avx512, map_avx512, query_avx512, race_avx512};

const Loops& loops = pick_loops(baseline, avx2, avx512);
#else
const Loops& loops = baseline;
#endif

}  // namespace

void draw_normal_row(std::uint64_t seed, Stream stream, std::uint32_t a, std::uint32_t b, std::uint32_t n_quads, float* out) {
  loops.draw({seed, stream, a, b, n_quads, out});
}

void map_rows(const float* x, std::uint32_t x_stride, std::uint32_t n_rows, std::uint32_t rank, const float* map, std::uint32_t n_columns,
              float* out) {
  loops.map({x, x_stride, n_rows, rank, map, n_columns, out});
}

void query_row(const float* noise, const float* target, const float* gain, const float* expert, float scale, std::uint32_t dim, float* out) {
  loops.query({noise, target, gain, expert, scale, dim, out});
}

void race_keys(std::uint64_t key, const float* p, std::uint32_t n, float* out) { loops.race({key, p, n, out}); }

}  // namespace moekv
