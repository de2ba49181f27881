// What travels when a plan of experts changes: chains of pages from shard to shard, and word of it to the requests' home ranks.
#pragma once

#include <cstdint>

#include "engine/request_table.hpp"
#include "engine/wire.hpp"

namespace moekv {

/// Everything one rank sends to another in the exchange of a replan: n_chains times (ChainMove and what Shard::pack_chain wrote, tables, blocks), then
/// RankMove[].
struct MoveSegment {
  std::uint32_t source = 0, destination = 0;  // ranks
  std::uint32_t n_chains = 0, n_ranks = 0;
};

/// One chain. The tables of its sealed pages (`n_tables`: their numbers on the source, then BlockFormat::shared_bytes each) travel once to a shard in a
/// replan.
struct ChainMove {
  std::uint32_t request = 0, layer = 0, head_group = 0, home = 0;
  std::uint32_t source = 0, target = 0;       // shards
  std::uint32_t expert = 0, side = 0, ascending = 0;
  std::uint32_t n_pages = 0, n_shadow = 0, n_tables = 0;
  std::uint32_t open = 0;                     // index among the pages, or no_index
  std::uint32_t shadow_open = 0, shadow_used = 0, shadow_cold = 0;
  std::int64_t written = 0, alive = 0;
};

inline constexpr std::uint32_t no_rank = 0xFFFFFFFFU;

/// Entries of (request, layer) lie on rank `target` now; `emptied` is the rank that holds none any more, or no_rank.
struct RankMove {
  std::uint32_t request = 0, layer = 0, target = 0, emptied = 0;
};

}  // namespace moekv
