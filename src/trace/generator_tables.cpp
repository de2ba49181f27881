// Builds the generator's per-head tables once, off the timed path; see generator_tables.hpp.
#include "trace/generator_tables.hpp"

#include <algorithm>
#include <memory>
#include <utility>

#include "rules/generate.hpp"
#include "trace/generator_kernels.hpp"
#include "trace/sum_kernels.hpp"

namespace moekv {
namespace {

/// Rows of a Gaussian matrix [rank][dim] made orthonormal: uniformly distributed. They begin at cache lines, and an odd number of those apart: rows
/// 4 KiB apart would take each other's places in the cache.
class Basis {
 public:
  Basis(std::uint64_t seed, std::uint32_t rank, std::uint32_t dim)
      : stride_(((dim + line_doubles - 1) / line_doubles | 1) * line_doubles), room_(rank * stride_ + line_doubles) {
    void* at = room_.data();
    std::size_t bytes = room_.size() * sizeof(double);
    first_ = static_cast<double*>(std::align(line_doubles * sizeof(double), rank * stride_ * sizeof(double), at, bytes));
    const std::uint32_t n_quads = (dim + 3) / 4;
    std::vector<float> draws(std::size_t{4} * n_quads);
    for (std::uint32_t r = 0; r < rank; ++r) {
      draw_normal_row(seed, Stream::kv_basis, r, 0, n_quads, draws.data());
      std::copy_n(draws.data(), dim, first_ + r * stride_);
    }
    orthonormalise(first_, rank, dim, stride_);
  }
  [[nodiscard]] const double* row(std::uint32_t r) const { return first_ + r * stride_; }

 private:
  static constexpr std::size_t line_doubles = 8;  // of a cache line
  std::size_t stride_;
  std::vector<double> room_;
  double* first_;
};

/// theta^(1 / n) for theta > 1 by Newton's method: basic arithmetic only, so the same bits everywhere.
double root(double theta, std::uint32_t n) {
  auto y = static_cast<double>(exp_fixed(log_fixed(static_cast<float>(theta)) / static_cast<float>(n)));
  for (int step = 0; step < 4; ++step) {
    double power = 1.0;
    for (std::uint32_t i = 1; i < n; ++i) power *= y;
    y -= (power * y - theta) / (n * power);
  }
  return y;
}

std::vector<float> spectrum_deviations(const PlaneShape& shape) {
  std::vector<float> deviation(shape.rank);
  double sum = 0;
  for (std::uint32_t i = 0; i < shape.rank; ++i) {
    deviation[i] = exp_fixed(static_cast<float>(-shape.spectrum) * log_fixed(static_cast<float>(i + 1)));
    sum += deviation[i];
  }
  for (float& x : deviation) x = sqrt_fixed(static_cast<float>(static_cast<double>(x) * shape.dim / sum));
  return deviation;
}

/// Two slow pairs (from 11/16 of the pairs on, without the sink's) get a large mean of random sign in both channels.
void add_outliers(PlaneMap& map, std::uint64_t seed) {
  const std::uint32_t n_pairs = map.dim / 2;
  const std::uint32_t first = (n_pairs * 11 + 15) / 16;
  if (n_pairs < first + 2) return;
  const std::uint32_t choices = n_pairs - 1 - first;
  const Draw4 draw = draw4(seed, Stream::kv_gain, 1, 0, 0);
  const std::uint32_t pair_a = draw.v[0] % choices;
  const std::uint32_t pair_b = choices > 1 ? (pair_a + 1 + draw.v[1] % (choices - 1)) % choices : pair_a;
  std::uint32_t signs = draw.v[2];
  for (const std::uint32_t pair : {pair_a, pair_b}) {
    for (const std::uint32_t c : {first + pair, first + pair + n_pairs}) {
      map.offset[c] = (signs & 1U) != 0 ? generate::outlier_offset : -generate::outlier_offset;
      map.gain[c] *= generate::outlier_offset / 3.0F;
      signs >>= 1;
    }
    if (choices == 1) break;
  }
}

void set_gains(PlaneMap& map, const PlaneShape& shape, std::uint64_t seed) {
  map.gain.assign(map.dim, 1.0F);
  map.offset.assign(map.dim, 0.0F);
  if (!shape.gains) return;
  const std::uint32_t n_quads = (2 * map.dim + 3) / 4;
  std::vector<float> draws(std::size_t{4} * n_quads);
  draw_normal_row(seed, Stream::kv_gain, 0, 0, n_quads, draws.data());
  for (std::uint32_t c = 0; c < map.dim; ++c) {
    map.gain[c] = exp_fixed(generate::gain_sigma * draws[c]);
    map.offset[c] = generate::offset_share * map.gain[c] * draws[map.dim + c];
  }
  if (shape.tail == ChannelTail::outliers || shape.tail == ChannelTail::outliers_and_bias) add_outliers(map, seed);
  if (shape.tail == ChannelTail::bias || shape.tail == ChannelTail::outliers_and_bias) {
    const std::uint32_t n_pairs = map.dim / 2;
    const std::uint32_t pair = n_pairs < 2 ? 0 : n_pairs - 2;
    map.offset[pair] = generate::bias_offset;
    map.offset[pair + n_pairs] = -generate::bias_offset;
  }
}

}  // namespace

PlaneMap make_plane_map(std::uint64_t seed, const PlaneShape& shape, std::uint32_t layer, std::uint32_t head) {
  PlaneMap map;
  map.latent_seed = hash_words(seed, static_cast<std::uint32_t>(shape.plane), layer, head);
  map.rank = shape.rank;
  map.n_quads = (shape.rank + 3) / 4;
  map.dim = shape.dim;
  map.n_columns = padded_columns(shape.dim);
  map.deviation = spectrum_deviations(shape);
  set_gains(map, shape, map.latent_seed);
  const Basis basis(map.latent_seed, shape.rank, shape.dim);
  map.weights.assign(static_cast<std::size_t>(map.rank) * map.n_columns, 0.0F);
  for (std::uint32_t i = 0; i < map.rank; ++i) {
    for (std::uint32_t c = 0; c < map.dim; ++c)
      map.weights[static_cast<std::size_t>(i) * map.n_columns + c] = static_cast<float>(basis.row(i)[c] * map.gain[c]);
  }
  return map;
}

void request_deviations(const PlaneMap& map, std::uint32_t request, double mix, std::vector<float>& out) {
  out = map.deviation;
  if (!(mix > 0)) return;
  std::vector<std::pair<std::uint64_t, std::uint32_t>> order(map.rank);
  for (std::uint32_t i = 0; i < map.rank; ++i) order[i] = {hash_words(map.latent_seed, request, i), i};
  std::sort(order.begin(), order.end());
  const auto share = static_cast<float>(mix);
  for (std::uint32_t i = 0; i < map.rank; ++i) {
    const float own = map.deviation[i];
    const float other = map.deviation[order[i].second];
    out[i] = sqrt_fixed((1.0F - share) * own * own + share * other * other);
  }
}

std::vector<double> rope_turns(double theta, std::uint32_t dim) {
  const std::uint32_t n_pairs = dim / 2;
  std::vector<double> turns(n_pairs);
  if (n_pairs == 0) return turns;
  const double step = root(theta, n_pairs);
  double turn = 0.15915494309189535;  // 1 / (2 pi)
  for (std::uint32_t i = 0; i < n_pairs; ++i, turn /= step) turns[i] = turn;
  return turns;
}

}  // namespace moekv
