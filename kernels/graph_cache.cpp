// A batch is captured when it comes the second time: what never returns costs no graph, and kernels are loaded before they are captured.
#include "graph_cache.hpp"

#include <algorithm>
#include <utility>

namespace moekv::kernels {

void GraphCache::enqueue(const DeviceBatch& batch) {
  if (batch.bytes > 0) device_->copy(batch.to, batch.from, batch.bytes);
  for (const AnyLaunch& any : batch.launches) std::visit([&](const auto& work) { device_->launch(work); }, any);
}

GraphCache::Entry* GraphCache::find(const DeviceBatch& batch) {
  const auto it = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.batch == batch; });
  if (it != entries_.end()) {
    entries_.splice(entries_.begin(), entries_, it);
    return &entries_.front();
  }
  if (entries_.size() == most_graphs) {
    if (entries_.back().graph != nullptr) device_->synchronize();  // it may still run
    entries_.pop_back();
  }
  entries_.push_front({batch, nullptr, false});
  return nullptr;
}

void GraphCache::run(const DeviceBatch& batch) {
  Entry* entry = enabled_ && !batch.launches.empty() ? find(batch) : nullptr;
  if (entry != nullptr && entry->graph == nullptr && !entry->refused) {
    device_->begin_capture();
    enqueue(batch);
    entry->graph = device_->end_capture();
    entry->refused = entry->graph == nullptr;
    work_.graph_captures += entry->refused ? 0 : 1;
  }
  if (entry != nullptr && entry->graph != nullptr) {
    device_->launch(*entry->graph);
    work_.graph_launches += 1;
    return;
  }
  enqueue(batch);
  work_.plain_batches += batch.launches.empty() ? 0 : 1;
}

void GraphCache::clear() {
  device_->synchronize();
  entries_.clear();
}

BackendWork GraphCache::take_work() { return std::exchange(work_, {}); }

}  // namespace moekv::kernels
