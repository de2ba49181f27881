// ReuseClock: how long ago the pages that share a budget were looked up before: in lookups, and in distinct pages between.
#pragma once

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "engine/statistics.hpp"

namespace moekv {

/// Units are pages that are always looked up one right after another: a chain whose lookups are all or none, or a single page. O(log units) a lookup
/// of a unit, whatever its pages; memory grows with the units.
class ReuseClock {
 public:
  static constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
  /// What the lookup of a unit finds: its first `pages` pages were looked up before, each `time` lookups ago, with `distance` other pages since.
  struct Before {
    std::uint32_t pages = 0;
    std::uint64_t time = 0, distance = 0;
  };

  /// Lookups so far.
  [[nodiscard]] std::uint64_t now() const { return now_; }
  /// A unit that was not looked up yet.
  [[nodiscard]] std::uint32_t add();
  /// Its pages are in no distance from now on. The number may come again.
  void remove(std::uint32_t unit);
  /// The unit, grown to `pages` pages, is looked up.
  Before look_up(std::uint32_t unit, std::uint32_t pages);
  void transfer(StateStream& stream);

 private:
  struct Unit {
    std::uint64_t last = 0;     // lookups before the unit's last one
    std::uint32_t slot = none;  // its place in the order of last lookups
    std::uint32_t pages = 0;    // looked up so far
  };
  void weigh(std::uint32_t slot, std::uint32_t change);
  /// Pages of the slots up to this one. Cheap for a slot that follows the last one asked for, as when units are looked up in their order of before.
  [[nodiscard]] std::uint32_t weight_up_to(std::uint32_t slot);
  /// Brings the tree up to date.
  void settle();
  void build_tree();
  /// Closes the gaps of the order, with room for as many slots again.
  void compact();

  std::uint64_t now_ = 0;
  std::uint32_t next_slot_ = 0, weight_ = 0;
  std::vector<Unit> units_;
  std::vector<std::uint32_t> free_, owner_, weights_, tree_;     // [slots] unit or none, pages; a Fenwick tree of pages, but for changes_
  std::vector<std::pair<std::uint32_t, std::uint32_t>> changes_;  // (slot, change)
  std::uint32_t asked_ = none, sum_ = 0;                          // the last slot asked for and the pages up to it, as they are now
};

/// What the lookups and evictions of a window say about reuse.
struct ReuseCounts {
  LogBins eviction_age, reuse_distance, reuse_time;

  void add(const ReuseClock::Before& before) {
    if (before.pages == 0) return;
    reuse_distance.add(before.distance, before.pages);
    reuse_time.add(before.time, before.pages);
  }
};

}  // namespace moekv
