// lru and mru: the unit whose last access is longest ago, or most recent, goes first; what an access is is `eviction.access`.
#pragma once

#include <string_view>
#include <tuple>

#include "rules/evict/fifo.hpp"
#include "rules/evict/rule.hpp"

namespace moekv::evict {

/// The order is that of the last access.
struct Lru : OldestFirst {
  static constexpr std::string_view name = "lru";
  static constexpr std::string_view doc = "least recently accessed unit goes; needs a sparse access definition to differ from fifo";
  static constexpr std::string_view source = "classical";
  static constexpr bool refreshes = true;
  static constexpr auto params = std::tuple{};

  static constexpr std::uint8_t recency_list = 0;
  void access(Queue& q, std::uint32_t u) const { q.move(recency_list, u); }
};

struct Mru : Lru {
  static constexpr std::string_view name = "mru";
  static constexpr std::string_view doc = "most recently accessed unit goes: the best causal rule for cyclic accesses";
  static constexpr std::string_view source = "classical";

  template <class F>
  [[nodiscard]] std::uint32_t victim(Queue& q, F&& standing) const {
    std::uint32_t u = q.list(0).tail;
    while (u != no_unit && standing(u) != Standing::evictable) u = q.node(u).prev;
    if (u != no_unit) q.remove(u);
    return u;
  }
};

}  // namespace moekv::evict
