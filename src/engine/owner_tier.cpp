// Owner, action demote: the copies between a rank and its host memory, measured and counted.
#include <chrono>
#include <utility>

#include "engine/owner.hpp"

namespace moekv {

void Owner::copy_demoted() {
  if (!demotes_) return;
  const auto start = std::chrono::steady_clock::now();
  moves_.clear();
  StepRecord& count = counters_->step;
  for (Shard& s : shards_) {
    std::int64_t bytes = 0;
    for (const TierMove& move : std::exchange(s.demoted(), {})) {
      const Page& page = s.pages()[move.page];
      count.demotions += move.entries;
      count.demoted_pages += 1;
      bytes += static_cast<std::int64_t>(s.block_bytes_of(page));
      moves_.push_back(move.op);
    }
    count.demoted_bytes += bytes;
    counters_->host_moved(s.rank(), bytes);
  }
  if (payload_ && !moves_.empty()) {
    backend_->copy(moves_);
    backend_->sync();
  }
  demote_ns += (std::chrono::steady_clock::now() - start).count();
}

void Owner::copy_recalled() {
  if (!demotes_) return;
  const auto start = std::chrono::steady_clock::now();
  moves_.clear();
  StepRecord& count = counters_->step;
  for (Shard& s : shards_) {
    std::int64_t bytes = 0;
    for (const TierMove& move : std::exchange(s.recalled(), {})) {
      const Page& page = s.pages()[move.page];
      const Group& group = s.groups()[page.group];
      count.recalls += move.entries;
      count.recalled_pages += 1;
      bytes += static_cast<std::int64_t>(s.block_bytes_of(page));
      moves_.push_back(move.op);
      counters_->digest.add({step_, geometry_->layers()[group.layer].layer.value, Decision::recall, group.request.value, page.min_position,
                             group.chains[page.chain].expert.value, s.id().value << 8 | group.head_group, move.entries});
    }
    count.recalled_bytes += bytes;
    counters_->host_moved(s.rank(), bytes);
    if (bytes > 0) grown_.push_back(s.rank());
  }
  if (payload_ && !moves_.empty()) {
    backend_->copy(moves_);
    backend_->sync();
  }
  recall_ns += (std::chrono::steady_clock::now() - start).count();
}

void Owner::recall_unsealed() {
  for (const auto& [shard_index, index] : unsealed_) {
    Shard& s = shards_[shard_index];
    const Page& page = s.pages()[index];
    if (page.group == no_index || !page.away || page.sealed) continue;
    const Group& group = s.groups()[page.group];
    if (group.layer == layer_ && !group.chains[page.chain].side && is_due_to_seal(s, page)) s.recall(index, step_);
  }
  copy_recalled();
}

}  // namespace moekv
