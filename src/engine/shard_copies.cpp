// Shard, copies: what a slot knows of the other copies of its token, and how it learns that one of them went.
#include <algorithm>
#include <bit>

#include "engine/shard.hpp"

namespace moekv {

void Shard::set_blockers(std::uint32_t index, std::uint32_t slot) {
  const std::size_t i = at(index, slot);
  const std::uint32_t before = smaller_[i] & alive_[i];
  Chain& chain = groups_[pages_[index].group].chains[pages_[index].chain];
  for (std::size_t j = i * top_k_; before != 0 && j < (i + 1) * top_k_; ++j) {
    if (experts_[j] != ExpertId::invalid && (before >> copy_of_[j] & 1U) != 0) chain.blockers.set(pages_[index].cell, slot, experts_[j], true);
  }
  if (chain.expert.valid()) chain.blockers.set(pages_[index].cell, slot, chain.expert.value, !live(index, slot));
}

void Shard::clear_blockers(std::uint32_t index, std::uint32_t slot) {
  const std::size_t first = at(index, slot) * top_k_;
  Blockers& blockers = groups_[pages_[index].group].chains[pages_[index].chain].blockers;
  for (std::size_t j = first; j < first + top_k_; ++j) {
    if (experts_[j] != ExpertId::invalid) blockers.set(pages_[index].cell, slot, experts_[j], false);
  }
}

void Shard::unblock(std::uint32_t index, std::uint32_t slot, std::uint32_t copy) {
  const std::size_t first = at(index, slot) * top_k_;
  Blockers& blockers = groups_[pages_[index].group].chains[pages_[index].chain].blockers;
  for (std::size_t j = first; j < first + top_k_; ++j) {
    if (experts_[j] != ExpertId::invalid && copy_of_[j] == copy) blockers.set(pages_[index].cell, slot, experts_[j], false);
  }
}

void Shard::set_primary(std::uint32_t index, std::uint32_t slot, bool primary) {
  std::uint64_t& word = primary_[std::size_t{index} * words_ + slot / 64];
  const std::uint64_t bit = 1ULL << (slot % 64);
  if (((word & bit) != 0) == primary) return;
  word ^= bit;
  Page& page = pages_[index];
  Blockers::Reads& reads = groups_[page.group].chains[page.chain].primary;
  if (primary) {
    reads.entries += 1;
    if (++page.primary == 1) reads.pages += 1;
  } else {
    reads.entries -= 1;
    if (--page.primary == 0) reads.pages -= 1;
  }
}

void Shard::forget_in_page(std::uint32_t index, std::uint32_t position, std::uint32_t copy) {
  const Page& page = pages_[index];
  if (position < page.min_position || position > page.max_position) return;
  const std::uint32_t* first = &positions_[at(index, 0)];
  for (std::uint32_t slot = 0; slot < page.used; ++slot) {
    const std::size_t i = at(index, slot);
    if (first[slot] != position || !live(index, slot) || copy_[i] == copy) continue;
    alive_[i] &= ~(1U << copy);
    if ((smaller_[i] >> copy & 1U) == 0) continue;  // it stood before none of this slot's readers
    if (blockers_kept_) unblock(index, slot, copy);
    if (geometry_->spec().read.copies == CopyRule::surviving && (alive_[i] & smaller_[i]) == 0) {
      set_primary(index, slot, true);
    }
  }
}

std::ptrdiff_t Shard::first_page_from(const Chain& chain, std::uint32_t position) const {
  const auto lies_before = [&](std::uint32_t page) { return pages_[page].max_position < position; };
  const std::size_t n = chain.pages.size();
  std::size_t begin = 0, end = 1;  // what leaves is mostly old
  for (; end <= n && lies_before(chain.pages[end - 1]); end *= 2) begin = end;
  const auto first = chain.pages.begin();
  return std::partition_point(first + static_cast<std::ptrdiff_t>(begin), first + static_cast<std::ptrdiff_t>(std::min(end, n)), lies_before) - first;
}

void Shard::forget_copy(RequestId request, std::uint32_t layer, std::uint32_t head_group, std::uint32_t position, std::uint32_t copy) {
  const Group* group = find(request, layer, head_group);
  if (group == nullptr) return;
  const auto forget_in = [&](const Chain& chain) {
    auto p = chain.pages.begin() + (chain.ascending ? first_page_from(chain, position) : 0);
    for (; p != chain.pages.end() && !(chain.ascending && pages_[*p].min_position > position); ++p) forget_in_page(*p, position, copy);
  };
  if (!notes_chains_) {
    for (const Chain& chain : group->chains) forget_in(chain);
    return;
  }
  if (position >= group->chains_at.size()) return;
  for (std::uint64_t rest = group->chains_at[position]; rest != 0; rest &= rest - 1) {
    for (auto c = static_cast<std::size_t>(std::countr_zero(rest)); c < group->chains.size(); c += 64) forget_in(group->chains[c]);
  }
}

void Shard::note_chain(Group& group, std::uint32_t position, std::uint32_t chain_index) {
  if (position >= group.chains_at.size()) group.chains_at.resize(position + std::size_t{1});
  group.chains_at[position] |= 1ULL << (chain_index % 64);
}

}  // namespace moekv
