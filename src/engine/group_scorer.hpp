// GroupScorer: states of entries that depend on more than the entry: scores of a whole group by its keys, values and recent queries, or sums over layers.
#pragma once

#include <cstdint>
#include <vector>

#include "device/backend.hpp"
#include "engine/counters.hpp"
#include "engine/geometry.hpp"
#include "engine/request_table.hpp"
#include "engine/shard.hpp"

namespace moekv {

class GroupScorer {
 public:
  GroupScorer(const Geometry& geometry, Backend& backend, Counters& counters, const RequestTable& requests);

  /// Whether the eviction rule wants any of this.
  [[nodiscard]] bool active() const { return active_; }
  /// Works out the state of every live entry of the group at the end of `step`. What it reads of the store is counted.
  void score(Shard& shard, const Group& group, std::uint64_t step);
  void transfer(StateStream& stream);
  /// State of a live entry of the group that was scored last.
  [[nodiscard]] float of(std::size_t slot_index) const { return scores_[slot_index]; }

 private:
  struct Entry {
    std::uint32_t page, slot, position;
  };
  void list_entries(const Shard& shard, const Group& group);
  evict::GroupView view_of(Shard& shard, const Group& group);
  void score_rows(Shard& shard, const Group& group);
  void read_store(const Shard& shard, std::uint32_t head);
  void read_queries(const Group& group, std::uint32_t head, std::uint32_t n_heads);
  void count_bytes(const Shard& shard, std::uint32_t n_heads);
  void sum_layers(Shard& shard, const Group& group, std::uint64_t step);

  const Geometry* geometry_;
  Backend* backend_;
  Counters* counters_;
  const RequestTable* requests_;
  bool active_, sums_layers_;
  std::vector<double> turns_;                   // RoPE
  std::vector<float> scores_;                   // [slot index]
  std::vector<Entry> entries_;                  // of the group, in order of position
  std::vector<std::uint32_t> positions_, pages_, query_positions_;
  std::vector<float> states_, keys_, values_, queries_, head_scores_, group_scores_;
  std::vector<std::vector<float>> layer_sums_;  // [head group][position]
  std::uint64_t summed_step_ = ~0ULL;           // what layer_sums_ are of
  ShardId summed_shard_;
  RequestId summed_request_;
};

}  // namespace moekv
