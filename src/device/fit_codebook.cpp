// Distances are those of nearest_centroid, in its order of operations; only centroids lie side by side here, so that their loop vectorises.
#include "device/fit_codebook.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "core/rng.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t most_rows = 4096;  // 16 for each centroid
constexpr std::uint32_t most_iterations = 12;
constexpr std::uint64_t seeding = 0x70713235;

struct Nearest {
  std::uint32_t centroid;
  float distance;
};

[[gnu::always_inline]] inline Nearest nearest_body(const float* centroids, const float* x, std::uint32_t size) {
  constexpr std::uint32_t n_lanes = 16;
  std::array<float, n_centroids> sums{};
  for (std::uint32_t c = 0; c < size; ++c) {
    const float value = x[c];
    const float* __restrict line = centroids + centroid_index(c, 0);
    for (std::uint32_t k = 0; k < n_centroids; ++k) sums[k] += (value - line[k]) * (value - line[k]);
  }
  std::array<float, n_lanes> lanes;
  std::copy_n(sums.begin(), n_lanes, lanes.begin());
  for (std::uint32_t k = n_lanes; k < n_centroids; k += n_lanes) {
    for (std::uint32_t j = 0; j < n_lanes; ++j) lanes[j] = sums[k + j] < lanes[j] ? sums[k + j] : lanes[j];
  }
  const float least = *std::min_element(lanes.begin(), lanes.end());
  return {static_cast<std::uint32_t>(std::find(sums.begin(), sums.end(), least) - sums.begin()), least};
}

Nearest nearest_baseline(const float* centroids, const float* x, std::uint32_t size) { return nearest_body(centroids, x, size); }
#if defined(__x86_64__)
[[gnu::target("avx2")]] Nearest nearest_avx2(const float* centroids, const float* x, std::uint32_t size) { return nearest_body(centroids, x, size); }
const auto nearest_function = __builtin_cpu_supports("avx2") ? nearest_avx2 : nearest_baseline;
#else
const auto nearest_function = nearest_baseline;
#endif

/// As nearest_centroid, bit for bit: no instruction set fuses products and sums. `centroids` [size][n_centroids].
Nearest find_nearest(const float* centroids, const float* x, std::uint32_t size) { return nearest_function(centroids, x, size); }

/// k-means of the values of one sub-vector.
class KMeans {
 public:
  /// `x` [n][size]; `stream` tells the draws of this sub-vector from those of others.
  KMeans(std::vector<float> x, std::uint32_t size, std::uint32_t stream)
      : x_(std::move(x)), size_(size), n_(x_.size() / size), stream_(stream), centroids_(std::size_t{size} * n_centroids), nearest_(n_) {}

  /// Centroids [size][n_centroids].
  const std::vector<float>& run() {
    seed();
    for (std::uint32_t i = 0; i < most_iterations && assign(); ++i) move();
    return centroids_;
  }

 private:
  [[nodiscard]] const float* row(std::size_t i) const { return &x_[i * size_]; }
  void set(std::uint32_t k, const float* x) {
    for (std::uint32_t c = 0; c < size_; ++c) centroids_[centroid_index(c, k)] = x[c];
  }

  /// k-means++: each next centroid is a row, drawn in proportion to its squared distance from those before. When every row is a centroid, the others
  /// are the first one again, which no row is nearer to.
  void seed() {
    std::vector<double> distance(n_, 1.0);
    for (std::uint32_t k = 0; k < n_centroids; ++k) {
      const std::size_t chosen = draw(distance, k);
      set(k, row(chosen == n_ ? first_ : chosen));
      if (k == 0) {
        first_ = chosen;
        std::fill(distance.begin(), distance.end(), std::numeric_limits<double>::infinity());
      }
      for (std::size_t i = 0; chosen < n_ && i < n_; ++i) {
        float sum = 0.0F;
        for (std::uint32_t c = 0; c < size_; ++c) sum += (row(i)[c] - row(chosen)[c]) * (row(i)[c] - row(chosen)[c]);
        distance[i] = std::min(distance[i], static_cast<double>(sum));
      }
    }
  }

  /// A row in proportion to `weight`; n where all are 0.
  [[nodiscard]] std::size_t draw(const std::vector<double>& weight, std::uint32_t k) const {
    double total = 0.0;
    for (const double w : weight) total += w;
    if (total <= 0.0) return n_;
    const double wanted = total * static_cast<double>(uniform_float(draw4(seeding, Stream::codebook, stream_, k, 0).v[0]));
    double sum = 0.0;
    std::size_t last = n_;
    for (std::size_t i = 0; i < n_; ++i) {
      if (weight[i] <= 0.0) continue;
      last = i;
      sum += weight[i];
      if (sum > wanted) break;
    }
    return last;
  }

  /// Gives every row its nearest centroid. False where that changed none.
  bool assign() {
    bool changed = false;
    for (std::size_t i = 0; i < n_; ++i) {
      const Nearest found = find_nearest(centroids_.data(), row(i), size_);
      changed |= first_assignment_ || found.centroid != nearest_[i].centroid;
      nearest_[i] = found;
    }
    first_assignment_ = false;
    return changed;
  }

  /// Moves centroids to the means of their rows; one without rows goes where the worst served row is.
  void move() {
    std::vector<double> sum(centroids_.size());
    std::array<std::uint32_t, n_centroids> count{};
    for (std::size_t i = 0; i < n_; ++i) {
      const std::uint32_t k = nearest_[i].centroid;
      ++count[k];
      for (std::uint32_t c = 0; c < size_; ++c) sum[centroid_index(c, k)] += static_cast<double>(row(i)[c]);
    }
    for (std::uint32_t k = 0; k < n_centroids; ++k) {
      if (count[k] > 0) {
        for (std::uint32_t c = 0; c < size_; ++c) centroids_[centroid_index(c, k)] = static_cast<float>(sum[centroid_index(c, k)] / count[k]);
        continue;
      }
      const auto worst =
          std::max_element(nearest_.begin(), nearest_.end(), [](const Nearest& a, const Nearest& b) { return a.distance < b.distance; });
      if (worst->distance <= 0.0F) continue;
      set(k, row(static_cast<std::size_t>(worst - nearest_.begin())));
      worst->distance = 0.0F;
    }
  }

  std::vector<float> x_;
  std::uint32_t size_;
  std::size_t n_;
  std::uint32_t stream_;
  std::vector<float> centroids_;
  std::vector<Nearest> nearest_;  // of every row
  std::size_t first_ = 0;
  bool first_assignment_ = true;
};

}  // namespace

void fit_codebook(const float* x, std::uint32_t n, std::uint32_t d, std::uint32_t m, std::byte* table) {
  const std::uint32_t taken = std::min(n, most_rows);
  for (std::uint32_t i = 0; i < m; ++i) {
    const std::uint32_t begin = subvector_begin(i, d, m), size = subvector_begin(i + 1, d, m) - begin;
    std::vector<float> rows;
    for (std::uint64_t t = 0; t < taken; ++t) {
      const float* row = x + t * n / taken * d + begin;
      std::transform(row, row + size, std::back_inserter(rows), to_codebook_range);
    }
    KMeans k_means(std::move(rows), size, i);
    const std::vector<float>& centroids = k_means.run();
    for (std::size_t j = 0; j < centroids.size(); ++j) store_u16(table + 2 * (centroid_index(begin, 0) + j), fp16_from_float(centroids[j]));
  }
}

void find_centroids(const MapView& map, const float* x, std::uint32_t n, float* z) {
  std::vector<float> centroids(centroid_index(map.d, 0)), row(map.d);
  for (std::uint32_t c = 0; c < map.d; ++c) {
    for (std::uint32_t k = 0; k < n_centroids; ++k) centroids[centroid_index(c, k)] = detail::centroid(map, c, k);
  }
  for (std::uint32_t t = 0; t < n; ++t, x += map.d, z += map.width) {
    std::transform(x, x + map.d, row.begin(), to_codebook_range);
    for (std::uint32_t i = 0; i < map.width; ++i) {
      const std::uint32_t begin = subvector_begin(i, map.d, map.width), size = subvector_begin(i + 1, map.d, map.width) - begin;
      z[i] = static_cast<float>(find_nearest(&centroids[centroid_index(begin, 0)], &row[begin], size).centroid);
    }
  }
}

}  // namespace moekv
