// Shard, copies: what a slot knows of the other copies of its token, and how it learns that one of them went.
#include <algorithm>

#include "engine/shard.hpp"

namespace moekv {

void Shard::set_blockers(std::uint32_t index, std::uint32_t slot) {
  const std::size_t i = at(index, slot);
  const std::uint32_t before = smaller_[i] & alive_[i];
  Blockers& blockers = groups_[pages_[index].group].chains[pages_[index].chain].blockers;
  for (std::uint32_t j = 0; j < top_k_; ++j) {
    const std::uint16_t e = experts_[i * top_k_ + j];
    if (e == ExpertId::invalid) continue;
    blockers.set(pages_[index].cell, slot, e, (before >> copy_of_[i * top_k_ + j] & 1U) != 0);
  }
}

std::uint32_t Shard::forget_in_page(std::uint32_t index, std::uint32_t position, std::uint32_t copy) {
  const Page& page = pages_[index];
  std::uint32_t touched = 0;
  if (position < page.min_position || position > page.max_position) return touched;
  const std::uint32_t* first = &positions_[at(index, 0)];
  for (std::uint32_t slot = 0; slot < page.used; ++slot) {
    const std::size_t i = at(index, slot);
    if (first[slot] != position || !live(index, slot) || copy_[i] == copy) continue;
    alive_[i] &= ~(1U << copy);
    if (blockers_kept_) set_blockers(index, slot);
    if (geometry_->spec().read.copies == CopyRule::surviving && (alive_[i] & smaller_[i]) == 0) {
      primary_[std::size_t{index} * words_ + slot / 64] |= 1ULL << (slot % 64);
    }
    touched += 1;
  }
  return touched;
}

std::uint32_t Shard::forget_copy(RequestId request, std::uint32_t layer, std::uint32_t head_group, std::uint32_t position, std::uint32_t copy) {
  std::uint32_t touched = 0;
  const Group* group = find(request, layer, head_group);
  if (group == nullptr) return touched;
  for (const Chain& chain : group->chains) {
    auto p = chain.pages.begin();
    if (chain.ascending) p = std::partition_point(p, chain.pages.end(), [&](std::uint32_t page) { return pages_[page].max_position < position; });
    for (; p != chain.pages.end() && !(chain.ascending && pages_[*p].min_position > position); ++p) touched += forget_in_page(*p, position, copy);
  }
  return touched;
}

}  // namespace moekv
