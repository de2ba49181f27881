// Home: the side of a process that owns queries and outputs. Plans who stores and who reads, packs the dispatch, merges what comes back.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "comm/transport.hpp"
#include "core/math.hpp"
#include "device/backend.hpp"
#include "device/merge_partials.hpp"
#include "engine/copies.hpp"
#include "engine/counters.hpp"
#include "engine/exact.hpp"
#include "engine/geometry.hpp"
#include "engine/move.hpp"
#include "engine/request_table.hpp"
#include "engine/wire.hpp"

namespace moekv {

inline constexpr std::uint32_t no_shard = 0xFFFFFFFFU;

/// One layer of a step as a driver (a trace, or a model) hands it over. Tokens are ordered by (home, request, position).
struct LayerInput {
  std::uint32_t layer = 0;  // index into Geometry::layers
  std::span<const HomeToken> tokens;
  std::span<const std::uint16_t> experts;  // [tokens][top_k] key of storing and reading; empty where the layer has none
  const std::byte* k = nullptr;            // [tokens][n_kv_heads][d_k] payload type; null for the count backend
  const std::byte* v = nullptr;            // [tokens][n_kv_heads][d_v]; null for MLA
  const std::byte* q = nullptr;            // [queries][n_heads][d_k]
  const float* sinks = nullptr;            // [n_heads] learned sink logits, or null
};

/// Attention of the layer's queries in token order.
struct LayerOutput {
  std::vector<float> o;                             // [queries][n_heads][d_v]; zero where nothing was read
  std::vector<float> lse;                           // [queries][n_heads], -inf where nothing was read
  std::vector<std::vector<HeadReads>> probe_reads;  // [queries]: what a probed query read of each owner rank, shard and head group
};

class Home {
 public:
  Home(const Geometry& geometry, Backend& backend, Transport& transport, Counters& counters, std::span<const int> process_of_rank, Rank first,
       Rank end);

  /// Phase place: the pure plan of who stores and who reads.
  void plan(const LayerInput& input);
  /// Phase dispatch: fills the transport's outboxes (the exchange itself is the caller's). `notices` are (destination, packed notice).
  void pack(const LayerInput& input);
  /// Queues a notice from own rank `source` for the next dispatch.
  void add_notice(Rank source, Rank destination, std::uint64_t notice);
  /// Packs only the log-sum-exps and notices that wait, after the last layer of a step.
  void pack_tail();
  /// Phase combine: merges received partials in rank order into `out`.
  void merge(const LayerInput& input, LayerOutput& out);
  void finish(RequestId request) { written_.erase(request.value); }
  /// Entries of own requests lie on other ranks from now on. All words of a replan at once: a rank may lose what it held and get more.
  void moved(std::span<const RankMove> moves);
  [[nodiscard]] std::int64_t buffer_bytes() const;
  /// Between two steps.
  void transfer(StateStream& stream);

 private:
  struct Store {
    std::uint32_t rank, token;
    ShardId shard;
    std::uint8_t copy;
  };
  struct Read {
    std::uint32_t rank, token, query;
  };
  struct Waiting {  // a log-sum-exp row owed to a rank
    std::uint32_t rank;
    Rank home;
    std::uint32_t query;
  };
  struct PendingNotice {
    std::uint32_t rank;
    Rank source;
    std::uint64_t bits;
  };
  struct RequestState {
    std::vector<std::uint64_t> ranks;                  // [layers][rank words]: ranks that hold an entry
    std::vector<std::uint32_t> last_shard, last_read;  // [layers][experts], layout expert: shard of the last store, of the last read

    void transfer(StateStream& stream);
  };

  RequestState& state_of(RequestId request);
  void plan_stores(const LayerInput& input, std::uint32_t token, RequestState& state);
  /// Shards where a routed query looks for entries of an expert, in ascending order; valid until the next call.
  [[nodiscard]] std::span<const std::uint32_t> shards_of(const HomeToken& token, const ReplayLayer& layer, ExpertId e);
  void plan_reads(const LayerInput& input, std::uint32_t token, std::uint32_t query, RequestState& state);
  /// Ranks and nodes of the copies that `plan_stores` appended to stores_ from index `first` on, and what shadowing saved of them.
  void count_stores(const LayerInput& input, const HomeToken& token, std::size_t first, const CopySet& copies);
  /// Nodes of ascending ranks.
  [[nodiscard]] std::int64_t count_nodes(std::span<const std::uint32_t> ranks) const;
  void store_at(const LayerInput& input, std::uint32_t token, ShardId shard, std::uint8_t copy, RequestState& state);
  void pack_rank(const LayerInput& input, Rank rank, std::span<const Store> stores, std::span<const Read> reads, std::span<const Waiting> waiting,
                 std::span<const PendingNotice> notices);
  template <class Item>
  void pack_experts(const LayerInput& input, std::span<const Item> items, std::size_t k, WireWriter& out) const;
  void pack_entries(const LayerInput& input, Rank rank, std::span<const Store> stores, WireWriter& out);
  void pack_queries(const LayerInput& input, Rank rank, std::span<const Read> reads, WireWriter& out);
  void pack_all(const LayerInput& input);
  void take_segment(WireReader& in, LayerOutput& out);
  /// m, l and o of so many rows; in place, but for o in bf16, which goes to part_o_.
  struct PartialRows {
    const float *m, *l, *o;
  };
  [[nodiscard]] PartialRows take_partials(WireReader& in, std::size_t rows);
  void merge_parts(const LayerInput& input, LayerOutput& out);
  /// Own ranks with bytes in pair_, ascending and distinct.
  std::span<const std::uint32_t> touched_sources();
  [[nodiscard]] std::int64_t partial_bytes(const HeadSlice& slice) const {
    const std::int64_t value = geometry_->spec().combine == CombineType::bf16 ? 2 : 4;
    return std::int64_t{slice.q_count} * (8 + std::int64_t{geometry_->spec().model.d_v} * value);
  }
  void account(Rank source, ByteClass kind, std::int64_t bytes);
  void close_rank(Rank destination, std::uint32_t layer);
  [[nodiscard]] std::span<const std::uint16_t> experts_of(const LayerInput& input, std::uint32_t token) const {
    return input.experts.empty() ? std::span<const std::uint16_t>{}
                                 : input.experts.subspan(std::size_t{token} * geometry_->top_k(), geometry_->top_k());
  }

  const Geometry* geometry_;
  Transport* transport_;
  Counters* counters_;
  std::span<const int> process_of_rank_;
  Rank first_, end_;
  std::size_t rank_words_;
  bool payload_;
  std::uint32_t seed_layer_ = 0;

  std::unordered_map<std::uint32_t, RequestState> written_;
  std::vector<Store> stores_, sorted_stores_;
  std::vector<Read> reads_, sorted_reads_;
  std::vector<Waiting> lse_waiting_, sorted_waiting_;
  std::vector<PendingNotice> notices_, sorted_notices_;
  std::vector<float> last_lse_;   // rows that lse_waiting_ names
  std::vector<ByteCounts> pair_;  // [own ranks] bytes to the rank being packed
  static constexpr std::uint32_t no_place = 0xFFFFFFFFU;
  std::vector<std::uint32_t> touched_;        // own ranks with bytes in pair_
  std::vector<std::uint32_t> destinations_;   // ranks that the dispatch goes to, ascending
  std::vector<std::uint32_t> place_of_rank_;  // [ranks] in destinations_, or no_place
  std::vector<std::uint32_t> offsets_;
  std::vector<Partial> parts_;
  std::vector<std::uint32_t> store_ranks_, read_shards_;        // scratch of count_stores, of shards_of
  std::vector<Rank> home_of_;                                   // home of each query of the layer
  std::vector<std::uint8_t> observed_;                          // [queries]: eviction rules look at it
  std::vector<std::uint8_t> answered_;                          // queries for which some rank read something
  struct Link {
    std::uint32_t row;  // of the output
    Partial part;
  };
  std::vector<Link> links_;
  std::vector<float> part_o_, sink_rows_;
  std::size_t n_decoded_ = 0;  // values of part_o_
};

}  // namespace moekv
