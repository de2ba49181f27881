// Shard, pages: their allocation, their place in the eviction queues, and what they use.
#include <algorithm>
#include <utility>

#include "engine/shard.hpp"

namespace moekv {

std::uint32_t Shard::new_page(BlockPool& pool, std::uint32_t group_index, std::uint32_t chain_index) {
  if (free_pages_.empty()) {
    const auto n = static_cast<std::uint32_t>(pages_.size());
    free_pages_.push_back(n);
    pages_.emplace_back();
    const std::size_t total = std::size_t{n} + 1;
    for (auto* v : {&positions_, &shadow_of_}) v->resize(total * slots_);
    live_.resize(total * words_);
    primary_.resize(total * words_);
    if (queue_pages_) nodes_.resize(total);
    if (access_kept_) access_.resize(total);
    if (by_content_) page_units_.resize(total, no_index);
    if (geometry_->keeps_state()) state_.resize(total * slots_);
    window_mass_.resize(total * slots_ * window_heads_);
    if (top_k_ > 0) {
      experts_.resize(total * slots_ * top_k_);
      copy_of_.resize(total * slots_ * top_k_);
    }
    if (geometry_->several_copies()) {
      for (auto* v : {&smaller_, &alive_}) v->resize(total * slots_);
      copy_.resize(total * slots_);
    }
  }
  const std::uint32_t index = free_pages_.back();
  free_pages_.pop_back();
  Page& page = pages_[index];
  page = Page{};
  page.group = group_index;
  page.chain = chain_index;
  page.block = {pool.pool, pool.take()};
  if (blockers_kept_) {
    Chain& chain = groups_[group_index].chains[chain_index];
    page.cell = chain.blockers.take(geometry_->n_experts(), (slots_ + 15) / 16, chain.expert);
  }
  std::fill_n(&primary_[std::size_t{index} * words_], words_, 0);
  EvictList& list = list_of(page);
  list.pages += 1;
  list.bytes += pool.block_bytes + pool.beside_bytes;
  block_bytes_ += static_cast<std::int64_t>(pool.block_bytes);
  if (queue_pages_) nodes_[index] = {};
  return index;
}

std::uint32_t Shard::take_page(Group& group, std::uint32_t group_index, std::uint32_t chain_index) {
  const std::uint32_t index = new_page(raw_pool(group), group_index, chain_index);
  if (queue_pages_ && demotes_) list_of(pages_[index]).turns.push_back(index);
  if (queue_pages_ && !demotes_) {
    evict::Queue queue = queue_of(list_of(pages_[index]));
    std::visit(
        [&](const auto& rule) {
          if constexpr (std::decay_t<decltype(rule)>::family == evict::Family::queue) rule.insert(queue, index);
        },
        geometry_->spec().eviction.rule);
  }
  return index;
}

void Shard::free_page(std::uint32_t index) {
  Page& page = pages_[index];
  Group& group = groups_[page.group];
  Chain& chain = group.chains[page.chain];
  if (queue_pages_) queue_of(list_of(page)).remove(index);
  if (!page.away) leave_list(page);
  pool_of(page).free.push_back(page.block.index);
  if (chain.open == index) chain.open = no_index;
  if (blockers_kept_) chain.blockers.give_back(page.cell);
  const auto place = std::find(chain.pages.begin(), chain.pages.end(), index);
  if (place - chain.pages.begin() < chain.run) chain.run -= 1;
  chain.pages.erase(place);
  std::erase_if(chain.holes, [&](const Chain::Hole& h) { return h.page == index; });
  if (by_content_ && page_units_[index] != no_index) clock_of(group).remove(std::exchange(page_units_[index], no_index));
  page.group = no_index;
  std::fill_n(&live_[std::size_t{index} * words_], words_, 0);  // a page that is none has no live entry
  free_pages_.push_back(index);
}

Shard::Finished Shard::finish(RequestId request) {
  if (scope_shard_ && queue_tokens_) {  // its pages go to others, whose entries must not take the places of its own
    std::erase_if(list_.tokens, [&](const EvictList::Token& token) {
      const std::uint32_t group = pages_[token.page].group;
      return group == no_index || groups_[group].request == request;
    });
  }
  Finished dropped;
  bool held = false;
  for (std::uint32_t layer = 0; layer < geometry_->layers().size(); ++layer) {
    for (std::uint32_t hg = 0; hg < geometry_->n_head_groups(rank_); ++hg) {
      const auto it = index_.find(group_key(request, layer, hg));
      if (it == index_.end()) continue;
      held = true;
      Group& group = groups_[it->second];
      for (Chain& chain : group.chains) {
        while (!chain.pages.empty()) {
          const std::uint32_t p = chain.pages.back();
          const Page& page = pages_[p];
          dropped.entries += page.live;
          if (page.away) {
            dropped.in_host += page.live;
          } else {
            list_of(page).live -= page.live;
            live_entries_ -= page.live;
          }
          free_page(p);
        }
        forget_reuse(group, chain);
        chain.blockers = {};
      }
      if (group.list.dirty) std::erase(dirty_, it->second);
      group.in_use = false;
      free_groups_.push_back(it->second);
      index_.erase(it);
    }
  }
  if (recorder_ != nullptr && held) recorder_->add({id_.value, request.value, 0, 0, 0, 0, AccessKind::finished, 0, 0});
  return dropped;
}

void Shard::record_accesses(AccessRecorder& recorder) {
  recorder_ = &recorder;
  if (scope_shard_) note_budget(nullptr, list_);
}

void Shard::note(AccessKind kind, const Group& group, const Chain& chain, std::uint32_t shadow) const {
  if (recorder_ == nullptr) return;
  recorder_->add({id_.value, group.request.value, geometry_->layers()[group.layer].layer.value, static_cast<std::uint16_t>(group.head_group),
                  chain.expert.value, static_cast<std::uint8_t>(chain.side ? 1 : 0), kind, shadow, 1});
}

std::uint64_t Shard::table_key(RequestId request, std::uint32_t layer, std::uint32_t head_group) const {
  return group_key(geometry_->tables_of_run() ? RequestId() : request, layer, head_group);
}

std::uint64_t Shard::table_key(const Page& page) const {
  constexpr std::uint64_t foreign = std::uint64_t{1} << 62;  // requests have 28 bits
  const Group& group = groups_[page.group];
  return page.table != no_index ? foreign | page.table : table_key(group.request, group.layer, group.head_group);
}

void Shard::share_tables(Backend& backend, const CodecTables& tables) {
  for (std::uint32_t layer = 0; layer < geometry_->layers().size(); ++layer) {
    for (std::uint32_t hg = 0; hg < geometry_->n_head_groups(rank_); ++hg) {
      const std::uint32_t width = geometry_->head_group_width(rank_, hg);
      const std::size_t at = static_cast<std::size_t>(std::find(widths_.begin(), widths_.end(), width) - widths_.begin());
      const std::uint32_t first = geometry_->slice(rank_).kv_begin + hg * geometry_->heads_per_group();
      for (std::uint32_t c = 0; c < geometry_->n_classes(); ++c) {
        backend.set_tables(sealed_pools_[c * widths_.size() + at].pool, table_key(RequestId(0), layer, hg), tables.of(layer, first, width, c));
      }
    }
  }
}

std::int64_t Shard::distinct_entries() const {
  std::int64_t n = 0;
  if (geometry_->spec().read.copies == CopyRule::paper) return n;                        // where every copy counts, owners do not tell each other
  if (geometry_->several_copies() && geometry_->spec().read.copies == CopyRule::hash) {  // there the primary copy stays so when it is evicted
    for (std::uint32_t p = 0; p < pages_.size(); ++p) {
      if (pages_[p].group == no_index) continue;
      for (std::uint32_t slot = 0; slot < pages_[p].used; ++slot) n += live(p, slot) && (smaller_[at(p, slot)] & alive_[at(p, slot)]) == 0 ? 1 : 0;
    }
    return n;
  }
  for (const Group& group : groups_) {
    if (!group.in_use) continue;
    for (const Chain& chain : group.chains) n += chain.primary.entries;
  }
  return n;
}

void Shard::count_blocks(Usage& u) const {
  const auto taken = [](const BlockPool& pool) { return static_cast<std::int64_t>(pool.next - pool.free.size()); };
  for (std::size_t i = 0; i < raw_pools_.size() + sealed_pools_.size(); ++i) {
    const bool sealed = i >= raw_pools_.size();
    const std::size_t at = sealed ? i - raw_pools_.size() : i;
    const BlockPool& pool = (sealed ? sealed_pools_ : raw_pools_)[at];
    u.pages += taken(pool);
    u.bounds_bytes += taken(pool) * static_cast<std::int64_t>(geometry_->raw_format(widths_[at % widths_.size()]).bounds_bytes());
    if (sealed) u.class_bytes[at / widths_.size()] += taken(pool) * static_cast<std::int64_t>(pool.block_bytes);
  }
  for (const auto* pools : {&raw_host_pools_, &sealed_host_pools_}) {
    for (const BlockPool& pool : *pools) u.host_bytes += taken(pool) * static_cast<std::int64_t>(pool.block_bytes + pool.beside_bytes - rule_bytes_);
  }
}

void Shard::count_entries(Usage& u) const {
  if (widths_.empty()) return;
  if (sealed_pools_.empty() && !demotes_ && widths_.size() == 1) {
    u.raw_bytes = u.code_bytes = live_entries_ * geometry_->entry_bytes(widths_.front());
    return;
  }
  struct Sizes {
    std::int64_t entry = 0;
    std::array<std::int64_t, n_page_classes> codes{};
  };
  std::vector<Sizes> sizes(geometry_->n_head_groups(rank_));
  for (std::uint32_t g = 0; g < sizes.size(); ++g) {
    const std::uint32_t width = geometry_->head_group_width(rank_, g);
    sizes[g].entry = geometry_->entry_bytes(width);
    for (std::uint32_t c = 0; geometry_->compressed() && c < geometry_->n_classes(); ++c)
      sizes[g].codes[c] = static_cast<std::int64_t>(geometry_->sealed_format(width, c).block_code_bytes());
  }
  for (const Page& page : pages_) {
    if (page.group == no_index) continue;
    if (page.away) {
      u.host_entries += page.live;
      continue;
    }
    const Sizes& size = sizes[groups_[page.group].head_group];
    const std::int64_t raw = page.live * size.entry;
    u.raw_bytes += raw;
    u.code_bytes += page.sealed ? page.live * size.codes[page.page_class] / slots_ : raw;
    if (!page.sealed) continue;
    u.sealed_entries += page.live;
    u.class_entries[page.page_class] += page.live;
  }
}

Shard::Usage Shard::usage() const {
  Usage u;
  u.entries = live_entries_;
  u.bytes = block_bytes_;
  u.distinct = distinct_entries();
  count_blocks(u);
  count_entries(u);
  count_free(u);
  const auto bytes = [](const auto& v) { return static_cast<std::int64_t>(v.capacity() * sizeof(v[0])); };
  u.metadata_bytes = bytes(pages_) + bytes(groups_) + bytes(positions_) + bytes(shadow_of_) + bytes(smaller_) + bytes(alive_) + bytes(live_) +
                     bytes(primary_) + bytes(experts_) + bytes(copy_of_) + bytes(copy_) + bytes(state_) + bytes(window_mass_) + bytes(nodes_) +
                     bytes(access_) + u.bounds_bytes;
  for (const Group& group : groups_) {
    u.metadata_bytes += bytes(group.recent.rows) + bytes(group.recent.positions);
    for (const Chain& chain : group.chains)
      u.metadata_bytes +=
          bytes(chain.pages) + bytes(chain.shadow_live) + bytes(chain.shadow_written) + bytes(chain.shadow_experts) + chain.blockers.bytes();
  }
  return u;
}

}  // namespace moekv
