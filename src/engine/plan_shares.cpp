// Counts the experts of each shard and turns them into probabilities.
#include "engine/plan_shares.hpp"

#include <algorithm>

namespace moekv {
namespace {

std::vector<double> experts_of_shards(const Geometry& geometry) {
  const Placement& placement = geometry.placement();
  const bool even = placement.map == ShardMap::pikv_xor;
  std::vector<double> count(placement.n_shards, even ? static_cast<double>(placement.n_experts) / placement.n_shards : 0.0);
  if (even) return count;
  double n_layers = 0;  // layers have plans of their own under eplb: their mean
  for (const ReplayLayer& layer : geometry.layers()) {
    if (layer.key_row < 0) continue;
    const std::vector<std::uint64_t> own = geometry.shard_experts(layer);
    const double shadowed = static_cast<double>(geometry.n_shadowed(layer)) / placement.n_shards;
    for (std::size_t s = 0; s < own.size(); ++s) count[s] += static_cast<double>(own[s]) / Geometry::expert_unit + shadowed;
    n_layers += 1;
    if (placement.map != ShardMap::eplb) break;
  }
  for (double& c : count) c /= std::max(1.0, n_layers);
  return count;
}

/// `share` is the probability that a shard gets a copy of a token (dedup), or 0 where every expert's copy is kept.
ShardKind make_kind(const Geometry& geometry, double n_experts, double share) {
  ShardKind kind{n_experts, 1, 0, 1};
  const double n = geometry.n_experts();
  const bool dedup = geometry.placement().dedup != Dedup::none;
  if (geometry.pages_by_expert()) {
    kind.chains = n_experts;
    kind.chain_share = dedup ? (n_experts > 0 ? share / n_experts : 0.0) : geometry.top_k() / n;
    if (!dedup && geometry.placement().map == ShardMap::pikv_xor) {  // every expert has a chain here, for the tokens of one residue
      kind.chains = n;
      kind.chain_share = geometry.top_k() / n / geometry.n_shards();
    }
  } else if (dedup) {
    kind.chain_share = share;
  } else {
    kind.draws_per_token = geometry.top_k();
    kind.chain_share = n_experts / n;
  }
  return kind;
}

std::uint32_t kind_index(ExpertShares& shares, const ShardKind& kind) {
  for (std::uint32_t i = 0; i < shares.kinds.size(); ++i) {
    if (shares.kinds[i].n_experts == kind.n_experts && shares.kinds[i].chain_share == kind.chain_share) return i;
  }
  shares.kinds.push_back(kind);
  return static_cast<std::uint32_t>(shares.kinds.size() - 1);
}

}  // namespace

double chance_of_any(double n, double some, std::uint32_t k) {
  double none = 1.0;
  for (std::uint32_t i = 0; i < k && n > i; ++i) none *= std::max(0.0, n - some - i) / (n - i);
  return 1.0 - none;
}

ExpertShares expert_shares(const Geometry& geometry) {
  const Placement& placement = geometry.placement();
  const std::vector<double> experts = experts_of_shards(geometry);
  const double n = placement.n_experts;
  ExpertShares shares;
  for (std::uint32_t g = 0; g < placement.n_ranks; ++g) {
    RankShare rank;
    double on_rank = 0;
    for (std::uint32_t s = placement.first_shard(g); s < placement.first_shard(g + 1); ++s) on_rank += experts[s];
    rank.touched = chance_of_any(n, on_rank, geometry.top_k());
    for (std::uint32_t s = placement.first_shard(g); s < placement.first_shard(g + 1); ++s) {
      double share = 0;
      if (placement.dedup == Dedup::shard) share = chance_of_any(n, experts[s], geometry.top_k());
      if (placement.dedup == Dedup::rank && on_rank > 0) share = rank.touched * experts[s] / on_rank;
      rank.copies += placement.dedup == Dedup::none ? geometry.top_k() * experts[s] / n : share;
      const std::uint32_t index = kind_index(shares, make_kind(geometry, experts[s], share));
      const auto it = std::find_if(rank.kinds.begin(), rank.kinds.end(), [&](const auto& k) { return k.first == index; });
      if (it == rank.kinds.end()) {
        rank.kinds.emplace_back(index, 1.0);
      } else {
        it->second += 1.0;
      }
    }
    shares.copies_per_token += rank.copies;
    shares.ranks.push_back(std::move(rank));
  }
  return shares;
}

}  // namespace moekv
