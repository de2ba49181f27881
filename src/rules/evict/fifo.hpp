// fifo: the unit stored first goes first. At shard scope this is the paper's circular buffer of capacity S.
#pragma once

#include <string_view>
#include <tuple>

#include "rules/evict/queue.hpp"
#include "rules/evict/rule.hpp"

namespace moekv::evict {

/// A rule with one list whose oldest unit goes.
struct OldestFirst {
  static constexpr Family family = Family::queue;

  void insert(Queue& q, std::uint32_t u) const { q.push(0, u); }
  void access(Queue&, std::uint32_t) const {}
  template <class F>
  [[nodiscard]] std::uint32_t victim(Queue& q, F&& standing) const {
    return take_oldest(q, 0, standing);
  }
};

struct Fifo : OldestFirst {
  static constexpr std::string_view name = "fifo";
  static constexpr std::string_view doc = "oldest unit goes; scope shard = the paper's circular buffer";
  static constexpr std::string_view source = "PiKV Algorithm 1 (circular buffer)";
  static constexpr auto params = std::tuple{};
};

}  // namespace moekv::evict
