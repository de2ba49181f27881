// Budget allocators (eviction.md sections 2.7, 2.8, 4.3): how lists of entries that share a budget (head groups, layers) divide it.
// Every allocator apportions integers, so capacities sum exactly to what equal shares sum to.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string_view>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "core/field.hpp"
#include "core/math.hpp"
#include "engine/apportion.hpp"

namespace moekv::allocate {

/// When capacities are made: from lengths and files when a request starts; once, with the first eviction after its prompt; with every eviction.
enum class When : std::uint8_t { start, first_eviction, eviction };
/// Which lists of a (request, shard) share a budget: the head groups of a layer, or those of all layers.
enum class Over : std::uint8_t { heads, layers };
constexpr auto enum_names(Over) { return std::array<std::string_view, 2>{"heads", "layers"}; }

struct Uniform {
  static constexpr std::string_view name = "uniform";
  static constexpr std::string_view doc = "every layer and head group has the same share";
  static constexpr When when = When::start;
  static constexpr Over over = Over::layers;
  static constexpr auto params = std::tuple{};
  [[nodiscard]] Shares capacity(const Request& r) const { return equal_shares(r); }
};

/// PyramidKV: arithmetic from the first layer to the last; min = mean / beta, max = 2 mean - min, and no layer more than there is.
struct Pyramid {
  static constexpr std::string_view name = "pyramid";
  static constexpr std::string_view doc =
      "PyramidKV: over layers, falls linearly from the first to mean / beta at the last; equal where there are fewer tokens than twice the mean";
  static constexpr When when = When::start;
  static constexpr Over over = Over::layers;
  double beta = 20;
  static constexpr auto params = std::tuple{Param{"beta", &Pyramid::beta, "1", "mean over smallest share", 1, 1e6}};
  [[nodiscard]] Shares capacity(const Request& r) const {
    const std::size_t n = r.n_groups();
    const double mean = r.mean();
    double low = mean / beta, high = 2 * mean - low;
    if (!r.held.empty()) {
      const auto most = static_cast<double>(*std::max_element(r.held.begin(), r.held.end()));
      if (most <= mean || most + static_cast<double>(r.window) < 2 * mean) return equal_shares(r);
      high = std::min(high, most);
      low = 2 * mean - high;
    }
    std::vector<double> wanted(n, mean);
    for (std::size_t l = 0; n > 1 && l < n; ++l) wanted[l] = high - static_cast<double>(l) * (high - low) / static_cast<double>(n - 1);
    return by_largest_remainder(wanted, r.total);
  }
};

/// Feng et al. 2024: winners of the joint choice times 1 - alpha, and alpha times the mean.
struct Ada {
  static constexpr std::string_view name = "ada";
  static constexpr std::string_view doc = "Ada-KV: over head groups, their part of the jointly best units times 1 - alpha + alpha of the mean";
  static constexpr When when = When::first_eviction;
  static constexpr Over over = Over::heads;
  static constexpr bool reads_scores = true;
  double alpha = 0.2;
  static constexpr auto params = std::tuple{Param{"alpha", &Ada::alpha, "1", "part of the mean share that every head group has", 0, 1}};
  [[nodiscard]] Shares capacity(const Request& r) const {
    std::vector<double> wanted = winners(r);
    for (double& w : wanted) w = w * (1 - alpha) + alpha * r.mean();
    return by_largest_remainder(wanted, r.total);
  }
};

/// One budget for all: KVzip's choice over layers, kvpress's form of Ada-KV (floor 0.2 over heads).
struct Pooled {
  static constexpr std::string_view name = "pooled";
  static constexpr std::string_view doc = "one joint budget: the best units stay wherever they are";
  static constexpr When when = When::eviction;
  static constexpr bool reads_scores = true;
  Over over = Over::heads;
  double floor = 0;
  static constexpr auto params = std::tuple{Param{"over", &Pooled::over, "", "who competes: the head groups of a layer, or those of all layers"},
                                            Param{"floor", &Pooled::floor, "1", "part of the mean share that no list falls below", 0, 1}};
  [[nodiscard]] Shares capacity(const Request& r) const { return by_largest_remainder(winners(r, floor), r.total); }
};

/// Qin et al. 2025: in proportion to entropy^(1/tau1) variance^(1/tau2) of the attention of the prompt's last queries, layer by layer. What the
/// cascade over layers leads to; what a layer does not hold is spread over the others.
struct Cake {
  static constexpr std::string_view name = "cake";
  static constexpr std::string_view doc = "CAKE: over layers, by entropy and temporal variance of the attention of the prompt's last queries";
  static constexpr When when = When::first_eviction;
  static constexpr Over over = Over::layers;
  static constexpr bool needs_mass = true;
  double tau1 = 1, tau2 = 1;
  std::uint32_t window = 32;
  static constexpr auto params = std::tuple{Param{"tau1", &Cake::tau1, "1", "root of the entropy (published per model, 0.4 to 2.3)", 1e-2, 1e3},
                                            Param{"tau2", &Cake::tau2, "1", "root of the variance (published per model)", 1e-2, 1e3},
                                            Param{"window", &Cake::window, "tokens", "last queries of a prompt", 2, 1e6}};
  /// entropy^(1/tau1) variance^(1/tau2), the largest scaled to 1; 0 where one of them is.
  [[nodiscard]] std::vector<double> preferences(const std::vector<double>& entropy, const std::vector<double>& variance) const {
    std::vector<double> exponent(entropy.size()), out(entropy.size(), 0.0);
    const auto some = [&](std::size_t l) { return entropy[l] >= 1e-30 && variance[l] >= 1e-30; };
    double most = -1e300;
    for (std::size_t l = 0; l < entropy.size(); ++l) {
      if (!some(l)) continue;
      exponent[l] = static_cast<double>(log_fixed(static_cast<float>(entropy[l]))) / tau1 +
                    static_cast<double>(log_fixed(static_cast<float>(variance[l]))) / tau2;
      most = std::max(most, exponent[l]);
    }
    for (std::size_t l = 0; l < entropy.size(); ++l) {
      if (some(l)) out[l] = static_cast<double>(exp_fixed(static_cast<float>(exponent[l] - most)));
    }
    return out;
  }
  /// `scores`: the preference of each group (the sum of its row).
  [[nodiscard]] Shares capacity(const Request& r) const {
    std::vector<double> wanted;
    for (const auto& row : r.scores) wanted.push_back(std::accumulate(row.begin(), row.end(), 0.0));
    Shares out = proportional(std::move(wanted), r.total);
    for (bool more = !r.held.empty(); more;) {
      std::uint64_t excess = 0;
      std::vector<std::size_t> open;
      for (std::size_t g = 0; g < out.size(); ++g) {
        if (out[g] < r.held[g]) open.push_back(g);
        excess += out[g] - std::min(out[g], r.held[g]);
        out[g] = std::min(out[g], r.held[g]);
      }
      more = excess > 0 && !open.empty();
      if (excess > 0) add_equally(out, open.empty() ? all_groups(out.size()) : open, excess);
    }
    return out;
  }
};

/// Xiao et al. 2024: retrieval heads keep all that the budget holds, streaming heads sinks and a window.
struct Duo {
  static constexpr std::string_view name = "duo";
  static constexpr std::string_view doc =
      "DuoAttention: heads with gates below the quantile keep sinks and a window, the others share the rest (budget 100%: keep all)";
  static constexpr When when = When::start;
  static constexpr Over over = Over::layers;
  static constexpr std::string_view table = "gates";
  double sparsity = 0.5;
  std::uint32_t sink = 64, recent = 256;
  static constexpr auto params = std::tuple{Param{"sparsity", &Duo::sparsity, "1", "quantile of the gates below which a head streams", 0, 1},
                                            Param{"sink", &Duo::sink, "tokens", "first tokens that streaming heads keep", 0, 1e9},
                                            Param{"recent", &Duo::recent, "tokens", "last tokens that streaming heads keep", 0, 1e9}};
  /// The quantile of the gates, linear between neighbours.
  [[nodiscard]] double threshold(std::vector<double> gates) const {
    std::sort(gates.begin(), gates.end());
    const double at = sparsity * static_cast<double>(gates.size() - 1);
    const auto low = static_cast<std::size_t>(at);
    const std::size_t high = std::min(low + 1, gates.size() - 1);
    return gates[low] + (at - static_cast<double>(low)) * (gates[high] - gates[low]);
  }
  /// Which of all gates are at or above the quantile, ties to the lower index: as many as if no two were equal.
  [[nodiscard]] std::vector<bool> full(const std::vector<double>& gates) const {
    std::vector<std::size_t> order = all_groups(gates.size());
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return gates[a] > gates[b]; });
    const std::size_t n = gates.size() - static_cast<std::size_t>(std::ceil(sparsity * static_cast<double>(gates.size() - 1) - 1e-9));
    std::vector<bool> out(gates.size(), false);
    for (std::size_t i = 0; i < n; ++i) out[order[i]] = true;
    return out;
  }
  /// `scores`: 1 for a group that retrieves, 0 for one that streams; a streaming group has at most the mean share.
  [[nodiscard]] Shares capacity(const Request& r) const {
    Shares out(r.n_groups());
    std::vector<std::size_t> retrieve;
    std::uint64_t left = r.total;
    for (std::size_t g = 0; g < out.size(); ++g) {
      if (r.scores[g].front() > 0) {
        retrieve.push_back(g);
      } else {
        out[g] = std::min<std::uint64_t>(std::uint64_t{sink} + recent, r.total / out.size());
        left -= out[g];
      }
    }
    add_equally(out, retrieve.empty() ? all_groups(out.size()) : retrieve, left);
    return out;
  }
};

/// Static shares made elsewhere (HeadKV, LU-KV).
struct File {
  static constexpr std::string_view name = "file";
  static constexpr std::string_view doc = "shares or capacities of every layer and head group from a file (HeadKV, LU-KV), scaled to the budget";
  static constexpr When when = When::start;
  static constexpr Over over = Over::layers;
  static constexpr std::string_view table = "shares";
  static constexpr auto params = std::tuple{};
  /// `scores`: the share of each group, on any scale.
  [[nodiscard]] Shares capacity(const Request& r) const {
    std::vector<double> wanted;
    for (const auto& row : r.scores) wanted.push_back(row.front());
    return proportional(std::move(wanted), r.total);
  }
};

template <class Rule>
inline constexpr bool reads_scores = requires {
  requires Rule::reads_scores;
};
template <class Rule>
inline constexpr bool needs_mass = requires {
  requires Rule::needs_mass;
};
template <class Rule>
inline constexpr bool needs_table = requires {
  Rule::table;
};

}  // namespace moekv::allocate

namespace moekv {

using Allocator = std::variant<allocate::Uniform, allocate::Pyramid, allocate::Ada, allocate::Pooled, allocate::Cake, allocate::Duo, allocate::File>;

/// Capacities of groups that have `shares` when divided equally and hold `fixed` units that may not go: each keeps what it must, the rest is
/// divided by the allocator (`request.total` is set here). They sum to the shares' sum. Where what is protected does not fit, the shares stay.
[[nodiscard]] inline allocate::Shares capacities(const Allocator& allocator, allocate::Request request, const allocate::Shares& shares,
                                                 const allocate::Shares& fixed) {
  const auto sum = [](const allocate::Shares& s) { return std::accumulate(s.begin(), s.end(), std::uint64_t{0}); };
  if (sum(fixed) >= sum(shares)) return shares;
  request.total = sum(shares) - sum(fixed);
  allocate::Shares out = std::visit([&](const auto& rule) { return rule.capacity(request); }, allocator);
  for (std::size_t g = 0; g < out.size(); ++g) out[g] += fixed[g];
  return out;
}

}  // namespace moekv
