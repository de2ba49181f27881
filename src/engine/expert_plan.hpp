// ExpertPlan: which shards hold each expert of each layer under map eplb, planned from counts of expert load.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "comm/transport.hpp"
#include "engine/run_spec.hpp"
#include "trace/source.hpp"

namespace moekv {

class StateStream;

/// Replicas of expert e at model layer l: shard[first[l n_experts + e] .. first[l n_experts + e + 1]), ascending. A shadowed expert has replicas
/// too, but its entries lie on the home rank of their request, the only rank that reads them: it costs no traffic, and every rank has to hold the
/// expert's parameters.
struct ExpertPlan {
  std::uint32_t n_experts = 0;
  std::vector<std::uint32_t> first;     // [model layers * n_experts + 1]
  std::vector<std::uint32_t> shard;
  std::vector<std::uint8_t> shadowed;   // [model layers * n_experts], empty where nothing is

  void transfer(StateStream& stream);
};

/// Replicas of a layer after defaults: placement.replicas, or the experts rounded up to a multiple of the shards.
[[nodiscard]] inline std::uint32_t replicas_of(const RunSpec& spec, std::uint32_t n_experts, std::uint32_t ranks) {
  const std::uint32_t shards = ranks * spec.cluster.shards_per_rank;
  return spec.placement.replicas > 0 ? spec.placement.replicas : (n_experts + shards - 1) / shards * shards;
}
/// The shape of a layer's plan: a shard stands for a GPU, the gate's groups stay on a node where the nodes divide ranks and groups.
[[nodiscard]] inline EplbShape eplb_shape(const RunSpec& spec, std::uint32_t n_experts, std::uint32_t ranks) {
  const std::uint32_t per_node = spec.cluster.network.ranks_per_node, groups = std::max(1U, spec.model.gate.n_group);
  const bool whole_nodes = ranks > per_node && ranks % per_node == 0;
  return {n_experts, replicas_of(spec, n_experts, ranks), n_experts % groups == 0 ? groups : 1, whole_nodes ? ranks / per_node : 1,
          ranks * spec.cluster.shards_per_rank};
}

/// The first plan of a run with map eplb (null for other maps), from the load that placement.load names: the replayed requests of the trace, those
/// before trace.first_request, a file, or nothing. A layer that stores by the choices of the layer before is planned by their counts. Collective;
/// every process reads its part of the trace and gets the same plan. Throws UserError where there is no load, or it has another shape.
[[nodiscard]] std::shared_ptr<const ExpertPlan> plan_experts(const RunSpec& spec, TraceSource& trace, std::uint32_t ranks, Transport& transport);
/// Cost of shadowing an expert on the run's network: the slower link that its ranks have between them.
[[nodiscard]] ShadowCost shadow_cost(const RunSpec& spec, std::uint32_t ranks);
/// Bytes of an expert's parameters as that rule counts them: two matrices of fp32.
[[nodiscard]] std::int64_t shadow_bytes(const RunSpec& spec);

/// The same from given counts [routing rows][n_experts].
[[nodiscard]] std::shared_ptr<const ExpertPlan> plan_experts(const RunSpec& spec, const TraceInfo& trace, std::uint32_t ranks,
                                                             const std::vector<std::int64_t>& counts);

}  // namespace moekv
