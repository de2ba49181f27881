// Budget allocators (eviction.md sections 2.7, 2.8, 4.3): how a total of n groups x budget units is shared over groups (heads or layers).
// Every allocator apportions by largest remainder, so the shares sum exactly to the total.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string_view>
#include <tuple>
#include <variant>
#include <vector>

#include "core/field.hpp"

namespace moekv::allocate {

/// Integer parts of `wanted`, the rest of `total` to the largest remainders (ties: lowest index). `wanted` sums to about `total`.
[[nodiscard]] inline std::vector<std::uint64_t> by_largest_remainder(const std::vector<double>& wanted, std::uint64_t total) {
  std::vector<std::uint64_t> out(wanted.size());
  std::vector<std::size_t> order(wanted.size());
  std::iota(order.begin(), order.end(), 0);
  std::uint64_t given = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    out[i] = std::min(static_cast<std::uint64_t>(std::floor(std::max(0.0, wanted[i]) + 1e-9)), total - given);
    given += out[i];
  }
  const auto remainder = [&](std::size_t i) { return wanted[i] - static_cast<double>(out[i]); };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return remainder(a) > remainder(b) + 1e-9; });
  for (std::size_t i = 0; given < total; i = (i + 1) % order.size(), ++given) out[order[i]] += 1;
  return out;
}

/// What an allocator sees: scores[group][units] (or one number a group), budget per group.
struct Request {
  std::vector<std::vector<double>> scores;
  std::uint64_t budget = 0;
  [[nodiscard]] std::uint64_t total() const { return budget * scores.size(); }
};

struct Uniform {
  static constexpr std::string_view name = "uniform";
  static constexpr std::string_view doc = "the same for every group";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] std::vector<std::uint64_t> capacity(const Request& r) const { return std::vector<std::uint64_t>(r.scores.size(), r.budget); }
};

/// PyramidKV: arithmetic from the first layer to the last; min = b / beta, max = 2 b - min.
struct Pyramid {
  static constexpr std::string_view name = "pyramid";
  static constexpr std::string_view doc = "PyramidKV: falls linearly from the first layer to budget / beta at the last";
  double beta = 20;
  static constexpr auto params = std::tuple{Param{"beta", &Pyramid::beta, "1", "mean over smallest share", 1, 1e6}};
  [[nodiscard]] std::vector<std::uint64_t> capacity(const Request& r) const {
    const std::size_t n = r.scores.size();
    const auto mean = static_cast<double>(r.budget);
    double low = mean / beta, high = 2 * mean - low;
    std::size_t most = 0;  // no layer gets more than it has units, where units are given
    for (const auto& s : r.scores) most = std::max(most, s.size());
    if (most > 1 && high >= static_cast<double>(most)) {
      high = static_cast<double>(most);
      low = 2 * mean - high;
    }
    std::vector<double> wanted(n);
    for (std::size_t l = 0; l < n; ++l) wanted[l] = n > 1 ? high - static_cast<double>(l) * (high - low) / static_cast<double>(n - 1) : mean;
    return by_largest_remainder(wanted, r.total());
  }
};

/// Winners of each group among the total best scores; ties: lowest group, then lowest unit.
[[nodiscard]] inline std::vector<double> winners(const Request& r) {
  std::vector<std::pair<double, std::size_t>> all;
  for (std::size_t g = 0; g < r.scores.size(); ++g) {
    for (const double s : r.scores[g]) all.emplace_back(s, g);
  }
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<double> count(r.scores.size(), 0.0);
  for (std::size_t i = 0; i < all.size() && i < r.total(); ++i) count[all[i].second] += 1;
  return count;
}

/// Ada-KV: winners of a global choice, with a floor of alpha times the mean.
struct Ada {
  static constexpr std::string_view name = "ada";
  static constexpr std::string_view doc = "Ada-KV: share of the globally best units, floor alpha of the mean";
  double alpha = 0.2;
  static constexpr auto params = std::tuple{Param{"alpha", &Ada::alpha, "1", "floor as a share of the mean budget", 0, 1}};
  [[nodiscard]] std::vector<std::uint64_t> capacity(const Request& r) const {
    std::vector<double> wanted = winners(r);
    for (double& w : wanted) w = w * (1 - alpha) + alpha * static_cast<double>(r.budget);
    return by_largest_remainder(wanted, r.total());
  }
};

struct Pooled {
  static constexpr std::string_view name = "pooled";
  static constexpr std::string_view doc = "share of the globally best units (ada without a floor)";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] std::vector<std::uint64_t> capacity(const Request& r) const { return by_largest_remainder(winners(r), r.total()); }
};

/// CAKE: proportional to a preference per layer (entropy^(1/tau1) variance^(1/tau2), made by the caller; the sum of a row here).
struct Cake {
  static constexpr std::string_view name = "cake";
  static constexpr std::string_view doc = "CAKE: proportional to the layers' preferences";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] std::vector<std::uint64_t> capacity(const Request& r) const {
    std::vector<double> wanted;
    for (const auto& row : r.scores) wanted.push_back(std::accumulate(row.begin(), row.end(), 0.0));
    const double sum = std::accumulate(wanted.begin(), wanted.end(), 0.0);
    for (double& w : wanted) w = sum > 0 ? w / sum * static_cast<double>(r.total()) : static_cast<double>(r.budget);
    return by_largest_remainder(wanted, r.total());
  }
};

}  // namespace moekv::allocate

namespace moekv {

using Allocator = std::variant<allocate::Uniform, allocate::Pyramid, allocate::Ada, allocate::Pooled, allocate::Cake>;

}  // namespace moekv
