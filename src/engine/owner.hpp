// Owner: the side of a process that stores entries. Unpacks the dispatch, admits, attends over its shards, answers, keeps policy state.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/transport.hpp"
#include "device/backend.hpp"
#include "engine/copies.hpp"
#include "engine/counters.hpp"
#include "engine/evictor.hpp"
#include "engine/geometry.hpp"
#include "engine/read_choice.hpp"
#include "engine/request_table.hpp"
#include "engine/rule_weights.hpp"
#include "engine/shard.hpp"
#include "engine/wire.hpp"

namespace moekv {

struct CopySet;

class Owner {
 public:
  Owner(const Geometry& geometry, Backend& backend, Transport& transport, Counters& counters, const RequestTable& requests, Rank first, Rank end);

  /// Reads the received dispatch of a layer: log-sum-exps of the layer before are applied, notices taken, entries and queries noted.
  void receive(std::uint32_t layer, std::uint64_t step);
  /// Phase admit: gives every received entry a slot and writes its payload.
  void admit();
  /// Phase attend: read lists, then the attention kernel, then the merge over the shards of a rank.
  void attend();
  /// Fills the outboxes with the partial results.
  void reply();
  /// Action demote: copies the pages that evictions moved to the host tier.
  void copy_demoted();
  /// At the end of a step: entries that none of its observed queries read got no attention.
  void absorb_unread();
  /// Seals the pages that the layer step filled.
  void seal();

  [[nodiscard]] std::vector<Shard>& shards() { return shards_; }
  [[nodiscard]] const std::vector<Shard>& shards() const { return shards_; }
  [[nodiscard]] Shard& shard(ShardId id) { return shards_[id.value - first_shard_]; }
  /// A raw page that came from another shard will be sealed as one that was filled here.
  void watch(std::uint32_t shard_index, std::uint32_t page) { unsealed_.emplace_back(shard_index, page); }
  /// Own ranks that the last admit and attend gave entries; a rank may come more than once.
  [[nodiscard]] std::span<const Rank> grown_ranks() const { return grown_; }
  [[nodiscard]] std::int64_t buffer_bytes() const;
  /// Between two steps.
  void transfer(StateStream& stream);
  std::int64_t select_ns = 0, decode_ns = 0, encode_ns = 0, demote_ns = 0, recall_ns = 0;  // sub-timers, taken and cleared by the caller

 private:
  /// One segment of a received dispatch, in place.
  struct Received {
    const DispatchSegment* segment = nullptr;
    int process = 0;
    std::span<const EntryHeader> entries;
    std::span<const std::uint16_t> entry_experts;
    std::span<const std::byte> entry_payload;
    std::span<const QueryHeader> queries;
    std::span<const std::uint16_t> query_experts;
    std::span<const std::byte> query_payload;
    std::span<const float> lse;
    std::span<const std::uint64_t> notices;
    std::span<const std::uint32_t> notice_sources;
  };
  struct Entry {
    const EntryHeader* header;
    std::span<const std::uint16_t> experts;
    const std::byte* k;
    const std::byte* v;
  };
  struct Query {
    const QueryHeader* header = nullptr;  // in the received dispatch, as `experts` and `q`: until the exchange of the answers
    RequestId request;
    std::span<const std::uint16_t> experts;
    const std::byte* q = nullptr;  // [q_count][d_k]
    Rank rank;
    int process = 0;  // home process
    std::uint32_t first_task = 0, n_tasks = 0;
    std::uint32_t first_part = 0, n_parts = 0;   // into part_rows_: one partial per shard that holds the request
    std::uint32_t first_row = no_index;          // merged partial rows [q_count]
    std::uint32_t first_probe = 0, n_probe = 0;  // into probe_words_
    std::uint32_t n_read = 0;                    // slots read, over all shards and head groups
  };
  /// Which slots of a page a query reads: positions [low, high], and of a token with several copies one.
  struct ReadFilter {
    std::uint32_t low = 0, high = 0;
    std::span<const std::uint64_t> wanted;                     // experts, as bits; empty = all
    bool unblocked = false, primary = false, by_slot = false;  // see filter_of
    bool only_looks = false;                                   // the page is offered to a choice: nothing is counted or noted
  };
  /// What the reads of one group cost.
  struct ReadTally {
    std::int64_t scanned = 0;  // live entries of the pages looked at
    std::uint64_t bytes = 0;   // of a head's used slots in the pages read, as they are stored
  };
  /// A page that is sealed in this layer step.
  struct DuePage {
    std::uint32_t shard_index, page, page_class;
  };
  /// A query of the layer before that waits for its log-sum-exp.
  struct Pending {
    Rank rank, home;
    int process;
    std::uint32_t first_task, n_tasks;
    RequestId request;
    std::uint32_t position;
  };

  /// The segments of the received dispatch by rank, in place.
  [[nodiscard]] std::span<const Received> unpack();
  /// Notes a segment's entries and queries.
  void take_in(const Received& segment);
  void receive_sizes(const Received& segment, std::span<const Pending> answered);
  /// Tells a rank's shards which copies are gone.
  void apply_notices(std::span<const std::uint64_t> bits, Rank rank);
  void apply_lse(std::span<const float> lse, Rank rank, int process);
  void add_mass(const Pending& pending, std::span<const float> lse);
  /// Takes the attention that every page got to the states of its entries.
  void absorb_mass(std::uint32_t shard_index, std::uint32_t page, const SlotMass* mass);
  /// Adds a query to the window statistics of the groups it read, where it is one of the prompt's last ones.
  void add_window(const Pending& pending, std::span<const float> lse);
  void finish_mass();
  void keep_pending();
  /// First state of an entry: what the eviction rule makes of its key and value, mean over the heads of the head group.
  void score_payload(Shard& shard, std::size_t slot, const Entry& entry, std::uint32_t head_group);
  /// Whether the query reads only pages that the rule of read.select chooses.
  [[nodiscard]] bool chooses(const Query& query) const;
  /// Chooses the pages of every query that does.
  void choose_pages();
  void offer_page(const Query& query, const Shard& shard, std::uint32_t page, const ReadFilter& filter);
  /// The pages chosen for the query in one group, counted. Called in the order of choose_pages.
  [[nodiscard]] std::span<const std::uint32_t> take_choice(const Query& query, const Shard& shard, const Group& group);
  /// Pages of a group that may hold what the filter wants, in read order; valid until the next call.
  [[nodiscard]] std::span<const std::uint32_t> pages_of(const Group& group, const Query& query, const ReadFilter& filter);
  void note_experts(const Query& query);
  void pack_queries();
  /// Reconstruction errors of entries as they are sealed, for the rule that scores them: the first call notes the raw rows, the second compares.
  /// Operation i is of page i of `due_`.
  void note_raw(std::span<const SealOp> ops);
  void score_errors(std::span<const SealOp> ops);
  [[nodiscard]] std::uint32_t heads_of(const Shard& shard, std::uint32_t page) const;
  void build_query(Query& query);
  /// What a shard keeps of an entry; `set`, which the result points into, is filled for layers of layout expert.
  [[nodiscard]] EntryMeta describe(const Entry& entry, Rank home, CopySet& set) const;
  void count_insertion(const Shard& shard);
  void count_read(const Shard& shard, std::uint32_t shard_index, std::uint32_t wanted, std::int64_t scanned, std::int64_t bytes);
  void build_group(Query& query, std::uint32_t shard_index, Group& group, std::uint32_t base_row);
  ReadFilter filter_of(const Query& query) const;
  // Entries that a query reads of a page, of pages, of a chain as a whole, of a group.
  std::uint32_t read_page(const Query& query, Shard& shard, std::uint32_t page, const ReadFilter& filter, ReadTally& tally);
  std::uint32_t read_pages(const Query& query, Shard& shard, std::span<const std::uint32_t> pages, const ReadFilter& filter, ReadTally& tally);
  std::uint32_t read_chain(const Query& query, Shard& shard, const Chain& chain, const ReadFilter& filter, ReadTally& tally);
  std::uint32_t read_group(const Query& query, Shard& shard, const Group& group, const ReadFilter& filter, ReadTally& tally);
  [[nodiscard]] bool may_read(const Chain& chain, const ReadFilter& filter) const;
  /// Whether what counts of a chain's pages follows from the chain: all that lies in it is within the range, and nobody asks for single pages.
  [[nodiscard]] bool reads_as_one(const Chain& chain, const ReadFilter& filter) const;
  std::uint64_t read_bits(const Query& query, const Shard& shard, std::uint32_t page, std::uint32_t word, const ReadFilter& filter);
  bool slot_is_read(const Shard& shard, std::size_t i, const ReadFilter& filter);
  /// Takes the pages that are to be sealed now from the list of unsealed ones to `due_`.
  void find_due();
  /// Gives pages of `due_` that share a codec with several classes theirs.
  void choose_classes();
  /// Of attention: the entries of the page against all of its head group in the shard, under the newest queries.
  [[nodiscard]] double importance(const DuePage& due) const;
  /// Compares a sample of the sealed pages with what they were made of.
  void audit(std::span<const SealOp> ops);
  /// The newest queries of a page's request in this layer step.
  void attach_queries(SealOp& op, const Shard& shard, const Group& group) const;
  /// Action demote: copies the pages that came back since the last call.
  void copy_recalled();
  void recall_unsealed();
  [[nodiscard]] bool is_due_to_seal(const Shard& shard, const Page& page) const;
  /// How the rows of a query's shards become one, in shard order; nothing where each query has one shard.
  void list_merges();
  void run_kernel();
  void write_partials(WireWriter& out, std::span<const std::uint32_t> rows, std::uint32_t heads, bool half);

  const Geometry* geometry_;
  Backend* backend_;
  Transport* transport_;
  Counters* counters_;
  const RequestTable* requests_;
  Rank first_, end_;
  std::uint32_t first_shard_ = 0;
  std::vector<Shard> shards_;
  RuleWeights weights_;
  bool payload_, copies_matter_, demotes_;
  bool sums_chains_;  // no step of the run asks which pages its queries read
  std::uint32_t layer_ = 0;
  bool layer_by_expert_ = false;
  std::uint64_t step_ = 0;
  bool forgets_ = false;                    // the rule's state falls where an entry gets no attention
  std::vector<std::vector<bool>> weighed_;  // [shards][pages] that the step's attention went into

  static constexpr std::size_t prefetch_distance = 4;      // pages
  static constexpr std::uint32_t min_sealed_entries = 16;  // a page that the prompt's end leaves partial is sealed from here on

  std::vector<Received> segments_;
  std::vector<Notice> notices_;
  std::vector<Entry> entries_;
  std::vector<float> k_row_, v_row_;  // one head as fp32
  std::vector<float> raw_rows_;       // of pages that are being sealed: [page][slot][head][K | V]
  std::vector<Rank> grown_;
  std::vector<std::pair<Rank, ByteCounts>> received_;  // of one segment
  std::vector<Query> queries_;
  std::vector<AppendOp> appends_;
  std::vector<CopyOp> moves_;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> appended_, unsealed_;  // (shard index, page)
  std::vector<DuePage> due_;
  std::vector<std::byte> q_rows_;  // [queries][q_row_heads_][d_k]
  std::uint32_t q_row_heads_ = 0;
  ReadChoice choice_;
  std::vector<std::uint32_t> group_pages_;
  std::vector<AttendTask> tasks_, pending_tasks_;
  std::vector<std::uint32_t> task_shard_, pending_shards_;
  std::vector<PageRead> reads_, pending_reads_;
  std::vector<std::uint32_t> task_pages_, pending_pages_;  // page of each read
  std::vector<std::uint32_t> probe_words_, part_rows_;
  std::vector<std::uint64_t> masks_, query_words_;
  std::uint32_t n_rows_ = 0;
  bool some_group_absent_ = false;  // of a shard that a query reads
  std::uint64_t n_logits_ = 0;
  std::vector<float> m_, l_, o_, logits_, pending_logits_;
  std::vector<std::uint32_t> merge_offsets_, merge_parts_;
  std::vector<Pending> pending_;
  std::size_t pending_cursor_ = 0;
  /// A read of a page whose mass is due.
  struct MassDue {
    std::uint32_t shard_index, page;
    MassRead read;
  };
  std::vector<MassDue> mass_due_;
  std::vector<MassTask> mass_tasks_;
  std::vector<float> mass_lse_;
};

}  // namespace moekv
