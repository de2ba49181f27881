// Shard, tiers: pages that go to the host tier and come back. Their entries, places and state stay; their blocks and what budgets count move.
#include "engine/shard.hpp"

namespace moekv {

std::uint64_t Shard::block_bytes_of(const Page& page) const {
  const std::uint32_t width = geometry_->head_group_width(rank_, groups_[page.group].head_group);
  const BlockFormat format = page.sealed ? geometry_->sealed_format(width, page.page_class) : geometry_->raw_format(width);
  return format.block_bytes() + format.bounds_bytes();
}

BlockPool& Shard::pool_of(const Page& page) {
  const Group& group = groups_[page.group];
  if (page.sealed) return (page.away ? sealed_host_pools_ : sealed_pools_)[sealed_pool_index(group, page.page_class)];
  return (page.away ? raw_host_pools_ : raw_pools_)[pool_index(group)];
}

void Shard::leave_list(const Page& page) {
  const BlockPool& pool = pool_of(page);
  EvictList& list = list_of(page);
  list.pages -= 1;
  list.bytes -= pool.block_bytes + pool.beside_bytes;
  block_bytes_ -= static_cast<std::int64_t>(pool.block_bytes);
}

void Shard::demote(std::uint32_t index) {
  Page& page = pages_[index];
  const Group& group = groups_[page.group];
  const BlockRef from = page.block;
  leave_list(page);
  pool_of(page).free.push_back(from.index);
  EvictList& list = list_of(page);
  list.live -= page.live;
  live_entries_ -= page.live;
  page.away = true;
  page.doomed = false;
  note_eviction(group, group.chains[page.chain], page.shadow);
  page.left_at = static_cast<std::uint32_t>(list.lookups);
  BlockPool& host = pool_of(page);
  page.block = {host.pool, host.take()};
  demoted_.push_back({{from, page.block, table_key(group.request, group.layer, group.head_group)}, index, page.live});
}

void Shard::recall(std::uint32_t index, std::uint64_t step) {
  Page& page = pages_[index];
  Group& group = groups_[page.group];
  const BlockRef from = page.block;
  pool_of(page).free.push_back(from.index);
  page.away = false;
  page.returned = true;
  page.entered_step = static_cast<std::uint32_t>(step);
  BlockPool& pool = pool_of(page);
  page.block = {pool.pool, pool.take()};
  EvictList& list = list_of(page);
  list.pages += 1;
  list.bytes += pool.block_bytes + pool.beside_bytes;
  list.live += page.live;
  block_bytes_ += static_cast<std::int64_t>(pool.block_bytes);
  live_entries_ += page.live;
  if (access_kept_) access_[index] = {page.entered_step, page.entered_step};  // as of a page that is stored
  if (queue_pages_) list.turns.push_back(index);
  mark_dirty(group);
  note(AccessKind::recalled, group, group.chains[page.chain], page.shadow);
  group.chains[page.chain].shadow_entered[page.shadow] = clock_of(group).now();
  recalled_.push_back({{from, page.block, table_key(group.request, group.layer, group.head_group)}, index, page.live});
}

void Shard::need(std::uint32_t index, std::uint64_t step) {
  Page& page = pages_[index];
  if (page.away) recall(index, step);
  if (page.used_step == static_cast<std::uint32_t>(step)) return;
  EvictList& list = list_of(page);
  if (list.needed_step != step) list.needed_live = list.needed_pages = list.needed_bytes = 0;
  list.needed_step = step;
  list.needed_live += page.live;
  list.needed_pages += 1;
  list.needed_bytes += budget_bytes_of(page);
}

}  // namespace moekv
