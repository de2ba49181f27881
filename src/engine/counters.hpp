// Counters: what one process counts in the current window, flushed into rows; rows of all processes are merged on process 0.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/transport.hpp"
#include "engine/digest.hpp"
#include "engine/geometry.hpp"
#include "engine/records.hpp"
#include "engine/reuse.hpp"

namespace moekv {

enum class ByteClass : std::uint8_t { kv, q, partial, lse, notices, headers, pages };
inline constexpr std::size_t n_byte_classes = 7;

/// Bytes of each class in one direction of one exchange.
using ByteCounts = std::array<std::int64_t, n_byte_classes>;

class Counters {
 public:
  Counters(const Geometry& geometry, Rank first_rank, Rank end_rank);

  StepRecord step;                      // the window so far
  std::vector<LayerRecord> layers;      // [replayed layers]
  std::vector<LoadRecord> expert_load;  // [experts]
  std::vector<LoadRecord> shard_load;   // [own shards]
  std::vector<LoadRecord> rank_load;    // [own ranks]
  std::vector<CodecRecord> codec;       // [page classes], empty without a codec
  ReuseCounts reuse;
  DecisionDigest digest;
  // Page lookups of the step under an expert's key, for routers that listen to them; empty where none does. The router takes them.
  std::vector<std::int64_t> expert_missed;   // [replayed layers][experts]
  std::vector<std::int64_t> expert_lookups;  // [replayed layers]
  void listen_to_experts();
  /// Lookups of pages of one expert; `expert` is invalid where pages are of several, whose misses `missed_under` then counts.
  void looked_up_under(std::uint32_t layer, ExpertId expert, std::int64_t lookups, std::int64_t missed);
  /// A missed page for each expert that is both its own and asked for.
  void missed_under(std::uint32_t layer, const std::uint64_t* experts, std::span<const std::uint64_t> asked);

  /// Load of an expert, own shard or own rank (index from the first own one) in a replayed layer.
  void load_in_layer(Entity entity, std::uint32_t layer, std::size_t index, std::int64_t load) {
    const auto e = static_cast<std::size_t>(entity);
    layer_load_[e][layer * entities_[e] + index] += load;
  }

  /// What own rank `source` sends to `destination` in the current exchange (counted by the sender). A layer that is none: of several, the caller
  /// counts their wire_bytes.
  void sent(Rank source, Rank destination, const ByteCounts& bytes, std::uint32_t layer);
  /// The same seen by the receiver, for the conservation law and the modelled time.
  void received(Rank source, Rank destination, const ByteCounts& bytes);
  /// Closes an exchange: its modelled time on this process is the largest sum of message times of an own rank and direction. Returns it.
  std::int64_t end_exchange();
  /// A batch of blocks between a rank's device and its host memory, for the modelled time.
  void host_moved(Rank rank, std::int64_t bytes) { host_ns_[rank.value - first_.value] += geometry_->spec().cluster.network.host_ns(bytes); }
  /// Modelled times of the step's exchanges, then of its page reads, then of its host links on this process, to be maximised over processes.
  [[nodiscard]] std::vector<std::int64_t> take_step_model();
  /// The same into memory that is used again.
  void take_step_model(std::vector<std::int64_t>& values);
  /// The same without taking it.
  [[nodiscard]] std::vector<std::int64_t> step_model() const;
  /// A list of a head group of the model at the end of the window.
  void note_list(std::uint32_t layer, std::uint32_t head_group, std::uint64_t capacity, std::uint64_t live);
  /// Page bytes that an own rank read or wrote in the step, for the modelled time.
  void page_bytes_moved(Rank rank, std::int64_t bytes) { memory_bytes_[rank.value - first_.value] += bytes; }

  /// Moves the window's rows to `out` and starts the next window at `next_step`.
  void flush(std::uint64_t next_step);
  /// Collective. Rows of all processes merged by key on process 0.
  void collect(Transport& transport, RunOutcome& out);
  void transfer(StateStream& stream);

 private:
  void reset(std::uint64_t first_step);
  void flush_reuse();
  [[nodiscard]] std::vector<LayerLoadRecord> layer_load_rows() const;

  const Geometry* geometry_;
  Rank first_, end_;
  std::vector<TrafficRecord> matrix_;  // [own ranks][ranks], empty when too many ranks
  std::vector<std::int64_t> send_ns_, receive_ns_, memory_bytes_, host_ns_;
  std::vector<std::uint32_t> busy_;  // own ranks that sent or received in this exchange; one may come more than once
  std::vector<std::int64_t> exchange_ns_;
  std::vector<StepRecord> step_rows_;
  std::vector<LayerRecord> layer_rows_;
  std::vector<LoadRecord> load_rows_;
  std::vector<CodecRecord> codec_rows_;
  std::vector<HistogramRecord> histogram_rows_;
  std::array<std::size_t, 3> entities_{};
  std::array<std::vector<std::int64_t>, 3> layer_load_;  // experts, own shards, own ranks: [replayed layers][entities], of the windows that count
  std::vector<TrafficRecord> traffic_rows_;
  std::vector<AllocationRecord> allocation_, allocation_rows_;  // the window's [replayed layers][head groups of the model], and all rows
};

/// Adds row `b` to row `a` field by field as the record's metrics say (sum, max, min, key kept).
template <class Record>
void combine_rows(Record& a, const Record& b) {
  for_each_field(Record::metrics, [&](const auto& m) {
    if (m.combine == Combine::sum) a.*m.member += b.*m.member;
    if (m.combine == Combine::max && b.*m.member > a.*m.member) a.*m.member = b.*m.member;
    if (m.combine == Combine::min && b.*m.member < a.*m.member) a.*m.member = b.*m.member;
  });
}

}  // namespace moekv
