// Attention mass: one thread makes that of one slot, through all that its page was read by, as the host does.
#pragma once

#include "launches.hpp"

namespace moekv::kernels {

template <class Block>
MOEKV_HD void mass_block(Block& block, const MassLaunch& work) {
  const std::uint64_t n = std::uint64_t{*work.n_pages} * work.page_slots;
  block.free_each([&](unsigned t) {
    const std::uint64_t i = std::uint64_t{block.index()} * block.n_threads() + t;
    if (i >= n) return;
    const MassPage& page = work.pages[i / work.page_slots];
    work.mass[i] = slot_mass(page, work.reads, work.tasks, work.logits, work.lse, work.heads, static_cast<std::uint32_t>(i % work.page_slots));
  });
}

}  // namespace moekv::kernels
