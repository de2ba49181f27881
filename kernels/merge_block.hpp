// Merging partial rows in the order given: every thread goes through the same states and keeps its own channels.
#pragma once

#include "launches.hpp"
#include "rules/merge.hpp"

namespace moekv::kernels {

template <class Block>
MOEKV_HD void merge_block(Block& block, const MergeLaunch& work) {
  const std::uint32_t row = block.index();
  block.free_each([&](unsigned t) {
    for (std::uint32_t c = t; c < work.d_v; c += block.n_threads()) {
      SoftmaxState state;
      float o = 0.0F;
      for (std::uint32_t i = work.offsets[row]; i < work.offsets[row + 1]; ++i) {
        const std::uint64_t part = work.parts[i];
        merge_part(state, &o, {work.m[part], work.l[part]}, work.o + part * work.d_v + c, 1);
      }
      if (work.sink != nullptr) merge_sink(state, &o, work.sink[row], 1);
      const std::uint64_t to = work.rows != nullptr ? work.rows[row] : row;
      work.o_out[to * work.d_v + c] = o;
      if (c == 0) {
        work.m_out[to] = state.m;
        work.l_out[to] = state.l;
      }
    }
  });
}

}  // namespace moekv::kernels
