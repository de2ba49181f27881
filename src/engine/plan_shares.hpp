// How uniform routing spreads one token's copies over shards and ranks: the probabilities behind `moekv plan` for layout expert.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/geometry.hpp"

namespace moekv {

/// Shards alike in the number of their experts. All chains of such a shard have the same probability.
struct ShardKind {
  double n_experts = 0;
  double chains = 1;       // chains that an entry of this shard may join
  double chain_share = 0;  // probability that one draw of a token joins one given chain
  std::uint32_t draws_per_token = 1;
};

struct RankShare {
  std::vector<std::pair<std::uint32_t, double>> kinds;  // (index of a ShardKind, shards of it on this rank)
  double copies = 0;                                    // expected copies of a token on this rank
  double touched = 0;                                   // probability that a token has a copy on this rank
};

struct ExpertShares {
  std::vector<ShardKind> kinds;
  std::vector<RankShare> ranks;
  double copies_per_token = 0;
};

/// Probability that k distinct of n experts include one of `some` given ones.
[[nodiscard]] double chance_of_any(double n, double some, std::uint32_t k);

/// Shares under layout expert. Shards under pikv_xor hold n / S experts' worth of every residue alike.
[[nodiscard]] ExpertShares expert_shares(const Geometry& geometry);

}  // namespace moekv
