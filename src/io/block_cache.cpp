// The least-recently-used list behind BlockCache.
#include "io/block_cache.hpp"

namespace moekv {

BlockPtr BlockCache::find(std::uint32_t owner, std::uint64_t index) {
  const auto it = where_.find({owner, index});
  if (it == where_.end()) return nullptr;
  recent_first_.splice(recent_first_.begin(), recent_first_, it->second);
  return it->second->second;
}

void BlockCache::insert(std::uint32_t owner, std::uint64_t index, BlockPtr block) {
  const Key key{owner, index};
  if (where_.contains(key)) return;
  resident_bytes_ += block->n_bytes;
  recent_first_.emplace_front(key, std::move(block));
  where_.emplace(key, recent_first_.begin());
  while (resident_bytes_ > capacity_bytes_ && recent_first_.size() > 1) {
    resident_bytes_ -= recent_first_.back().second->n_bytes;
    where_.erase(recent_first_.back().first);
    recent_first_.pop_back();
  }
}

}  // namespace moekv
