// Integer shares of a budget: equal, in proportion, by the best of all units. What the allocators have in common.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

namespace moekv::allocate {

/// What an allocator divides. A group is a list, or all lists of a layer.
struct Request {
  std::vector<std::vector<double>> scores;   // [groups][units that compete], or one number a group
  std::vector<std::vector<double>> weights;  // budget units of each of them; empty: 1 each
  std::vector<std::uint64_t> held;           // budget units that a group has or can have at most; empty: not known
  std::uint64_t total = 0;                   // to divide, without what is protected
  std::uint64_t window = 0;                  // protected units of a group
  [[nodiscard]] std::size_t n_groups() const { return scores.size(); }
  [[nodiscard]] double mean() const { return static_cast<double>(total) / static_cast<double>(n_groups()); }
};

using Shares = std::vector<std::uint64_t>;

/// Adds `amount` to the groups `to` in equal parts, the first ones first.
inline void add_equally(Shares& shares, const std::vector<std::size_t>& to, std::uint64_t amount) {
  const std::uint64_t n = to.size();
  for (std::size_t i = 0; i < to.size(); ++i) shares[to[i]] += amount / n + (i < amount % n ? 1 : 0);
}

[[nodiscard]] inline std::vector<std::size_t> all_groups(std::size_t n) {
  std::vector<std::size_t> all(n);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

[[nodiscard]] inline Shares equal_shares(const Request& r) {
  Shares out(r.n_groups());
  add_equally(out, all_groups(out.size()), r.total);
  return out;
}

/// Integer parts of `wanted`, the rest of `total` to the largest remainders (ties: lowest index). `wanted` sums to at most about `total`;
/// what is missing to it is first spread equally.
[[nodiscard]] inline Shares by_largest_remainder(const std::vector<double>& wanted, std::uint64_t total) {
  Shares out(wanted.size());
  std::uint64_t given = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    out[i] = std::min(static_cast<std::uint64_t>(std::floor(std::max(0.0, wanted[i]) + 1e-9)), total - given);
    given += out[i];
  }
  std::vector<double> remainder(wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) remainder[i] = wanted[i] - static_cast<double>(out[i]);
  std::vector<std::size_t> order = all_groups(wanted.size());
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return remainder[a] > remainder[b] + 1e-9; });
  add_equally(out, order, total - given);
  return out;
}

/// `total` in proportion to `weights`; equally where all are 0.
[[nodiscard]] inline Shares proportional(std::vector<double> weights, std::uint64_t total) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& w : weights) w = sum > 0 ? w / sum * static_cast<double>(total) : 0.0;
  return by_largest_remainder(weights, total);
}

/// Budget units of each group among the best units of all, as many as the total holds; the best `floor` of the mean share of every group are
/// among them whatever the others hold. Ties: lowest group; equal units of a group are one, so their order is nothing.
[[nodiscard]] inline std::vector<double> winners(const Request& r, double floor = 0.0) {
  struct Unit {
    double score, weight;
    std::size_t group;
  };
  std::vector<Unit> all;
  for (std::size_t g = 0; g < r.n_groups(); ++g) {
    for (std::size_t u = 0; u < r.scores[g].size(); ++u) all.push_back({r.scores[g][u], r.weights.empty() ? 1.0 : r.weights[g][u], g});
  }
  std::stable_sort(all.begin(), all.end(), [](const Unit& a, const Unit& b) { return a.score > b.score; });
  std::vector<double> count(r.n_groups(), 0.0);
  const double sure = std::floor(floor * r.mean() + 1e-9);
  auto left = static_cast<double>(r.total);
  const auto take = [&](Unit& unit, double most) {
    const double taken = std::min({unit.weight, left, most});
    count[unit.group] += taken;
    unit.weight -= taken;
    left -= taken;
  };
  for (Unit& unit : all) take(unit, std::max(0.0, sure - count[unit.group]));
  for (Unit& unit : all) take(unit, left);
  return count;
}

}  // namespace moekv::allocate
