// slru, 2q, s3fifo, arc: units that are accessed again live in another list than those seen once. All but slru remember units that went
// ("ghosts"), so they need an action after which a unit can come back.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <tuple>
#include <utility>

#include "core/field.hpp"
#include "rules/evict/queue.hpp"
#include "rules/evict/rule.hpp"

namespace moekv::evict {

inline constexpr std::uint8_t came_back = 0x80;  // mark of a unit between `expect` and `insert`

/// A unit is about to come back: it leaves the ghosts before the victim that makes room for it pushes it out of them.
inline void expect_return(Queue& q, std::uint32_t u, std::uint8_t ghosts) {
  if (q.node(u).list != ghosts) return;
  q.remove(u);
  q.node(u).mark = came_back;
}
/// Whether the unit comes back; clears what `expect_return` noted.
[[nodiscard]] inline bool returns(Queue& q, std::uint32_t u, std::uint8_t ghosts) {
  expect_return(q, u, ghosts);
  return std::exchange(q.node(u).mark, std::uint8_t{0}) == came_back;
}

/// Four LRU segments of a quarter each: an access promotes by one, overflow falls back by one.
struct Slru {
  static constexpr std::string_view name = "slru";
  static constexpr std::string_view doc = "segmented LRU: four segments, an access promotes by one, overflow demotes by one";
  static constexpr std::string_view source = "segmented LRU; Karedla et al. 1994";
  static constexpr Family family = Family::queue;
  static constexpr bool refreshes = true;
  static constexpr auto params = std::tuple{};

  void insert(Queue& q, std::uint32_t u) const { q.push(0, u); }
  void access(Queue& q, std::uint32_t u) const {
    const std::uint8_t from = q.node(u).list;
    q.move(static_cast<std::uint8_t>(from < 3 ? from + 1 : 3), u);
    const std::uint32_t most = share_of(q.capacity(), 0.25F);
    for (std::uint8_t l = 3; l > 0; --l) {
      while (q.list(l).size > most) q.move(static_cast<std::uint8_t>(l - 1), q.list(l).head);
    }
  }
  template <class F>
  [[nodiscard]] std::uint32_t victim(Queue& q, F&& standing) const {
    for (std::uint8_t l = 0; l < 4; ++l) {
      const std::uint32_t u = take_oldest(q, l, standing);
      if (u != no_unit) return u;
    }
    return no_unit;
  }
};

/// 2Q, full version (Johnson and Shasha 1994). Lists: 0 A1in, 1 Am, 2 A1out (ghosts).
struct TwoQueue {
  static constexpr std::string_view name = "2q";
  static constexpr std::string_view doc = "2Q: a FIFO for new units, an LRU for those that came back from its ghosts";
  static constexpr std::string_view source = "2Q, VLDB 1994";
  static constexpr Family family = Family::queue;
  static constexpr bool refreshes = true;
  static constexpr bool needs_return = true;
  float in_share = 0.25F, out_share = 0.5F;
  static constexpr auto params = std::tuple{Param{"in_share", &TwoQueue::in_share, "1", "A1in as a share of the capacity", 0, 1},
                                            Param{"out_share", &TwoQueue::out_share, "1", "ghosts as a share of the capacity", 0, 4}};

  void expect(Queue& q, std::uint32_t u) const { expect_return(q, u, 2); }
  void insert(Queue& q, std::uint32_t u) const { q.push(returns(q, u, 2) ? 1 : 0, u); }
  void access(Queue& q, std::uint32_t u) const {
    if (q.node(u).list == 1) q.move(1, u);
  }
  template <class F>
  [[nodiscard]] std::uint32_t victim(Queue& q, F&& standing) const {
    const bool from_in = q.list(0).size > share_of(q.capacity(), in_share) || q.list(1).size == 0;
    std::uint32_t u = take_oldest(q, from_in ? 0 : 1, standing);
    const bool was_in = u != no_unit ? from_in : !from_in;
    if (u == no_unit) u = take_oldest(q, from_in ? 1 : 0, standing);
    if (u == no_unit || !was_in) return u;
    q.push(2, u);
    q.trim(2, share_of(q.capacity(), out_share));
    return u;
  }
};

/// `libcachesim` differs in two places: before the first eviction units go to main once the small queue is full, and a small queue from which a
/// unit moved to main is searched on for one that goes even where it is below its share by then.
enum class S3Form : std::uint8_t { plain, libcachesim };
constexpr auto enum_names(S3Form) { return std::array<std::string_view, 2>{"plain", "libcachesim"}; }

/// S3-FIFO (Yang et al. 2023). Lists: 0 small, 1 main, 2 ghosts; `mark` counts accesses up to 3.
struct S3Fifo {
  static constexpr std::string_view name = "s3fifo";
  static constexpr std::string_view doc = "S3-FIFO: a small FIFO filters units seen once, a main FIFO gives second chances";
  static constexpr std::string_view source = "S3-FIFO, SOSP 2023";
  static constexpr Family family = Family::queue;
  static constexpr bool refreshes = true;
  static constexpr bool needs_return = true;
  float small_share = 0.1F, ghost_share = 0.9F;
  std::uint32_t promote = 2;
  S3Form form = S3Form::plain;
  static constexpr auto params = std::tuple{Param{"small_share", &S3Fifo::small_share, "1", "small queue as a share of the capacity, at least one unit", 0, 1},
                                            Param{"ghost_share", &S3Fifo::ghost_share, "1", "ghosts as a share of the capacity", 0, 4},
                                            Param{"promote", &S3Fifo::promote, "1", "accesses after which a unit of the small queue moves to main", 1, 3},
                                            Param{"form", &S3Fifo::form, "", "libcachesim: fills main before the first eviction, and drains the small queue further"}};

  void expect(Queue& q, std::uint32_t u) const { expect_return(q, u, 2); }
  void insert(Queue& q, std::uint32_t u) const {
    const bool overflows = form == S3Form::libcachesim && q.state().target == 0.0F && q.list(0).size >= share_of(q.capacity(), small_share);
    q.push(returns(q, u, 2) || overflows ? 1 : 0, u);
  }
  void access(Queue& q, std::uint32_t u) const {
    if (q.node(u).mark < 3) q.node(u).mark += 1;
  }
  template <class F>
  [[nodiscard]] std::uint32_t victim(Queue& q, F&& standing) const {
    const std::uint32_t small = share_of(q.capacity(), small_share);
    q.state().target = 1.0F;  // there was an eviction
    bool drain = false;
    while (q.list(0).size >= small || q.list(1).size == 0 || drain) {
      const std::uint32_t u = q.oldest(0, standing);
      if (u == no_unit) break;
      q.remove(u);
      if (q.node(u).mark < promote) {
        q.push(2, u);
        q.trim(2, share_of(q.capacity(), ghost_share));
        return u;
      }
      q.node(u).mark = 0;
      q.push(1, u);
      drain = form == S3Form::libcachesim;
    }
    for (;;) {
      const std::uint32_t u = q.oldest(1, standing);
      if (u == no_unit) return take_oldest(q, 0, standing);
      q.remove(u);
      if (q.node(u).mark == 0) return u;
      q.node(u).mark -= 1;
      q.push(1, u);
    }
  }
};

/// ARC (Megiddo and Modha 2003). Lists: 0 T1, 1 T2, 2 B1, 3 B2; `target` is p.
struct Arc {
  static constexpr std::string_view name = "arc";
  static constexpr std::string_view doc = "ARC: balances units seen once against units seen again by the hits of its ghosts";
  static constexpr std::string_view source = "ARC, FAST 2003";
  static constexpr Family family = Family::queue;
  static constexpr bool refreshes = true;
  static constexpr bool needs_return = true;
  static constexpr auto params = std::tuple{};

  /// Adapts p to a unit that is about to come back; before the victim that makes room for it.
  void expect(Queue& q, std::uint32_t u) const {
    const std::uint8_t from = q.node(u).list;
    const auto size = [&](std::uint8_t l) { return static_cast<float>(q.list(l).size > 0 ? q.list(l).size : 1); };
    const auto at_least_one = [](float x) { return x > 1.0F ? x : 1.0F; };
    const auto c = static_cast<float>(q.capacity());
    float& p = q.state().target;
    q.state().second_ghost = from == 3;
    if (from == 2) p = p + at_least_one(size(3) / size(2)) < c ? p + at_least_one(size(3) / size(2)) : c;
    if (from == 3) p = p > at_least_one(size(2) / size(3)) ? p - at_least_one(size(2) / size(3)) : 0.0F;
  }
  void insert(Queue& q, std::uint32_t u) const {
    const bool returned = q.node(u).list == 2 || q.node(u).list == 3;
    q.remove(u);
    q.push(returned ? 1 : 0, u);
    q.state().second_ghost = false;
    const std::uint32_t c = q.capacity();
    q.trim(2, c > q.list(0).size ? c - q.list(0).size : 0);
    const std::uint32_t others = q.list(0).size + q.list(1).size + q.list(2).size;
    q.trim(3, 2 * c > others ? 2 * c - others : 0);
  }
  void access(Queue& q, std::uint32_t u) const {
    if (q.node(u).list <= 1) q.move(1, u);
  }
  template <class F>
  [[nodiscard]] std::uint32_t victim(Queue& q, F&& standing) const {
    const auto seen_once = static_cast<float>(q.list(0).size);
    const float p = q.state().target;
    const bool first = q.list(0).size > 0 && (seen_once > p || (q.state().second_ghost && seen_once == p) || q.list(1).size == 0);
    for (const bool from_first : {first, !first}) {
      const std::uint32_t u = take_oldest(q, from_first ? 0 : 1, standing);
      if (u == no_unit) continue;
      q.push(from_first ? 2 : 3, u);
      return u;
    }
    return no_unit;
  }
};

}  // namespace moekv::evict
