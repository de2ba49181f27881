// Merging partial rows in the order given: every thread goes through the same states and keeps its own channels. Parts are read some at a time, as
// each read waits for memory.
#pragma once

#include "launches.hpp"
#include "rules/merge.hpp"

namespace moekv::kernels {

inline constexpr std::uint32_t merge_ahead = 8;

template <class Block>
MOEKV_HD void merge_block(Block& block, const MergeLaunch& work) {
  const std::uint32_t row = block.index();
  block.free_each([&](unsigned t) {
    for (std::uint32_t c = t; c < work.d_v; c += block.n_threads()) {
      SoftmaxState state;
      float o = 0.0F;
      const std::uint32_t end = work.offsets[row + 1];
      for (std::uint32_t first = work.offsets[row]; first < end; first += merge_ahead) {
        std::uint64_t part[merge_ahead];
        SoftmaxState states[merge_ahead];
        float o_of[merge_ahead];
        for (std::uint32_t i = 0; i < merge_ahead; ++i) part[i] = work.parts[first + i < end ? first + i : end - 1];
        for (std::uint32_t i = 0; i < merge_ahead; ++i) {
          states[i] = {work.m[part[i]], work.l[part[i]]};
          o_of[i] = work.o[part[i] * work.d_v + c];
        }
        for (std::uint32_t i = 0; i < merge_ahead; ++i) {
          if (first + i < end) merge_part(state, &o, states[i], &o_of[i], 1);
        }
      }
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
