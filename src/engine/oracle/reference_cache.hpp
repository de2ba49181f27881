// ReferenceCaches: caches of whole pages that run on an AccessTrace beside each other, by one rule: what a run's policy is measured against.
//
// A step is one event: what it looks up and writes is in the cache while it lasts, and the cache is cut back to its capacity afterwards. What the
// step touched stays until then for every rule but `bypass`; where that alone exceeds the capacity, the rest of the cut is counted as overcommit
// and falls on it too.
#pragma once

#include <cstdint>
#include <vector>

#include "rules/evict/lru.hpp"

namespace moekv {

/// `bypass` and `forced` are Belady's rule: the page whose next lookup is farthest goes, with `bypass` also one that the step touched. Both are
/// optimal: no cache of that capacity misses less, or no other that keeps what it has just fetched.
enum class ReferenceRule : std::uint8_t { bypass, forced, lru, random };

class ReferenceCaches {
 public:
  ReferenceCaches(ReferenceRule rule, std::uint32_t n_pages, std::uint32_t n_caches, std::uint64_t seed);

  /// Looks `page` up in, or writes it to, its cache: resident from now on. `next` is the step of its next lookup after `step`. Returns whether it
  /// was resident.
  bool touch(std::uint32_t cache, std::uint32_t page, std::uint32_t step, std::uint32_t next);
  /// The page of a request that ended.
  void remove(std::uint32_t cache, std::uint32_t page);
  /// Cuts a cache back. Returns the overcommit in pages.
  std::uint64_t end_step(std::uint32_t cache, std::uint32_t step, std::uint64_t capacity);
  [[nodiscard]] bool resident(std::uint32_t page) const { return pages_[page].resident; }

 private:
  struct Page {
    std::uint32_t next = 0, touched = 0xFFFFFFFFU;
    std::uint32_t place = 0;  // in Cache::members
    bool resident = false, member = false;
  };
  struct Far {
    std::uint32_t next, page;
    friend bool operator<(const Far& a, const Far& b) { return a.next != b.next ? a.next < b.next : a.page < b.page; }
  };
  struct Cache {
    std::uint64_t size = 0;
    std::vector<std::uint32_t> touched;  // in this step, in order
    std::vector<Far> heap;               // Belady: by next lookup; stale elements are skipped
    std::vector<std::uint32_t> members;  // random: residents that the step has not touched
    evict::QueueState queue;             // lru
  };
  void drop(Cache& cache, std::uint32_t page);
  void leave_members(Cache& cache, std::uint32_t page);
  void push_far(Cache& cache, std::uint32_t page);
  [[nodiscard]] std::uint32_t pop_far(Cache& cache);
  /// A resident that the step has not touched, or evict::no_unit.
  [[nodiscard]] std::uint32_t victim(Cache& cache, std::uint32_t step);
  /// The order in which touched pages go under overcommit.
  void order_touched(Cache& cache, std::uint32_t step);

  static constexpr std::size_t min_heap = 64;
  ReferenceRule rule_;
  std::uint64_t seed_;
  std::uint64_t draws_ = 0;
  std::vector<Page> pages_;
  std::vector<evict::QueueNode> nodes_;  // [pages], lru
  std::vector<Cache> caches_;
};

}  // namespace moekv
