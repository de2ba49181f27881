// lru and mru: the unit whose last access is longest ago, or most recent, goes first; what an access is is `eviction.access`.
#pragma once

#include <string_view>
#include <tuple>

#include "rules/evict/queue.hpp"
#include "rules/evict/rule.hpp"

namespace moekv::evict {

struct Lru {
  static constexpr std::string_view name = "lru";
  static constexpr std::string_view doc = "least recently accessed unit goes; needs a sparse access definition to differ from fifo";
  static constexpr std::string_view source = "classical";
  static constexpr Family family = Family::queue;
  static constexpr bool refreshes = true;
  static constexpr auto params = std::tuple{};

  void insert(Queue& q, std::uint32_t u) const { q.push(0, u); }
  void access(Queue& q, std::uint32_t u) const { q.move(0, u); }
  template <class F>
  [[nodiscard]] std::uint32_t victim(Queue& q, F&& standing) const {
    return take_oldest(q, 0, standing);
  }
};

struct Mru {
  static constexpr std::string_view name = "mru";
  static constexpr std::string_view doc = "most recently accessed unit goes: the best causal rule for cyclic accesses";
  static constexpr std::string_view source = "classical";
  static constexpr Family family = Family::queue;
  static constexpr bool refreshes = true;
  static constexpr auto params = std::tuple{};

  void insert(Queue& q, std::uint32_t u) const { q.push(0, u); }
  void access(Queue& q, std::uint32_t u) const { q.move(0, u); }
  template <class F>
  [[nodiscard]] std::uint32_t victim(Queue& q, F&& standing) const {
    std::uint32_t u = q.list(0).tail;
    while (u != no_unit && standing(u) != Standing::evictable) u = q.node(u).prev;
    if (u != no_unit) q.remove(u);
    return u;
  }
};

}  // namespace moekv::evict
