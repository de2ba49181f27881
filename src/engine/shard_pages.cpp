// Shard, pages: their allocation, their place in the eviction queues, and what they use.
#include <algorithm>
#include <bit>
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
  if (blockers_kept_) page.cell = groups_[group_index].chains[chain_index].blockers.take(geometry_->n_experts(), (slots_ + 15) / 16);
  std::fill_n(&live_[std::size_t{index} * words_], words_, 0);
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
  chain.pages.erase(std::find(chain.pages.begin(), chain.pages.end(), index));
  std::erase_if(chain.holes, [&](const Chain::Hole& h) { return h.page == index; });
  if (by_content_ && page_units_[index] != no_index) clock_of(group).remove(std::exchange(page_units_[index], no_index));
  page.group = no_index;
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

std::int64_t Shard::distinct_in(std::uint32_t index) const {
  std::int64_t n = 0;
  if (geometry_->spec().read.copies == CopyRule::paper) return n;                        // where every copy counts, owners do not tell each other
  if (geometry_->several_copies() && geometry_->spec().read.copies == CopyRule::hash) {  // there the primary copy stays so when it is evicted
    for (std::uint32_t slot = 0; slot < pages_[index].used; ++slot)
      n += live(index, slot) && (smaller_[at(index, slot)] & alive_[at(index, slot)]) == 0 ? 1 : 0;
    return n;
  }
  for (std::size_t w = std::size_t{index} * words_; w < (std::size_t{index} + 1) * words_; ++w) n += std::popcount(live_[w] & primary_[w]);
  return n;
}

Shard::Usage Shard::usage() const {
  Usage u;
  u.entries = live_entries_;
  u.bytes = block_bytes_;
  for (std::uint32_t p = 0; p < pages_.size(); ++p) {
    const Page& page = pages_[p];
    if (page.group == no_index) continue;
    u.distinct += distinct_in(p);
    if (page.away) {
      u.host_entries += page.live;
      u.host_bytes += static_cast<std::int64_t>(block_bytes_of(page));
      continue;
    }
    u.pages += 1;
    const std::uint32_t width = geometry_->head_group_width(rank_, groups_[page.group].head_group);
    if (page.sealed) {
      u.sealed_entries += page.live;
      u.class_entries[page.page_class] += page.live;
      u.class_bytes[page.page_class] += static_cast<std::int64_t>(geometry_->sealed_format(width, page.page_class).block_bytes());
    }
    const std::int64_t raw = std::int64_t{page.live} * geometry_->entry_bytes(width);
    u.raw_bytes += raw;
    u.bounds_bytes += static_cast<std::int64_t>(geometry_->raw_format(width).bounds_bytes());
    const auto codes = page.sealed ? static_cast<std::int64_t>(geometry_->sealed_format(width, page.page_class).block_code_bytes()) : 0;
    u.code_bytes += page.sealed ? std::int64_t{page.live} * codes / slots_ : raw;
  }
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
