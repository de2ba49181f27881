// Shard: pages with their own slot maps, free lists and eviction state. Owns metadata only; payload bytes live in the backend's pools.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "device/backend.hpp"
#include "engine/access_log.hpp"
#include "engine/codec_tables.hpp"
#include "engine/copies.hpp"
#include "engine/geometry.hpp"
#include "engine/move.hpp"
#include "engine/reuse.hpp"
#include "engine/shard_parts.hpp"

namespace moekv {

class Shard {
 public:
  Shard(const Geometry& geometry, ShardId id, Backend& backend, std::uint32_t max_pages);

  [[nodiscard]] ShardId id() const { return id_; }
  [[nodiscard]] Rank rank() const { return rank_; }

  /// Group of (request, layer, head group), or null.
  [[nodiscard]] Group* find(RequestId request, std::uint32_t layer, std::uint32_t head_group);
  [[nodiscard]] Group& find_or_add(RequestId request, std::uint32_t layer, std::uint32_t head_group, Rank home, std::uint32_t request_tokens);
  /// Chain of an expert in a group, or null.
  [[nodiscard]] static Chain* chain_of(Group& group, ExpertId expert, bool side);

  struct Stored {
    BlockRef block;
    std::uint32_t page, slot;
    bool fresh;  // first entry of the page
  };
  /// Gives an entry a slot and records its metadata.
  Stored append(Group& group, const EntryMeta& entry, std::uint64_t step);
  /// Marks a slot dead; frees the page when it was the last. Returns true when the page was freed.
  bool kill(std::uint32_t page, std::uint32_t slot);
  /// Starts to load what a reader of the page looks at.
  void prefetch(std::uint32_t page) const { __builtin_prefetch(&pages_[page]); }
  /// Marks copies of tokens as gone on every slot of this shard that holds another copy of one. At least one notice, all of one request, layer and
  /// head group, positions ascending.
  void forget_copies(std::span<const Notice> gone);
  /// How `seal` would move a page to a block of a class: all but the target's index.
  [[nodiscard]] SealOp seal_op(std::uint32_t page, std::uint32_t page_class) const;
  /// Moves a full (or closed) raw page to a sealed block of a class. The old block is free after `op` ran: the caller encodes before the next append.
  SealOp seal(std::uint32_t page, std::uint32_t page_class);
  /// Gives the sealed pools the tables that every sequence uses. Once, before the first page is sealed.
  void share_tables(Backend& backend, const CodecTables& tables);
  struct Finished {
    std::int64_t entries = 0, in_host = 0;
  };
  /// Frees every page of the request. Returns the number of live entries that were dropped, and how many of them lay in the host tier.
  Finished finish(RequestId request);

  // Action demote. A move changes the page's block at once; the caller copies before it appends to, seals or reads a block.
  void demote(std::uint32_t page);
  void recall(std::uint32_t page, std::uint64_t step);
  /// A query of this step reads the page, which is recalled where it has to be.
  void need(std::uint32_t page, std::uint64_t step);
  [[nodiscard]] bool demotes() const { return demotes_; }
  [[nodiscard]] std::vector<TierMove>& demoted() { return demoted_; }
  [[nodiscard]] std::vector<TierMove>& recalled() { return recalled_; }
  [[nodiscard]] std::uint64_t block_bytes_of(const Page& page) const;
  /// What a page takes of a byte budget: its block and what lies beside it.
  [[nodiscard]] std::uint64_t budget_bytes_of(const Page& page) const { return block_bytes_of(page) + rule_bytes_; }

  // Moving chains to other shards (shard_move.cpp). Nothing is stored, read or evicted between the first call and `settle`.
  /// What describes a chain that moves to shard `target`. n_tables is the caller's to fill.
  [[nodiscard]] ChainMove describe_chain(std::uint32_t group, std::uint32_t chain, ShardId target) const;
  /// Writes what a chain is apart from its payload: shadow pages, PageMove[] and the slots of its pages.
  void pack_chain(std::uint32_t group, std::uint32_t chain, WireWriter& out);
  /// Takes a chain away that was packed: its pages are freed, and the group when it was the last.
  void remove_chain(std::uint32_t group, std::uint32_t chain);
  /// Forgets tokens of pages that left, once all chains that leave are removed.
  void close_gaps();
  /// Reads what pack_chain wrote on another shard. `pages` gets the new pages, in the same order.
  void unpack_chain(const ChainMove& head, std::uint32_t request_tokens, WireReader& in, std::vector<std::uint32_t>& pages);
  /// Puts what arrived at the end of the queues, in the order and with the marks it had, and gives every group its budget under the plan of now.
  void settle(const RequestTable& requests);
  /// Kills from here on until the call with `false` are the fault of a replan (shadow_cold).
  void blame_replan(bool blamed) { replan_blamed_ = blamed; }
  /// A number for tables that come with pages, and the key of a page's tables.
  [[nodiscard]] std::uint32_t number_tables() { return n_tables_++; }
  [[nodiscard]] std::uint64_t table_key(const Page& page) const;

  /// An access of a page at step `now`, as the eviction rule keeps it. Rule: the one of the run; `queue`: that of the page's list.
  template <class Rule>
  void touch_page(const Rule& rule, evict::Queue& queue, std::uint32_t page, std::uint64_t now) {
    if constexpr (Rule::family == evict::Family::queue) {
      if (queue.node(page).list == evict::no_list) return;  // a sink page left the queue for good
      rule.access(queue, page);
    }
    if constexpr (evict::needs_access<Rule>) evict::touch(rule, access_[page], static_cast<std::uint32_t>(now));
  }
  /// The queues of a list; capacity is its budget in pages.
  [[nodiscard]] evict::Queue queue_of(EvictList& list) { return {list.queue, nodes_.data(), capacity_pages(list)}; }
  [[nodiscard]] std::uint32_t capacity_pages(const EvictList& list) const;
  [[nodiscard]] const evict::Access& access(std::uint32_t page) const { return access_[page]; }
  [[nodiscard]] EvictList& list_of(const Page& page) { return scope_shard_ ? list_ : groups_[page.group].list; }
  [[nodiscard]] EvictList& shard_list() { return list_; }

  [[nodiscard]] std::vector<Page>& pages() { return pages_; }
  [[nodiscard]] const std::vector<Page>& pages() const { return pages_; }
  [[nodiscard]] std::vector<Group>& groups() { return groups_; }
  [[nodiscard]] const std::vector<Group>& groups() const { return groups_; }
  [[nodiscard]] std::vector<std::uint32_t>& dirty_groups() { return dirty_; }
  [[nodiscard]] std::vector<std::uint32_t>& queried_groups() { return queried_; }
  void mark_dirty(Group& group);
  void mark_queried(Group& group, std::uint64_t step, std::span<const std::uint16_t> experts);

  // Slot facts. `i` = page * page_slots + slot.
  [[nodiscard]] std::size_t at(std::uint32_t page, std::uint32_t slot) const { return std::size_t{page} * slots_ + slot; }
  [[nodiscard]] std::uint32_t position(std::size_t i) const { return positions_[i]; }
  [[nodiscard]] bool live(std::uint32_t page, std::uint32_t slot) const {
    return (live_[std::size_t{page} * words_ + slot / 64] >> (slot % 64) & 1U) != 0;
  }
  /// Bits of the live ones of slots [64 w, 64 w + 64).
  [[nodiscard]] std::uint64_t live_word(const Page& page, std::uint32_t index, std::uint32_t w) const {
    if (page.live < page.used) return live_[std::size_t{index} * words_ + w];
    const std::uint32_t n = page.used - w * 64;
    return n >= 64 ? ~0ULL : (1ULL << n) - 1;
  }
  [[nodiscard]] std::span<const std::uint64_t> primary_words(std::uint32_t page) const { return {&primary_[std::size_t{page} * words_], words_}; }
  [[nodiscard]] std::span<const std::uint16_t> experts(std::size_t i) const { return {&experts_[i * top_k_], top_k_}; }
  [[nodiscard]] std::span<const std::uint8_t> copy_of(std::size_t i) const { return {&copy_of_[i * top_k_], top_k_}; }
  /// Slots [64 w, 64 w + 64) whose token a routed query that wants `experts` reads under another expert. Kept for copies surviving with scope routed.
  [[nodiscard]] std::uint64_t blocked_by(const Page& page, std::span<const std::uint16_t> experts, std::uint32_t w) const {
    return groups_[page.group].chains[page.chain].blockers.any(page.cell, experts, w);
  }
  [[nodiscard]] std::uint32_t smaller_copies(std::size_t i) const { return smaller_[i]; }
  [[nodiscard]] std::uint32_t alive_copies(std::size_t i) const { return alive_[i]; }
  [[nodiscard]] std::uint32_t copy(std::size_t i) const { return copy_[i]; }
  [[nodiscard]] evict::Mass& state(std::size_t i) { return state_[i]; }
  /// Attention of the prompt's last queries on an entry, by query head of the head group. Kept where Geometry::window_queries is not 0.
  [[nodiscard]] std::span<float> window_mass(std::size_t i) { return {&window_mass_[i * window_heads_], window_heads_}; }
  /// |sum of capacities - sum of equal shares| of the requests seen since the last call; 0 by law.
  [[nodiscard]] std::int64_t take_allocation_error() { return std::exchange(allocation_error_, 0); }
  [[nodiscard]] std::uint32_t words() const { return words_; }

  // Reuse (shard_reuse.cpp): every page written and not finished, on the clock of the lookups of its budget.
  [[nodiscard]] ReuseClock& clock_of(const Group& group) { return clocks_[scope_shard_ ? 0 : static_cast<std::size_t>(&group - groups_.data())]; }
  /// Whether a step looks up all pages of a chain or none.
  [[nodiscard]] bool looks_up_chains() const { return !shadow_experts_kept_ && !by_content_; }
  /// A lookup of all `pages` pages of a chain, of a shadow page, or of a page that its attention or a selection picked.
  ReuseClock::Before look_up_chain(const Group& group, Chain& chain, std::uint32_t pages);
  ReuseClock::Before look_up_shadow(const Group& group, Chain& chain, std::uint32_t shadow);
  ReuseClock::Before look_up_page(const Group& group, std::uint32_t page);
  /// Lookups between entry and eviction of the pages that were evicted; the caller empties it.
  [[nodiscard]] std::vector<std::uint64_t>& eviction_ages() { return eviction_ages_; }

  /// From now on the shard tells `recorder`, which outlives it, what happens to its shadow pages.
  void record_accesses(AccessRecorder& recorder);
  [[nodiscard]] bool records_accesses() const { return recorder_ != nullptr; }
  /// Tells of shadow page `shadow` of a chain, where accesses are recorded.
  void note(AccessKind kind, const Group& group, const Chain& chain, std::uint32_t shadow) const;

  struct Usage {
    std::int64_t entries = 0, distinct = 0, sealed_entries = 0, pages = 0, bytes = 0, raw_bytes = 0, code_bytes = 0, metadata_bytes = 0,
                 bounds_bytes = 0;
    std::int64_t host_entries = 0, host_bytes = 0;
    std::int64_t free_bytes = 0, free_run_bytes = 0;                          // free blocks of the pools, and their longest run of neighbours
    std::array<std::int64_t, n_page_classes> class_entries{}, class_bytes{};  // of sealed pages
  };
  [[nodiscard]] Usage usage() const;
  void transfer(StateStream& stream);
  [[nodiscard]] std::int64_t block_bytes() const { return block_bytes_; }
  [[nodiscard]] std::int64_t live_entries() const { return live_entries_; }

 private:
  struct Arrival {
    std::uint32_t source = 0, order = 0, page = 0;
    std::uint8_t list = evict::no_list, mark = 0;
  };
  std::uint32_t take_page(Group& group, std::uint32_t group_index, std::uint32_t chain_index);
  /// A page with a block of `pool`, in its list but in no queue.
  std::uint32_t new_page(BlockPool& pool, std::uint32_t group_index, std::uint32_t chain_index);
  void number_queues(EvictList& list);
  void join_shadow(Chain& chain, const ChainMove& head, std::span<const std::uint16_t> live, std::span<const std::uint16_t> written);
  void unpack_slots(std::span<const std::uint32_t> pages, std::uint32_t shadow_base, WireReader& in);
  [[nodiscard]] std::uint64_t budget_of(const Group& group, std::uint32_t request_tokens);
  /// The group's home shard where experts are shadowed on it, else shard 0.
  [[nodiscard]] ShardId shadow_home(const Group& group) const;
  void free_page(std::uint32_t page);
  /// The open shadow page of a chain got its first live entry, or an entry after it had none.
  void note_entry(const Group& group, Chain& chain);
  void note_eviction(const Group& group, const Chain& chain, std::uint32_t shadow);
  /// The chain's pages are gone for good.
  void forget_reuse(const Group& group, Chain& chain);
  void count_free(Usage& usage) const;
  void forget_in_page(std::uint32_t page, const Notice& gone);
  /// Whether a slot's entry, live, is its token's primary copy; keeps what its page and its chain count of them.
  void set_primary(std::uint32_t page, std::uint32_t slot, bool primary);
  /// Of a slot that at most its chain's own expert blocks: experts under which another copy stands before it, and its own unless it is live.
  void set_blockers(std::uint32_t page, std::uint32_t slot);
  void clear_blockers(std::uint32_t page, std::uint32_t slot);
  /// A slot is no longer blocked by the experts that a copy stood for.
  void unblock(std::uint32_t page, std::uint32_t slot, std::uint32_t copy);
  /// Index in an ascending chain, from `first` on, of the first page whose last position is not below this one.
  [[nodiscard]] std::size_t page_from(const Chain& chain, std::size_t first, std::uint32_t position) const;
  /// Live entries that no other copy stands before, as far as this owner was told.
  [[nodiscard]] std::int64_t distinct_entries() const;
  void count_blocks(Usage& usage) const;
  /// Looks at every page only where pages differ in what their entries take.
  void count_entries(Usage& usage) const;
  void write_slot(Page& page, std::uint32_t page_index, std::uint32_t slot, bool reused, const EntryMeta& entry);
  void count_shadow(Chain& chain, const EntryMeta& entry, bool new_page) const;
  Chain& chain_or_add(Group& group, ExpertId expert, bool side);
  [[nodiscard]] std::size_t pool_index(const Group& group) const;
  BlockPool& raw_pool(const Group& group) { return raw_pools_[pool_index(group)]; }
  [[nodiscard]] std::size_t sealed_pool_index(const Group& group, std::uint32_t page_class) const {
    return page_class * widths_.size() + pool_index(group);
  }
  BlockPool& sealed_pool(const Group& group, std::uint32_t page_class) { return sealed_pools_[sealed_pool_index(group, page_class)]; }
  BlockPool& pool_of(const Page& page);
  void leave_list(const Page& page);
  [[nodiscard]] std::uint64_t table_key(RequestId request, std::uint32_t layer, std::uint32_t head_group) const;
  void start_budget(Group& group, std::uint32_t request_tokens);
  void note_budget(const Group* group, const EvictList& list) const;

  ShardId id_;
  Rank rank_;
  std::vector<std::uint32_t> dirty_, queried_;  // groups; first, as every step looks here for work
  const Geometry* geometry_;
  AccessRecorder* recorder_ = nullptr;
  std::uint32_t slots_, words_, top_k_, expert_words_;
  bool blockers_kept_, demotes_;
  bool scope_shard_, queue_pages_, queue_tokens_, access_kept_, reuse_slots_, shadow_experts_kept_;
  std::vector<BlockPool> raw_pools_, sealed_pools_, raw_host_pools_, sealed_host_pools_;  // one per head-group width, sealed ones class by class
  std::vector<TierMove> demoted_, recalled_;
  std::vector<std::uint32_t> widths_;

  std::unordered_map<std::uint64_t, std::uint32_t> index_;
  std::vector<Group> groups_;
  std::vector<std::uint32_t> free_groups_;
  std::vector<Page> pages_;
  std::vector<std::uint32_t> free_pages_;
  EvictList list_;                                                 // scope shard
  std::map<std::array<std::uint32_t, 4>, std::uint64_t> budgets_;  // (layout, layer, home shard, request tokens) -> a group's equal share
  std::map<std::uint32_t, allocate::Shares> capacities_;           // request tokens -> Geometry::first_capacities
  std::int64_t allocation_error_ = 0;
  std::uint32_t window_heads_ = 0;
  std::uint64_t rule_bytes_ = 0;
  std::vector<Arrival> arrivals_;
  std::vector<std::uint32_t> queue_order_;  // [pages], of the list that number_queues saw last
  std::uint32_t n_tables_ = 0;
  bool replan_blamed_ = false;
  bool by_content_ = false;                // lookups follow attention or selection
  std::vector<ReuseClock> clocks_;         // [groups], or one under scope shard
  std::vector<std::uint32_t> page_units_;  // [pages], where by_content_
  std::vector<std::uint64_t> eviction_ages_;

  std::vector<std::uint32_t> positions_, shadow_of_, smaller_, alive_;
  std::vector<std::uint64_t> live_, primary_;
  std::vector<std::uint16_t> experts_;
  std::vector<std::uint8_t> copy_of_, copy_;
  std::vector<evict::Mass> state_;
  std::vector<float> window_mass_;       // [slots][query heads of a head group]
  std::vector<evict::QueueNode> nodes_;  // [pages], page units of queue rules
  std::vector<evict::Access> access_;    // [pages], rules with needs_access
  std::int64_t block_bytes_ = 0, live_entries_ = 0;
};

}  // namespace moekv
