// Where an entry is stored: pure maps from (request, position, expert) to a shard (MODEL section 2).
#pragma once

#include <cstdint>

#include "core/hd.hpp"
#include "core/id.hpp"
#include "core/rng.hpp"

namespace moekv {

enum class Layout : std::uint8_t { local, expert, token, head, replicated };
enum class ShardMap : std::uint8_t { none, pikv_xor, expert_affine, hash, block_cyclic, eplb };
enum class Dedup : std::uint8_t { none, shard, rank };
enum class HomeRule : std::uint8_t { modulo, least_loaded };
enum class DenseLayers : std::uint8_t { home };

/// The geometry of a placement. Trivially copyable.
struct Placement {
  Layout layout = Layout::local;
  ShardMap map = ShardMap::none;
  Dedup dedup = Dedup::none;
  bool fold = false;               // pikv_xor ids modulo n_shards where the moduli are not powers of two
  std::uint32_t n_ranks = 1;       // G
  std::uint32_t n_shards = 1;      // S, a multiple of nothing in particular
  std::uint32_t n_experts = 1;     // E
  std::uint32_t n_tok = 1;         // N_tok of pikv_xor
  std::uint32_t n_exp = 1;         // N_exp of pikv_xor
  std::uint32_t block_tokens = 64; // block of block_cyclic: the page size
  std::uint64_t seed = 0;
  // eplb: the replicas of (model layer, expert) are replica_shard[replica_first[i] .. replica_first[i + 1]), i = layer n_experts + expert.
  const std::uint32_t* replica_first = nullptr;
  const std::uint32_t* replica_shard = nullptr;
  const std::uint8_t* shadowed = nullptr;  // eplb, [model layers * n_experts]: 1 where entries lie on the home rank; null: nowhere

  /// Rank that owns shard s: floor(s G / S).
  [[nodiscard]] MOEKV_HD Rank owner(ShardId s) const {
    return Rank(static_cast<std::uint32_t>(static_cast<std::uint64_t>(s.value) * n_ranks / n_shards));
  }
  /// First shard of rank g: ceil(g S / G). The shards of g are [first_shard(g), first_shard(g + 1)).
  [[nodiscard]] MOEKV_HD std::uint32_t first_shard(std::uint32_t g) const {
    return static_cast<std::uint32_t>((static_cast<std::uint64_t>(g) * n_shards + n_ranks - 1) / n_ranks);
  }
  /// The shard of a home rank that holds request r under layout local (and dense layers): requests spread over the rank's shards.
  [[nodiscard]] MOEKV_HD ShardId home_shard(Rank home, RequestId r) const {
    const std::uint32_t first = first_shard(home.value);
    const std::uint32_t count = first_shard(home.value + 1) - first;
    return ShardId(first + r.value / n_ranks % count);
  }
  /// Shard of a copy under layout expert. Layer and request count under eplb only: a token's entry goes to one of the replicas by their hash.
  [[nodiscard]] MOEKV_HD ShardId expert_shard(std::uint32_t layer, RequestId r, std::uint32_t position, ExpertId e) const {
    switch (map) {
      case ShardMap::eplb: {
        const std::uint32_t* first = replica_first + static_cast<std::uint64_t>(layer) * n_experts + e.value;
        return ShardId(replica_shard[first[0] + hash_words(seed, 0x70U, r.value, position) % (first[1] - first[0])]);
      }
      case ShardMap::pikv_xor: return xor_shard(position, e.value);
      case ShardMap::hash: return ShardId(static_cast<std::uint32_t>(hash_words(seed, 0x65U, e.value) % n_shards));
      default: return ShardId(static_cast<std::uint32_t>(static_cast<std::uint64_t>(e.value) * n_shards / n_experts));
    }
  }
  [[nodiscard]] MOEKV_HD bool is_shadowed(std::uint32_t layer, ExpertId e) const {
    return shadowed != nullptr && shadowed[static_cast<std::uint64_t>(layer) * n_experts + e.value] != 0;
  }
  /// expert_shard, or the home shard of the request where the expert is shadowed.
  [[nodiscard]] MOEKV_HD ShardId copy_shard(std::uint32_t layer, Rank home, RequestId r, std::uint32_t position, ExpertId e) const {
    return is_shadowed(layer, e) ? home_shard(home, r) : expert_shard(layer, r, position, e);
  }
  /// Shard of the one copy under layout token.
  [[nodiscard]] MOEKV_HD ShardId token_shard(RequestId r, std::uint32_t position) const {
    switch (map) {
      case ShardMap::pikv_xor: return xor_shard(position, 0);
      case ShardMap::hash: return ShardId(static_cast<std::uint32_t>(hash_words(seed, 0x74U, r.value, position) % n_shards));
      default: return ShardId(static_cast<std::uint32_t>((hash_words(seed, 0x62U, r.value) + position / block_tokens) % n_shards));
    }
  }

 private:
  [[nodiscard]] MOEKV_HD ShardId xor_shard(std::uint32_t position, std::uint32_t expert) const {
    const std::uint32_t s = (position % n_tok) ^ (expert % n_exp);
    return ShardId(fold ? s % n_shards : s);
  }
};

}  // namespace moekv
