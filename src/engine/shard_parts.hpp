// What a shard is made of: entries, pages, their chains and groups, and the lists that compete for budgets. Owned by Shard.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "core/id.hpp"
#include "device/backend.hpp"
#include "engine/blockers.hpp"
#include "engine/run_spec.hpp"
#include "rules/evict/catalogue.hpp"

namespace moekv {

class StateStream;

inline constexpr std::uint32_t no_index = 0xFFFFFFFFU;

[[nodiscard]] constexpr std::uint64_t group_key(RequestId request, std::uint32_t layer, std::uint32_t head_group) {
  return std::uint64_t{request.value} << 32 | std::uint64_t{layer} << 16 | head_group;
}

/// What an owner stores beside the payload of one entry. `experts` [top_k] and `copy_of` [top_k] (copy that stands for each expert) may be empty.
struct EntryMeta {
  RequestId request;
  std::uint32_t position = 0;
  Rank home;
  ExpertId expert;  // chain of the entry: the copy's first expert, or invalid
  std::uint8_t copy = 0, n_copies = 1;
  std::uint32_t smaller_copies = 0;  // bit c: copy c of the token has a smaller hash than this one
  std::span<const std::uint16_t> experts;
  std::span<const std::uint8_t> copy_of;
};

/// Pages that compete for one budget: those of a group (scope request) or of the whole shard. A queue rule's order is kept here.
struct EvictList {
  struct Token {
    std::uint32_t page, slot, position;
  };
  evict::QueueState queue;                       // page units
  std::deque<Token> tokens;                      // token units, oldest first; stale elements are skipped
  std::uint64_t live = 0, pages = 0, bytes = 0;  // entries, blocks, bytes of blocks and their bounds
  std::uint64_t budget = 0;                      // capacity, by the allocator
  std::uint64_t share = 0;                       // the equal share that the capacity replaces
  evict::Control control;                        // rules with a threshold
  std::vector<std::uint32_t> turns;              // action demote: pages that entered or were accessed in this step, for their queues
  std::uint64_t lookups = 0;                     // action demote: of its pages
  std::uint64_t needed_step = ~0ULL;             // action demote: what the queries of this step read
  std::uint64_t needed_live = 0, needed_pages = 0, needed_bytes = 0;
  bool dirty = false;  // waits in Shard::dirty_groups

  void transfer(StateStream& stream);
};

/// Pages of one expert (or of none) in a group, in creation order, with a shadow of the full history for lookups.
struct Chain {
  ExpertId expert;
  bool side = false;              // raw side page of the sink tokens
  std::uint32_t open = no_index;  // page that takes the next entry
  std::vector<std::uint32_t> pages;
  std::uint32_t run = 0;     // of the first `run` pages those in the eviction queue lie there one behind the other, in this order
  std::uint32_t newest = 0;  // largest position that was ever stored
  bool ascending = true;     // no slot was reused: positions grow along pages and along their slots
  bool one_begun = true;     // no raw page but `open` has slots that were never used
  struct Hole {
    std::uint32_t page, slot;
  };
  std::vector<Hole> holes;                         // dead slots of raw pages, reused last in first out
  bool gone = false;                               // moved to another shard; its index may be used again
  std::uint32_t shadow_open = 0, shadow_used = 0;  // shadow page that takes the next entry, and the entries in it
  std::uint32_t shadow_hits = 0;                   // shadow pages with a live entry
  std::uint32_t shadow_cold = 0;                   // shadow pages without one because a replan left no room for it
  std::int64_t written = 0, alive = 0;             // entries of the full history, and those still live
  Blockers::Reads primary;                         // what a query that wants every expert reads: live primary copies
  std::vector<std::uint16_t> shadow_live, shadow_written;
  std::vector<std::uint64_t> shadow_entered;  // lookups of the budget's pages when the shadow page got its first live entry, or came back
  std::uint32_t reuse_unit = no_index;        // of ReuseClock, where the chain's pages are looked up together
  std::vector<std::uint32_t> reuse_units;     // [shadow pages], where each is looked up by its experts
  std::vector<std::uint64_t> shadow_experts;  // [shadow pages][expert words], kept where pages are not by expert and lookups are routed
  Blockers blockers;

  void transfer(StateStream& stream);
};

/// The newest queries of a request that an owner got, a ring: rows of the head group's query heads in the payload's type.
struct RecentQueries {
  std::vector<std::byte> rows;
  std::vector<std::uint32_t> positions;
  std::uint32_t next = 0;  // row that the next query replaces once the ring is full

  void push(std::uint32_t position, std::span<const std::byte> row, std::uint32_t capacity) {
    if (positions.size() < capacity) {
      positions.push_back(position);
      rows.insert(rows.end(), row.begin(), row.end());
      return;
    }
    positions[next] = position;
    std::copy(row.begin(), row.end(), rows.begin() + static_cast<std::ptrdiff_t>(next * row.size()));
    next = (next + 1) % capacity;
  }
  void transfer(StateStream& stream);
  /// Row of the i-th oldest query.
  [[nodiscard]] std::uint32_t row(std::uint32_t i) const { return (next + i) % static_cast<std::uint32_t>(positions.size()); }
};

/// All entries of one (request, layer, head group) in this shard.
struct Group {
  RequestId request;
  std::uint32_t layer = 0;  // index into Geometry::layers
  std::uint32_t head_group = 0;
  Rank home;
  std::vector<Chain> chains;                      // stable indices
  std::vector<std::uint32_t> order;               // chain indices by (side, expert)
  EvictList list;                                 // scope request
  ProtectSpec protect;                            // tokens that are never victims
  std::uint64_t allotted_step = ~0ULL;            // last step that made the capacity anew
  double window_entropy = 0, window_squares = 0;  // of the attention of the prompt's last queries, see Geometry::window_queries
  std::uint64_t queried_step = ~0ULL;
  std::vector<std::uint64_t> query_experts;  // union of the experts of this step's queries
  RecentQueries recent;                      // where the rule scores groups by them
  bool in_use = false;

  void transfer(StateStream& stream);
};

/// One cache line: look-ups walk many pages and little of each.
struct alignas(64) Page {
  std::uint32_t group = no_index, chain = 0;
  BlockRef block;
  std::uint16_t used = 0, live = 0;
  std::uint32_t cell = 0;       // in the blockers of its chain, where they are kept
  std::uint8_t page_class = 0;  // of a sealed page
  bool sealed : 1 = false;
  bool doomed : 1 = false;
  bool away : 1 = false;      // in the host tier
  bool returned : 1 = false;  // entered_step: came back, else created
  bool waits : 1 = false;     // its turn in the queues of this step is still to come
  std::uint16_t primary = 0;  // live slots whose copy is the primary one
  std::uint32_t shadow = 0;   // shadow page of its entries (exact where slots are not reused)
  std::uint32_t min_position = no_index, max_position = 0;
  std::uint32_t touched_step = no_index;  // of a raw page with unused slots: last step that stored an entry here or looked here for some to read
  float mass = 0;                         // attention mass of the current step (access mass)
  std::uint32_t used_step = no_index;     // last step in which a query read one of its entries
  std::uint32_t table = no_index;         // sealed elsewhere: number of the tables that came with it; no_index: those of this shard
  std::uint32_t entered_step = no_index;
  std::uint32_t left_at = 0;  // EvictList::lookups when it went to the host tier
};
static_assert(sizeof(Page) == 64);

/// A page that changes tiers: its block still has to be copied.
struct TierMove {
  CopyOp op;
  std::uint32_t page;
  std::uint16_t entries;  // when it moved
};

/// What a page takes along besides its slots when it moves to another shard.
struct PageMove {
  Page page;
  evict::Access access{};
  std::uint32_t order = 0;  // its place in the order of the queues it leaves
  std::uint8_t list = evict::no_list, mark = 0;
};

/// Free blocks of one pool.
struct BlockPool {
  PoolId pool;
  std::uint64_t block_bytes = 0;
  std::uint64_t beside_bytes = 0;  // key bounds and what the rule keeps of a page; a byte budget counts them
  std::uint32_t next = 0;
  std::vector<std::uint32_t> free;
  [[nodiscard]] std::uint32_t take() {
    if (free.empty()) return next++;
    const std::uint32_t index = free.back();
    free.pop_back();
    return index;
  }
  void transfer(StateStream& stream);
};

}  // namespace moekv
