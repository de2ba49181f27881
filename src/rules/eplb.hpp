// DeepSeek's EPLB: replicates the experts of most load and packs replicas on GPUs so that loads are even; pure functions of load counts.
#pragma once

#include <array>
#include <cstdint>

#include "core/hd.hpp"

namespace moekv {

/// Limit of replicas of one layer.
inline constexpr std::uint32_t max_replicas = 4096;

struct EplbShape {
  std::uint32_t n_experts = 1;   // logical experts
  std::uint32_t n_replicas = 1;  // physical experts, n_experts or more
  std::uint32_t n_groups = 1;    // groups of experts that a node should keep together
  std::uint32_t n_nodes = 1;
  std::uint32_t n_gpus = 1;
};

/// Why a shape has no plan, or null.
[[nodiscard]] constexpr const char* eplb_refusal(const EplbShape& s) {
  if (s.n_replicas < s.n_experts) return "there are fewer replicas than experts";
  if (s.n_replicas > max_replicas) return "there are more than 4096 replicas";
  if (s.n_gpus == 0 || s.n_replicas % s.n_gpus != 0) return "the GPUs do not divide the replicas";
  if (s.n_nodes == 0 || s.n_gpus % s.n_nodes != 0) return "the nodes do not divide the GPUs";
  if (s.n_groups == 0 || s.n_experts % s.n_groups != 0) return "the groups do not divide the experts";
  return nullptr;
}

namespace eplb {

using Order = std::array<std::uint16_t, max_replicas>;

/// Puts n items into n_packs packs of n / n_packs: heaviest first, each to the lightest pack with room; ties to the lowest index.
/// place[i] = pack of i times the size of a pack + rank inside it. One item a pack: the identity.
inline void pack_evenly(const double* weight, std::uint32_t n, std::uint32_t n_packs, std::uint16_t* place) {
  const std::uint32_t size = n / n_packs;
  Order order;
  for (std::uint32_t i = 0; i < n; ++i) {
    std::uint32_t at = i;
    for (; size > 1 && at > 0 && weight[order[at - 1]] < weight[i]; --at) order[at] = order[at - 1];
    order[at] = static_cast<std::uint16_t>(i);
  }
  std::array<double, max_replicas> load;
  std::array<std::uint16_t, max_replicas> count;
  for (std::uint32_t p = 0; p < n_packs; ++p) {
    load[p] = 0;
    count[p] = 0;
  }
  for (std::uint32_t i = 0; i < n; ++i) {
    std::uint32_t best = size > 1 ? n_packs : i;
    for (std::uint32_t p = 0; size > 1 && p < n_packs; ++p) {
      if (count[p] < size && (best == n_packs || load[p] < load[best])) best = p;
    }
    place[order[i]] = static_cast<std::uint16_t>(best * size + count[best]);
    load[best] += weight[order[i]];
    count[best] += 1;
  }
}

/// One replica of each of n experts, then again and again one of the expert with most load per replica; ties to the lowest expert.
/// expert[i] of replica i, copies[e] of expert e.
inline void replicate(const double* weight, std::uint32_t n, std::uint32_t n_replicas, std::uint16_t* expert, std::uint16_t* copies) {
  for (std::uint32_t e = 0; e < n; ++e) {
    expert[e] = static_cast<std::uint16_t>(e);
    copies[e] = 1;
  }
  for (std::uint32_t i = n; i < n_replicas; ++i) {
    std::uint32_t most = 0;
    for (std::uint32_t e = 1; e < n; ++e) {
      if (weight[e] / copies[e] > weight[most] / copies[most]) most = e;
    }
    expert[i] = static_cast<std::uint16_t>(most);
    copies[most] += 1;
  }
}

}  // namespace eplb

/// Expert of each physical slot, slots of a GPU side by side: physical_to_logical [n_replicas]. Groups are packed on nodes by load, experts
/// replicated inside their node, replicas packed on the node's GPUs. Nodes that do not divide the groups: all is one group on one node.
/// `load` is [n_experts], >= 0; eplb_refusal(shape) must be null.
inline void plan_eplb(const EplbShape& shape, const double* load, std::uint16_t* physical_to_logical) {
  const bool by_node = shape.n_groups % shape.n_nodes == 0;
  const std::uint32_t n_groups = by_node ? shape.n_groups : 1, n_nodes = by_node ? shape.n_nodes : 1;
  const std::uint32_t group_size = shape.n_experts / n_groups, node_experts = shape.n_experts / n_nodes, node_replicas = shape.n_replicas / n_nodes;
  std::array<double, max_replicas> weight;
  for (std::uint32_t g = 0; g < n_groups; ++g) {
    weight[g] = 0;
    for (std::uint32_t e = g * group_size; e < (g + 1) * group_size; ++e) weight[g] += load[e];
  }
  eplb::Order place, logical, expert, copies;
  eplb::pack_evenly(weight.data(), n_groups, n_nodes, place.data());
  for (std::uint32_t e = 0; e < shape.n_experts; ++e) {  // experts in the order of their groups' places
    logical[place[e / group_size] * group_size + e % group_size] = static_cast<std::uint16_t>(e);  // NOLINT(clang-analyzer-core.DivideZero)
  }
  for (std::uint32_t node = 0; node < n_nodes; ++node) {
    const std::uint16_t* own = &logical[node * node_experts];
    for (std::uint32_t e = 0; e < node_experts; ++e) weight[e] = load[own[e]];
    eplb::replicate(weight.data(), node_experts, node_replicas, expert.data(), copies.data());
    std::array<double, max_replicas> share;
    for (std::uint32_t i = 0; i < node_replicas; ++i) share[i] = weight[expert[i]] / copies[expert[i]];
    eplb::pack_evenly(share.data(), node_replicas, shape.n_gpus / n_nodes, place.data());
    for (std::uint32_t i = 0; i < node_replicas; ++i) physical_to_logical[node * node_replicas + place[i]] = own[expert[i]];
  }
}

/// FasterMoE's rule of shadowing: what a step costs when the n experts of most load are copied to all workers, n = 0.. while it falls.
struct ShadowCost {
  double bandwidth = 6.25e9;  // byte/s
  double flops = 11.5e12;     // 1/s
  double alpha = 2.0;         // hidden width of an expert over d
  double d = 2048.0;

  /// Seconds with n shadows when the largest load that stays is `load` tokens: (3 comp + 4 feat) load + n copy.
  [[nodiscard]] constexpr double seconds(double load, std::uint32_t n) const {
    const double comp = 4.0 * alpha * d * d / flops, feat = d * 4.0 / bandwidth, copy = 2.0 * (alpha * d * d) * 4.0 / bandwidth;
    return (3.0 * comp + 4.0 * feat) * load + n * copy;
  }
};

/// The experts to shadow, most load first, ties to the lowest: the next one is added while the cost falls. `order` [n_experts] takes them first (and
/// the others behind them), `seconds` [n_experts + 1] the cost without any and with each; null: not wanted. Returns how many.
inline std::uint32_t plan_shadows(const ShadowCost& cost, const double* load, std::uint32_t n_experts, std::uint16_t* order, double* seconds) {
  for (std::uint32_t e = 0; e < n_experts; ++e) {
    std::uint32_t at = e;
    for (; at > 0 && load[order[at - 1]] < load[e]; --at) order[at] = order[at - 1];
    order[at] = static_cast<std::uint16_t>(e);
  }
  double least = cost.seconds(load[order[0]], 0);
  if (seconds != nullptr) seconds[0] = least;
  for (std::uint32_t n = 1; n <= n_experts; ++n) {
    const double next = cost.seconds(n < n_experts ? load[order[n]] : 0.0, n);
    if (!(next < least)) return n - 1;
    least = next;
    if (seconds != nullptr) seconds[n] = next;
  }
  return n_experts;
}

}  // namespace moekv
