// The four rules.
#include "engine/oracle/reference_cache.hpp"

#include <algorithm>

#include "core/rng.hpp"

namespace moekv {

ReferenceCaches::ReferenceCaches(ReferenceRule rule, std::uint32_t n_pages, std::uint32_t n_caches, std::uint64_t seed)
    : rule_(rule), seed_(seed), pages_(n_pages), nodes_(rule == ReferenceRule::lru ? n_pages : 0), caches_(n_caches) {}

bool ReferenceCaches::touch(std::uint32_t cache_index, std::uint32_t page, std::uint32_t step, std::uint32_t next) {
  Cache& cache = caches_[cache_index];
  Page& p = pages_[page];
  const bool was_resident = p.resident;
  p.next = next;
  if (!was_resident) {
    p.resident = true;
    cache.size += 1;
  }
  if (p.touched != step || !was_resident) {
    p.touched = step;
    cache.touched.push_back(page);
  }
  if (rule_ == ReferenceRule::random) leave_members(cache, page);
  if (rule_ == ReferenceRule::lru) {
    evict::Queue queue(cache.queue, nodes_.data(), 0);
    was_resident ? evict::Lru{}.access(queue, page) : evict::Lru{}.insert(queue, page);
  }
  return was_resident;
}

void ReferenceCaches::leave_members(Cache& cache, std::uint32_t page) {
  Page& p = pages_[page];
  if (!p.member) return;
  const std::uint32_t last = cache.members.back();
  cache.members[p.place] = last;
  pages_[last].place = p.place;
  cache.members.pop_back();
  p.member = false;
}

void ReferenceCaches::drop(Cache& cache, std::uint32_t page) {
  pages_[page].resident = false;
  cache.size -= 1;
  if (rule_ == ReferenceRule::random) leave_members(cache, page);
  if (rule_ == ReferenceRule::lru) evict::Queue(cache.queue, nodes_.data(), 0).remove(page);
}

void ReferenceCaches::remove(std::uint32_t cache, std::uint32_t page) {
  if (pages_[page].resident) drop(caches_[cache], page);
}

void ReferenceCaches::push_far(Cache& cache, std::uint32_t page) {
  if (cache.heap.size() >= std::max<std::size_t>(min_heap, 4 * cache.size)) {
    std::erase_if(cache.heap, [&](const Far& f) { return !pages_[f.page].resident || pages_[f.page].next != f.next; });
    std::make_heap(cache.heap.begin(), cache.heap.end());
  }
  cache.heap.push_back({pages_[page].next, page});
  std::push_heap(cache.heap.begin(), cache.heap.end());
}

std::uint32_t ReferenceCaches::pop_far(Cache& cache) {
  while (!cache.heap.empty()) {
    std::pop_heap(cache.heap.begin(), cache.heap.end());
    const Far far = cache.heap.back();
    cache.heap.pop_back();
    if (pages_[far.page].resident && pages_[far.page].next == far.next) return far.page;
  }
  return evict::no_unit;
}

std::uint32_t ReferenceCaches::victim(Cache& cache, std::uint32_t step) {
  switch (rule_) {
    case ReferenceRule::lru: {
      const std::uint32_t page = cache.queue.lists[0].head;
      return page != evict::no_unit && pages_[page].touched != step ? page : evict::no_unit;
    }
    case ReferenceRule::random:
      return cache.members.empty() ? evict::no_unit : cache.members[hash_words(seed_, draws_++) % cache.members.size()];
    default: {
      // An element of a page that the step touched is stale unless the step changed nothing for it: then it comes back with the touched pages.
      std::uint32_t page = pop_far(cache);
      while (page != evict::no_unit && rule_ == ReferenceRule::forced && pages_[page].touched == step) page = pop_far(cache);
      return page;
    }
  }
}

void ReferenceCaches::order_touched(Cache& cache, std::uint32_t step) {
  if (rule_ == ReferenceRule::forced) {
    std::sort(cache.touched.begin(), cache.touched.end(), [&](std::uint32_t a, std::uint32_t b) { return Far{pages_[b].next, b} < Far{pages_[a].next, a}; });
  } else if (rule_ == ReferenceRule::lru) {  // by the last touch: the queue holds nothing else by now
    cache.touched.clear();
    for (std::uint32_t page = cache.queue.lists[0].head; page != evict::no_unit; page = nodes_[page].next) cache.touched.push_back(page);
  } else if (rule_ == ReferenceRule::random) {
    const auto key = [&](std::uint32_t page) { return std::pair(hash_words(seed_, step, page), page); };
    std::sort(cache.touched.begin(), cache.touched.end(), [&](std::uint32_t a, std::uint32_t b) { return key(a) < key(b); });
  }
}

std::uint64_t ReferenceCaches::end_step(std::uint32_t cache_index, std::uint32_t step, std::uint64_t capacity) {
  Cache& cache = caches_[cache_index];
  std::erase_if(cache.touched, [&](std::uint32_t page) { return !pages_[page].resident; });
  if (rule_ == ReferenceRule::bypass) {
    for (const std::uint32_t page : cache.touched) push_far(cache, page);
  }
  while (cache.size > capacity) {
    const std::uint32_t page = victim(cache, step);
    if (page == evict::no_unit) break;
    drop(cache, page);
  }
  std::uint64_t overcommit = 0;
  if (cache.size > capacity) {
    order_touched(cache, step);
    for (const std::uint32_t page : cache.touched) {
      if (cache.size <= capacity) break;
      drop(cache, page);
      overcommit += 1;
    }
  }
  for (const std::uint32_t page : cache.touched) {
    if (!pages_[page].resident) continue;
    if (rule_ == ReferenceRule::forced) push_far(cache, page);
    if (rule_ == ReferenceRule::random) {
      pages_[page].place = static_cast<std::uint32_t>(cache.members.size());
      pages_[page].member = true;
      cache.members.push_back(page);
    }
  }
  cache.touched.clear();
  return overcommit;
}

}  // namespace moekv
