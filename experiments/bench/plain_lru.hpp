// The yardstick of policy loops: the simplest LRU there is: dense page ids, an intrusive list in arrays, no hash.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/rng.hpp"

namespace moekv {

class PlainLru {
 public:
  PlainLru(std::uint32_t n_pages, std::uint32_t capacity) : end_(n_pages), capacity_(capacity), nodes_(n_pages + 1, {n_pages, n_pages, false}) {}

  /// Hits of one more stretch of accesses.
  std::uint64_t run(std::span<const std::uint32_t> ids) {
    std::uint64_t hits = 0;
    for (const std::uint32_t id : ids) {
      Node& node = nodes_[id];
      if (node.resident) {
        ++hits;
        nodes_[node.prev].next = node.next;
        nodes_[node.next].prev = node.prev;
      } else if (size_ == capacity_) {
        const std::uint32_t victim = nodes_[end_].next;
        nodes_[victim].resident = false;
        nodes_[end_].next = nodes_[victim].next;
        nodes_[nodes_[victim].next].prev = end_;
      } else {
        ++size_;
      }
      node = {nodes_[end_].prev, end_, true};
      nodes_[node.prev].next = id;
      nodes_[end_].prev = id;
    }
    return hits;
  }

 private:
  struct Node {
    std::uint32_t prev, next;
    bool resident;
  };
  std::uint32_t end_, capacity_, size_ = 0;
  std::vector<Node> nodes_;  // nodes_[end_] is the list's end
};

/// Ids in [0, n_pages), skewed towards small ones.
inline std::vector<std::uint32_t> skewed_ids(std::uint32_t n_pages, std::size_t n) {
  std::vector<std::uint32_t> ids(n);
  for (std::size_t i = 0; i < n; ++i) {
    const double u = static_cast<double>(mix64(i) >> 11) * 0x1p-53;
    ids[i] = static_cast<std::uint32_t>(static_cast<double>(n_pages) * u * u * u);
  }
  return ids;
}

}  // namespace moekv
