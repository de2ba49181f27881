// What an eviction rule and an allocator keep beside a page: the part of metadata that byte budgets count.
#pragma once

#include <cstdint>

#include "engine/geometry.hpp"

namespace moekv {

/// Bytes for one page of a head group, whatever it holds: states of its entries, its accesses, its place in a queue, masses of a window.
[[nodiscard]] inline std::uint64_t rule_bytes(const Geometry& geometry) {
  std::uint64_t slot = geometry.keeps_state() ? sizeof(evict::Mass) : 0, page = 0;
  if (geometry.window_queries() > 0) slot += sizeof(float) * geometry.heads_per_group() * geometry.spec().model.group_size();
  const evict::Traits& rule = traits_of(geometry.spec().eviction.rule);
  if (rule.needs_access) page += sizeof(evict::Access);
  if (rule.family == evict::Family::queue && geometry.unit() == EvictUnit::page) page += sizeof(evict::QueueNode);
  return page + slot * geometry.page_slots();
}

}  // namespace moekv
