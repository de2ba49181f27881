// ShardedCache: the layer step as one function: tokens, q, k, v and routing of one layer in, attention outputs out (MODEL sections 7, 15).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/transport.hpp"
#include "device/backend.hpp"
#include "engine/counters.hpp"
#include "engine/evictor.hpp"
#include "engine/geometry.hpp"
#include "engine/home.hpp"
#include "engine/owner.hpp"
#include "engine/page_mover.hpp"
#include "engine/phase_timer.hpp"
#include "engine/request_table.hpp"

namespace moekv {

/// Process p of n hosts the ranks [first_rank_of(p), first_rank_of(p + 1)): contiguous blocks that differ by at most one.
[[nodiscard]] constexpr std::uint32_t first_rank_of(int p, std::uint32_t n_ranks, int n_processes) {
  return static_cast<std::uint32_t>(std::uint64_t{n_ranks} * static_cast<std::uint64_t>(p) / static_cast<std::uint64_t>(n_processes));
}

/// The caches of the logical ranks that this process hosts. All calls are collective over the transport and made in the same order everywhere.
class ShardedCache {
 public:
  ShardedCache(const Geometry& geometry, Backend& backend, Transport& transport, std::uint32_t n_requests);

  /// Logical ranks of this process: [first_rank, end_rank).
  [[nodiscard]] Rank first_rank() const { return first_; }
  [[nodiscard]] Rank end_rank() const { return end_; }
  [[nodiscard]] Counters& counters() { return counters_; }
  [[nodiscard]] Transport& transport() { return *transport_; }
  [[nodiscard]] Backend& backend() { return *backend_; }
  [[nodiscard]] const RequestTable& requests() const { return requests_; }
  /// Shards of this process's ranks, ascending.
  [[nodiscard]] const std::vector<Shard>& shards() const { return owner_.shards(); }

  void begin_step(const StepBatch& batch);
  /// Phases place to touch of one layer; layers in ascending order, each at most once a step. Assumes nothing about later layers. `timer` marked when
  /// the phase before them ended, and marks when the last of them does.
  void layer_step(const LayerInput& input, LayerOutput& output, PhaseTimer& timer);
  /// Between two steps: the geometry's plan of experts becomes `plan`, and chains of experts that left their shard move to a shard that holds a
  /// replica (or to the home shard of a shadowed expert). Due evictions go first, and what then finds no room is evicted at once.
  void replan(Geometry& geometry, std::shared_ptr<const ExpertPlan> plan);
  /// Delivers the last log-sum-exps, applies accesses, frees finished requests, decides evictions. `timer` as in layer_step.
  void end_step(const StepBatch& batch, PhaseTimer& timer);
  /// From now on accesses are recorded; `accesses` has what happened on this process since its last call.
  void record_accesses();
  [[nodiscard]] std::span<const AccessEvent> accesses() { return recorder_.end_step(); }
  /// Executes evictions that are still due, without a further step.
  void execute_due();
  /// Writes end-of-window levels (resident bytes, entries, metadata) into the counters. Call after execute_due.
  void take_levels();
  /// Between two steps; what the backend holds included.
  void transfer(StateStream& stream);

 private:
  /// Ranks where copy `c` may lie: one, or after a replan that may have moved it all that hold its expert.
  void add_ranks_of(const CopySet& copies, std::uint8_t c, const Group& group, std::uint32_t position);
  void exchange();
  void evict_due(PhaseTimer& timer);
  void notify(Shard& shard, const Group& group, std::size_t slot);
  void note_peak();
  void note_lists(Shard& shard);

  const Geometry* geometry_;
  Backend* backend_;
  Transport* transport_;
  Rank first_, end_;
  std::vector<int> process_of_rank_;
  RequestTable requests_;
  Counters counters_;
  AccessRecorder recorder_;
  Home home_;
  Owner owner_;
  Evictor evictor_;
  PageMover mover_;
  std::vector<std::uint32_t> settled_;  // [requests] tokens stored before the last replan: their copies may have moved since
  std::uint64_t step_ = 0;
  std::int64_t live_tokens_ = 0;  // of requests that are not finished, stored so far
  bool due_ = false;
  bool peaks_noted_ = false;             // of every rank in this window
  std::vector<std::uint32_t> notified_;  // ranks, scratch of notify
};

}  // namespace moekv
