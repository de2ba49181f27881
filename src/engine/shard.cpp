// Page tables, slot maps, free lists and the shadow index of one shard.
#include "engine/shard.hpp"

#include <algorithm>
#include <bit>
#include <numeric>

#include "core/error.hpp"
#include "engine/rule_bytes.hpp"

namespace moekv {

Shard::Shard(const Geometry& geometry, ShardId id, Backend& backend, std::uint32_t max_pages)
    : id_(id), rank_(geometry.placement().owner(id)), geometry_(&geometry), slots_(geometry.page_slots()), words_((slots_ + 63) / 64) {
  const RunSpec& spec = geometry.spec();
  top_k_ = geometry.needs_experts() ? geometry.top_k() : 0;
  expert_words_ = (geometry.n_experts() + 63) / 64;
  scope_shard_ = spec.eviction.scope == EvictScope::shard;
  const bool queue = traits_of(spec.eviction.rule).family == evict::Family::queue;
  queue_pages_ = queue && geometry.unit() == EvictUnit::page;
  queue_tokens_ = queue && geometry.unit() == EvictUnit::token;
  access_kept_ = traits_of(spec.eviction.rule).needs_access;
  blockers_kept_ = geometry.blocks_by_expert();
  demotes_ = spec.eviction.action == EvictAction::demote;
  reuse_slots_ = !geometry.compressed();
  by_content_ = spec.eviction.access == AccessSource::selected || (spec.eviction.access == AccessSource::mass && !demotes_);
  clocks_.resize(scope_shard_ ? 1 : 0);
  shadow_experts_kept_ = geometry.needs_experts() && !geometry.chains_are_exact() && spec.eviction.access == AccessSource::routed;
  if (spec.eviction.budget.kind != BudgetKind::unlimited) list_.budget = spec.eviction.budget.amount;
  if (geometry.window_queries() > 0) window_heads_ = geometry.heads_per_group() * spec.model.group_size();

  rule_bytes_ = rule_bytes(geometry);
  const auto add_pools = [&](const BlockFormat& format, std::vector<BlockPool>& pools, std::vector<BlockPool>& host) {
    pools.push_back({backend.create_pool(format, max_pages), format.block_bytes(), format.bounds_bytes() + rule_bytes_, 0, {}});
    if (demotes_) host.push_back({backend.create_host_pool(pools.back().pool, max_pages), format.block_bytes(), format.bounds_bytes() + rule_bytes_, 0, {}});
  };
  for (std::uint32_t g = 0; g < geometry.n_head_groups(rank_); ++g) {
    const std::uint32_t width = geometry.head_group_width(rank_, g);
    if (std::find(widths_.begin(), widths_.end(), width) != widths_.end()) continue;
    widths_.push_back(width);
    add_pools(geometry.raw_format(width), raw_pools_, raw_host_pools_);
  }
  for (std::uint32_t c = 0; geometry.compressed() && c < geometry.n_classes(); ++c) {
    for (const std::uint32_t width : widths_) add_pools(geometry.sealed_format(width, c), sealed_pools_, sealed_host_pools_);
  }
}

std::size_t Shard::pool_index(const Group& group) const {
  const std::uint32_t width = geometry_->head_group_width(rank_, group.head_group);
  return static_cast<std::size_t>(std::find(widths_.begin(), widths_.end(), width) - widths_.begin());
}

Group* Shard::find(RequestId request, std::uint32_t layer, std::uint32_t head_group) {
  const auto it = index_.find(group_key(request, layer, head_group));
  return it != index_.end() ? &groups_[it->second] : nullptr;
}

Group& Shard::find_or_add(RequestId request, std::uint32_t layer, std::uint32_t head_group, Rank home, std::uint32_t request_tokens) {
  const auto [it, added] = index_.try_emplace(group_key(request, layer, head_group), 0);
  if (!added) return groups_[it->second];
  if (free_groups_.empty()) {
    free_groups_.push_back(static_cast<std::uint32_t>(groups_.size()));
    groups_.emplace_back();
    if (!scope_shard_) clocks_.emplace_back();
  }
  it->second = free_groups_.back();
  free_groups_.pop_back();
  Group& group = groups_[it->second];
  group = Group{};
  if (!scope_shard_) clock_of(group) = {};
  group.request = request;
  group.layer = layer;
  group.head_group = head_group;
  group.home = home;
  group.in_use = true;
  start_budget(group, request_tokens);
  return group;
}

Chain* Shard::chain_of(Group& group, ExpertId expert, bool side) {
  const auto less = [&](std::uint32_t c, std::pair<bool, ExpertId> key) { return std::pair(group.chains[c].side, group.chains[c].expert) < key; };
  const auto it = std::lower_bound(group.order.begin(), group.order.end(), std::pair(side, expert), less);
  if (it == group.order.end()) return nullptr;
  Chain& chain = group.chains[*it];
  return chain.side == side && chain.expert == expert ? &chain : nullptr;
}

Chain& Shard::chain_or_add(Group& group, ExpertId expert, bool side) {
  if (Chain* chain = chain_of(group, expert, side)) return *chain;
  const auto less = [&](std::uint32_t c, std::pair<bool, ExpertId> key) { return std::pair(group.chains[c].side, group.chains[c].expert) < key; };
  const auto it = std::lower_bound(group.order.begin(), group.order.end(), std::pair(side, expert), less);
  const auto gone = std::find_if(group.chains.begin(), group.chains.end(), [](const Chain& c) { return c.gone; });
  const auto index = static_cast<std::uint32_t>(gone - group.chains.begin());
  group.order.insert(it, index);
  if (gone == group.chains.end()) group.chains.emplace_back();
  Chain& chain = group.chains[index];
  chain.gone = false;
  chain.expert = expert;
  chain.side = side;
  return chain;
}

void Shard::write_slot(Page& page, std::uint32_t index, std::uint32_t slot, bool reused, const EntryMeta& entry) {
  const std::size_t i = at(index, slot);
  positions_[i] = entry.position;
  live_[std::size_t{index} * words_ + slot / 64] |= 1ULL << (slot % 64);
  set_primary(index, slot, entry.smaller_copies == 0 || geometry_->spec().read.copies == CopyRule::paper);
  if (geometry_->keeps_state()) state_[i] = {};
  std::fill_n(window_mass_.begin() + static_cast<std::ptrdiff_t>(i * window_heads_), window_heads_, 0.0F);
  if (blockers_kept_ && reused) clear_blockers(index, slot);
  if (top_k_ > 0) {
    std::copy(entry.experts.begin(), entry.experts.end(), &experts_[i * top_k_]);
    std::copy(entry.copy_of.begin(), entry.copy_of.end(), &copy_of_[i * top_k_]);
  }
  if (geometry_->several_copies()) {
    smaller_[i] = entry.smaller_copies;
    alive_[i] = entry.n_copies >= 32 ? ~0U : (1U << entry.n_copies) - 1;
    copy_[i] = entry.copy;
    if (blockers_kept_) set_blockers(index, slot);
  }
  page.live += 1;
  page.min_position = std::min(page.min_position, entry.position);
  page.max_position = std::max(page.max_position, entry.position);
}

void Shard::count_shadow(Chain& chain, const EntryMeta& entry, bool new_page) const {
  if (new_page) {
    chain.shadow_live.push_back(0);
    chain.shadow_written.push_back(0);
    if (shadow_experts_kept_) chain.shadow_experts.resize(chain.shadow_live.size() * expert_words_, 0);
    chain.shadow_open = static_cast<std::uint32_t>(chain.shadow_live.size() - 1);
    chain.shadow_used = 0;
  }
  chain.shadow_used += 1;
  chain.written += 1;
  chain.alive += 1;
  chain.shadow_written[chain.shadow_open] += 1;
  if (++chain.shadow_live[chain.shadow_open] == 1) chain.shadow_hits += 1;
  if (shadow_experts_kept_) {
    std::uint64_t* words = &chain.shadow_experts[chain.shadow_open * std::size_t{expert_words_}];
    for (std::size_t j = 0; j < entry.experts.size(); ++j) {
      const std::uint16_t e = entry.experts[j];
      const bool stands = entry.copy_of.empty() || entry.copy_of[j] == entry.copy;  // other copies stand for the token's other experts
      if (stands && e != ExpertId::invalid) words[e / 64] |= 1ULL << (e % 64);
    }
  }
}

Shard::Stored Shard::append(Group& group, const EntryMeta& entry, std::uint64_t step) {
  const auto group_index = static_cast<std::uint32_t>(&group - groups_.data());
  const bool side = geometry_->compressed() && entry.position < geometry_->spec().compression.sink_tokens;
  Chain& chain = chain_or_add(group, geometry_->pages_by_expert() ? entry.expert : ExpertId(), side);
  const auto chain_index = static_cast<std::uint32_t>(&chain - group.chains.data());
  std::uint32_t index = 0;
  std::uint32_t slot = 0;
  bool fresh = false;
  const bool reused = !chain.holes.empty();
  if (reused) {
    index = chain.holes.back().page;
    slot = chain.holes.back().slot;
    chain.holes.pop_back();
    chain.ascending = false;
  } else {
    if (chain.open == no_index) {
      chain.open = take_page(group, group_index, chain_index);
      chain.pages.push_back(chain.open);
      const auto now = static_cast<std::uint32_t>(step);
      pages_[chain.open].entered_step = now;
      if (access_kept_) access_[chain.open] = {now, now};
    }
    index = chain.open;
    if (pages_[index].away) recall(index, step);
    slot = pages_[index].used++;
    fresh = slot == 0;
    if (pages_[index].used == slots_) chain.open = no_index;
  }
  Page& page = pages_[index];
  // Without slot reuse a shadow page is born with each page; with it, after every page_slots entries.
  const bool new_shadow = chain.shadow_live.empty() || chain.shadow_used == slots_;
  count_shadow(chain, entry, new_shadow);
  page.shadow = chain.shadow_open;
  if (chain.shadow_live[page.shadow] == 1) note_entry(group, chain);
  chain.newest = std::max(chain.newest, entry.position);
  shadow_of_[at(index, slot)] = page.shadow;
  write_slot(page, index, slot, reused, entry);
  page.touched_step = static_cast<std::uint32_t>(step);
  EvictList& list = list_of(page);
  list.live += 1;
  live_entries_ += 1;
  if (queue_tokens_) list.tokens.push_back({index, slot, entry.position});
  mark_dirty(group);
  return {page.block, index, slot, fresh};
}

bool Shard::kill(std::uint32_t index, std::uint32_t slot) {
  Page& page = pages_[index];
  MOEKV_EXPECT(live(index, slot));
  set_primary(index, slot, false);
  live_[std::size_t{index} * words_ + slot / 64] &= ~(1ULL << (slot % 64));
  Chain& chain = groups_[page.group].chains[page.chain];
  const std::uint32_t shadow = shadow_of_[at(index, slot)];
  if (--chain.shadow_live[shadow] == 0) {
    chain.shadow_hits -= 1;
    note_eviction(groups_[page.group], chain, shadow);
    if (replan_blamed_) {
      chain.shadow_cold += 1;
      if (shadow == chain.shadow_open) chain.shadow_used = slots_;  // it stays cold: the next entry starts another
    }
  }
  chain.alive -= 1;
  if (blockers_kept_ && chain.expert.valid()) chain.blockers.set(page.cell, slot, chain.expert.value, true);
  list_of(page).live -= 1;
  live_entries_ -= 1;
  page.live -= 1;
  if (page.live == 0) {
    free_page(index);
    return true;
  }
  if (reuse_slots_ && !page.sealed) chain.holes.push_back({index, slot});
  return false;
}

SealOp Shard::seal_op(std::uint32_t index, std::uint32_t page_class) const {
  const Page& page = pages_[index];
  const Group& group = groups_[page.group];
  return {
      page.block, {sealed_pools_[sealed_pool_index(group, page_class)].pool, 0}, page.used, table_key(group.request, group.layer, group.head_group)};
}

SealOp Shard::seal(std::uint32_t index, std::uint32_t page_class) {
  Page& page = pages_[index];
  Group& group = groups_[page.group];
  Chain& chain = group.chains[page.chain];
  BlockPool& raw = raw_pool(group);
  BlockPool& sealed = sealed_pool(group, page_class);
  SealOp op = seal_op(index, page_class);
  op.to.index = sealed.take();
  raw.free.push_back(page.block.index);
  page.block = op.to;
  page.sealed = true;
  page.page_class = static_cast<std::uint8_t>(page_class);
  if (chain.open == index) {
    chain.open = no_index;
    chain.shadow_used = slots_;  // the next entry starts a page, so the shadow does too
  }
  const std::int64_t change = static_cast<std::int64_t>(sealed.block_bytes) - static_cast<std::int64_t>(raw.block_bytes);
  block_bytes_ += change;
  list_of(page).bytes += static_cast<std::uint64_t>(change);
  return op;
}

void Shard::mark_dirty(Group& group) {
  if (group.list.dirty) return;
  group.list.dirty = true;
  dirty_.push_back(static_cast<std::uint32_t>(&group - groups_.data()));
}

void Shard::mark_queried(Group& group, std::uint64_t step, std::span<const std::uint16_t> experts) {
  if (group.queried_step != step) {
    group.queried_step = step;
    group.query_experts.assign(expert_words_, 0);
    queried_.push_back(static_cast<std::uint32_t>(&group - groups_.data()));
  }
  for (const std::uint16_t e : experts) {
    if (e != ExpertId::invalid) group.query_experts[e / 64] |= 1ULL << (e % 64);
  }
}

}  // namespace moekv
