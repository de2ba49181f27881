// Shard, copies: what a slot knows of the other copies of its token, and how it learns that one of them went.
#include <algorithm>

#include "engine/copies.hpp"
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

void Shard::forget_in_page(std::uint32_t index, const Notice& gone) {
  const Page& page = pages_[index];
  if (gone.position < page.min_position || gone.position > page.max_position) return;
  const std::uint32_t* positions = &positions_[at(index, 0)];
  for (std::uint32_t slot = 0; slot < page.used; ++slot) {
    const std::size_t i = at(index, slot);
    if (positions[slot] != gone.position || !live(index, slot) || copy_[i] == gone.copy) continue;
    alive_[i] &= ~(1U << gone.copy);
    if ((smaller_[i] >> gone.copy & 1U) == 0) continue;  // it stood before none of this slot's readers
    if (blockers_kept_) unblock(index, slot, gone.copy);
    if (geometry_->spec().read.copies == CopyRule::surviving && (alive_[i] & smaller_[i]) == 0) set_primary(index, slot, true);
  }
}

std::size_t Shard::page_from(const Chain& chain, std::size_t first, std::uint32_t position) const {
  const auto lies_before = [&](std::uint32_t page) { return pages_[page].max_position < position; };
  const std::size_t n = chain.pages.size() - first;
  const auto pages = chain.pages.begin() + static_cast<std::ptrdiff_t>(first);
  std::size_t begin = 0, end = 1;  // what leaves is mostly old, and close to what left before it
  for (; end <= n && lies_before(pages[static_cast<std::ptrdiff_t>(end - 1)]); end *= 2) begin = end;
  const auto found = std::partition_point(pages + static_cast<std::ptrdiff_t>(begin), pages + static_cast<std::ptrdiff_t>(std::min(end, n)), lies_before);
  return static_cast<std::size_t>(found - chain.pages.begin());
}

void Shard::forget_copies(std::span<const Notice> gone) {
  const Group* group = find(gone.front().request, gone.front().layer, gone.front().head_group);
  if (group == nullptr) return;
  for (const Chain& chain : group->chains) {
    std::size_t p = 0;
    for (const Notice& notice : gone) {
      if (chain.ascending) {
        p = page_from(chain, p, notice.position);
        if (p == chain.pages.size()) break;
        forget_in_page(chain.pages[p], notice);
      } else {
        for (const std::uint32_t page : chain.pages) forget_in_page(page, notice);
      }
    }
  }
}

}  // namespace moekv
