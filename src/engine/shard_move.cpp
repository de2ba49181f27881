// Shard, moving: a chain leaves with its pages, its shadow of the full history and its policy state, and joins another shard.
#include <algorithm>
#include <tuple>

#include "core/error.hpp"
#include "engine/shard.hpp"

namespace moekv {

ChainMove Shard::describe_chain(std::uint32_t group_index, std::uint32_t chain_index, ShardId target) const {
  const Group& group = groups_[group_index];
  const Chain& chain = group.chains[chain_index];
  ChainMove head;
  head.request = group.request.value;
  head.layer = group.layer;
  head.head_group = group.head_group;
  head.home = group.home.value;
  head.source = id_.value;
  head.target = target.value;
  head.expert = chain.expert.value;
  head.side = chain.side ? 1 : 0;
  head.ascending = chain.ascending ? 1 : 0;
  head.n_pages = static_cast<std::uint32_t>(chain.pages.size());
  head.n_shadow = static_cast<std::uint32_t>(chain.shadow_live.size());
  const auto open = std::find(chain.pages.begin(), chain.pages.end(), chain.open);
  head.open = open != chain.pages.end() ? static_cast<std::uint32_t>(open - chain.pages.begin()) : no_index;
  head.shadow_open = chain.shadow_open;
  head.shadow_used = chain.shadow_used;
  head.shadow_cold = chain.shadow_cold;
  head.written = chain.written;
  head.alive = chain.alive;
  return head;
}

void Shard::number_queues(EvictList& list) {
  queue_order_.resize(pages_.size());
  std::uint32_t order = 0;
  for (const evict::QueueList& queue : list.queue.lists) {
    for (std::uint32_t u = queue.head; u != evict::no_unit; u = nodes_[u].next) queue_order_[u] = order++;
  }
}

void Shard::pack_chain(std::uint32_t group_index, std::uint32_t chain_index, WireWriter& out) {
  Group& group = groups_[group_index];
  const Chain& chain = group.chains[chain_index];
  if (queue_pages_) number_queues(scope_shard_ ? list_ : group.list);
  std::vector<PageMove> moves;
  std::vector<std::uint32_t> positions, shadow_of, smaller, alive;
  std::vector<std::uint64_t> words;
  std::vector<std::uint16_t> experts;
  std::vector<std::uint8_t> copy_of, copy;
  std::vector<evict::Mass> state;
  const auto append = [](auto& to, const auto& from, std::size_t first, std::size_t n) {
    to.insert(to.end(), from.begin() + static_cast<std::ptrdiff_t>(first), from.begin() + static_cast<std::ptrdiff_t>(first + n));
  };
  for (const std::uint32_t p : chain.pages) {
    const std::size_t first = at(p, 0), used = pages_[p].used;
    PageMove move{pages_[p], access_kept_ ? access_[p] : evict::Access{}};
    if (queue_pages_) {
      move.list = nodes_[p].list;
      move.mark = nodes_[p].mark;
      move.order = queue_order_[p];
    }
    moves.push_back(move);
    append(positions, positions_, first, used);
    append(shadow_of, shadow_of_, first, used);
    append(words, live_, std::size_t{p} * words_, words_);
    append(words, primary_, std::size_t{p} * words_, words_);
    append(experts, experts_, first * top_k_, used * top_k_);
    append(copy_of, copy_of_, first * top_k_, used * top_k_);
    if (geometry_->several_copies()) {
      append(smaller, smaller_, first, used);
      append(alive, alive_, first, used);
      append(copy, copy_, first, used);
    }
    if (geometry_->keeps_state()) append(state, state_, first, used);
  }
  out.put(chain.shadow_live.data(), chain.shadow_live.size());
  out.put(chain.shadow_written.data(), chain.shadow_written.size());
  out.put(moves.data(), moves.size());
  const auto put = [&](const auto&... arrays) { (out.put(arrays.data(), arrays.size()), ...); };
  put(positions, shadow_of, words, experts, copy_of, smaller, alive, copy, state);
}

void Shard::remove_chain(std::uint32_t group_index, std::uint32_t chain_index) {
  Group& group = groups_[group_index];
  Chain& chain = group.chains[chain_index];
  while (!chain.pages.empty()) {
    const std::uint32_t p = chain.pages.back();
    list_of(pages_[p]).live -= pages_[p].live;
    live_entries_ -= pages_[p].live;
    free_page(p);
  }
  std::erase(group.order, chain_index);
  forget_reuse(group, chain);
  chain = Chain{};
  chain.gone = true;
  if (!group.order.empty()) return;
  index_.erase(group_key(group.request, group.layer, group.head_group));
  group.in_use = false;
  group.list.tokens.clear();
  free_groups_.push_back(group_index);
  std::erase(dirty_, group_index);
}

void Shard::close_gaps() {
  if (!queue_tokens_) return;
  const auto left = [&](const EvictList::Token& t) { return pages_[t.page].group == no_index; };
  std::erase_if(list_.tokens, left);
  for (Group& group : groups_) {
    if (group.in_use) std::erase_if(group.list.tokens, left);
  }
}

void Shard::join_shadow(Chain& chain, const ChainMove& head, std::span<const std::uint16_t> live, std::span<const std::uint16_t> written) {
  const auto base = static_cast<std::uint32_t>(chain.shadow_live.size());
  chain.shadow_live.insert(chain.shadow_live.end(), live.begin(), live.end());
  chain.shadow_written.insert(chain.shadow_written.end(), written.begin(), written.end());
  chain.shadow_hits += static_cast<std::uint32_t>(live.size() - static_cast<std::size_t>(std::count(live.begin(), live.end(), 0)));
  chain.shadow_cold += head.shadow_cold;
  chain.written += head.written;
  chain.alive += head.alive;
  // The open page goes on with its shadow page; without one of its own the chain goes on with what came.
  if (base > 0 && (chain.open != no_index || head.open == no_index)) return;
  chain.shadow_open = base + head.shadow_open;
  chain.shadow_used = head.shadow_used;
}

void Shard::unpack_chain(const ChainMove& head, std::uint32_t request_tokens, WireReader& in, std::vector<std::uint32_t>& pages) {
  Group& group = find_or_add(RequestId(head.request), head.layer, head.head_group, Rank(head.home), request_tokens);
  const auto group_index = static_cast<std::uint32_t>(&group - groups_.data());
  Chain& chain = chain_or_add(group, ExpertId(static_cast<std::uint16_t>(head.expert)), head.side != 0);
  const auto chain_index = static_cast<std::uint32_t>(&chain - group.chains.data());
  const auto shadow_base = static_cast<std::uint32_t>(chain.shadow_live.size());
  const auto shadow_live = in.take<std::uint16_t>(head.n_shadow), shadow_written = in.take<std::uint16_t>(head.n_shadow);
  join_shadow(chain, head, shadow_live, shadow_written);
  chain.shadow_entered.resize(chain.shadow_live.size(), clock_of(group).now());
  chain.ascending = chain.ascending && chain.pages.empty() && head.ascending != 0;
  pages.clear();
  for (const PageMove& move : in.copy<PageMove>(head.n_pages)) {
    const std::uint32_t index = new_page(move.page.sealed ? sealed_pool(group, move.page.page_class) : raw_pool(group), group_index, chain_index);
    Page& page = pages_[index];
    const BlockRef block = page.block;
    const std::uint32_t cell = page.cell;
    page = move.page;
    page.group = group_index;
    page.chain = chain_index;
    page.block = block;
    page.cell = cell;
    page.shadow += shadow_base;
    if (access_kept_) access_[index] = move.access;
    chain.pages.push_back(index);
    chain.newest = std::max(chain.newest, page.max_position);
    chain.primary.entries += page.primary;
    chain.primary.pages += page.primary > 0 ? 1 : 0;
    list_of(page).live += page.live;
    live_entries_ += page.live;
    arrivals_.push_back({head.source, queue_pages_ ? move.order : 0, index, move.list, move.mark});
    pages.push_back(index);
  }
  if (chain.open == no_index && head.open != no_index) chain.open = pages[head.open];
  for (const std::uint32_t p : pages) chain.one_begun = chain.one_begun && (p == chain.open || pages_[p].used == slots_);
  unpack_slots(pages, shadow_base, in);
  if (reuse_slots_) {
    for (const std::uint32_t p : pages) {
      for (std::uint32_t slot = 0; slot < pages_[p].used; ++slot) {
        if (!live(p, slot)) chain.holes.push_back({p, slot});
      }
    }
  }
  mark_dirty(group);
}

void Shard::unpack_slots(std::span<const std::uint32_t> pages, std::uint32_t shadow_base, WireReader& in) {
  std::size_t n = 0;
  for (const std::uint32_t p : pages) n += pages_[p].used;
  const bool copies = geometry_->several_copies();
  const auto positions = in.take<std::uint32_t>(n), shadow_of = in.take<std::uint32_t>(n);
  const auto words = in.take<std::uint64_t>(pages.size() * 2 * words_);
  const auto experts = in.take<std::uint16_t>(n * top_k_);
  const auto copy_of = in.take<std::uint8_t>(n * top_k_);
  const auto smaller = in.take<std::uint32_t>(copies ? n : 0), alive = in.take<std::uint32_t>(copies ? n : 0);
  const auto copy = in.take<std::uint8_t>(copies ? n : 0);
  const auto state = in.take<evict::Mass>(geometry_->keeps_state() ? n : 0);
  std::size_t from = 0, word = 0;
  for (const std::uint32_t p : pages) {
    std::copy_n(&words[word], words_, &live_[std::size_t{p} * words_]);
    std::copy_n(&words[word + words_], words_, &primary_[std::size_t{p} * words_]);
    word += 2 * words_;
    for (std::uint32_t slot = 0; slot < pages_[p].used; ++slot, ++from) {
      const std::size_t i = at(p, slot);
      positions_[i] = positions[from];
      shadow_of_[i] = shadow_of[from] + shadow_base;
      std::copy_n(experts.begin() + static_cast<std::ptrdiff_t>(from * top_k_), top_k_, experts_.begin() + static_cast<std::ptrdiff_t>(i * top_k_));
      std::copy_n(copy_of.begin() + static_cast<std::ptrdiff_t>(from * top_k_), top_k_, copy_of_.begin() + static_cast<std::ptrdiff_t>(i * top_k_));
      if (geometry_->keeps_state()) state_[i] = state[from];
      if (!copies) continue;
      smaller_[i] = smaller[from];
      alive_[i] = alive[from];
      copy_[i] = copy[from];
      if (blockers_kept_) set_blockers(p, slot);
    }
  }
}

void Shard::settle(const RequestTable& requests) {
  std::stable_sort(arrivals_.begin(), arrivals_.end(),
                   [](const Arrival& a, const Arrival& b) { return std::tie(a.source, a.order) < std::tie(b.source, b.order); });
  for (const Arrival& a : arrivals_) {
    EvictList& list = list_of(pages_[a.page]);
    if (queue_pages_ && a.list != evict::no_list) {
      queue_of(list).push(a.list, a.page);
      nodes_[a.page].mark = a.mark;
    }
    if (!queue_tokens_) continue;
    for (std::uint32_t slot = 0; slot < pages_[a.page].used; ++slot) {
      if (live(a.page, slot)) list.tokens.push_back({a.page, slot, position(at(a.page, slot))});
    }
    // Tokens of one request came in by position.
    if (!scope_shard_) std::stable_sort(list.tokens.begin(), list.tokens.end(), [](const auto& x, const auto& y) { return x.position < y.position; });
  }
  arrivals_.clear();
  budgets_.clear();
  for (Group& group : groups_) {
    if (!group.in_use) continue;
    const std::uint64_t before = group.list.budget;
    group.list.budget = budget_of(group, requests[group.request].total_tokens);
    if (group.list.budget < before) mark_dirty(group);
  }
}

}  // namespace moekv
