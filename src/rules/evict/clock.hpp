// clock and sieve: a queue in order of storing with one reference bit; an access sets the bit and moves nothing.
#pragma once

#include <string_view>
#include <tuple>

#include "rules/evict/queue.hpp"
#include "rules/evict/rule.hpp"

namespace moekv::evict {

/// One list in order of storing, one bit for each unit.
struct MarksAccesses {
  static constexpr Family family = Family::queue;
  static constexpr bool refreshes = true;

  void insert(Queue& q, std::uint32_t u) const {
    q.node(u).mark = 0;
    q.push(0, u);
  }
  void access(Queue& q, std::uint32_t u) const { q.node(u).mark = 1; }
};

struct Clock : MarksAccesses {
  static constexpr std::string_view name = "clock";
  static constexpr std::string_view doc = "fifo with a second chance: an accessed unit is put back as new once";
  static constexpr std::string_view source = "classical (Corbato 1968)";
  static constexpr auto params = std::tuple{};

  template <class F>
  [[nodiscard]] std::uint32_t victim(Queue& q, F&& standing) const {
    // Second chances at the front, all at once.
    std::uint32_t last = no_unit;
    for (std::uint32_t u = q.list(0).head; u != no_unit && q.node(u).mark != 0 && standing(u) == Standing::evictable; u = q.node(u).next) {
      q.node(u).mark = 0;
      last = u;
    }
    if (last != no_unit) q.rotate(0, last);
    for (;;) {
      const std::uint32_t u = q.oldest(0, standing);
      if (u == no_unit) return u;
      if (q.node(u).mark == 0) {
        u == q.list(0).head ? (void)q.pop(0) : q.remove(u);
        return u;
      }
      q.node(u).mark = 0;
      q.move(0, u);
    }
  }
};

/// Zhang et al. 2024: the hand walks from the oldest to the newest unit and stays where it was.
struct Sieve : MarksAccesses {
  static constexpr std::string_view name = "sieve";
  static constexpr std::string_view doc = "SIEVE: a hand clears reference bits in place, the first unit without one goes";
  static constexpr std::string_view source = "SIEVE, NSDI 2024";
  static constexpr auto params = std::tuple{};

  template <class F>
  [[nodiscard]] std::uint32_t victim(Queue& q, F&& standing) const {
    if (q.oldest(0, standing) == no_unit) return no_unit;  // also: what is permanent leaves the queue
    std::uint32_t u = q.state().hand != no_unit ? q.state().hand : q.list(0).head;
    for (;;) {
      const std::uint32_t next = q.node(u).next;
      if (standing(u) == Standing::evictable) {
        if (q.node(u).mark == 0) break;
        q.node(u).mark = 0;
      }
      u = next != no_unit ? next : q.list(0).head;
    }
    q.state().hand = u;
    q.remove(u);  // moves the hand on
    return u;
  }
};

}  // namespace moekv::evict
