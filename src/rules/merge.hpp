// Merges partial softmax results (m, l, o) of disjoint sets of entries, in the order given (MODEL section 7).
#pragma once

#include <cstdint>
#include <limits>

#include "core/hd.hpp"
#include "core/math.hpp"

namespace moekv {

/// m: largest logit; l: sum of exp(logit - m). Nothing read: m = -infinity, l = 0.
struct SoftmaxState {
  float m = -std::numeric_limits<float>::infinity();
  float l = 0.0F;

  [[nodiscard]] constexpr bool empty() const { return l == 0.0F; }
};

/// Factor for sums taken relative to `from` when the maximum rises to `to`; 0 where there was nothing.
MOEKV_HD float rescale_factor(float from, float to) { return from == to ? 1.0F : exp_fixed(from - to); }

/// What the sums of a state and of a partial are multiplied by when both become one.
struct MergeFactors {
  float keep, add;
};

/// Adds a partial that is not empty to `state`, which is not empty either.
MOEKV_HD MergeFactors merge_state(SoftmaxState& state, const SoftmaxState& part) {
  const float m = part.m > state.m ? part.m : state.m;
  const MergeFactors f{rescale_factor(state.m, m), rescale_factor(part.m, m)};
  state = {m, state.l * f.keep + part.l * f.add};
  return f;
}

/// Adds a partial to (state, o); an empty one changes nothing. o and part_o are [d_v], not divided by l.
MOEKV_HD void merge_part(SoftmaxState& state, float* o, const SoftmaxState& part, const float* part_o, std::uint32_t d_v) {
  if (part.l == 0.0F) return;
  if (state.l == 0.0F) {
    state = part;
    for (std::uint32_t c = 0; c < d_v; ++c) o[c] = part_o[c];
    return;
  }
  const MergeFactors f = merge_state(state, part);
  for (std::uint32_t c = 0; c < d_v; ++c) o[c] = o[c] * f.keep + part_o[c] * f.add;
}

/// Adds a learned sink logit to the denominator only (MODEL section 3). A state that read nothing stays empty: its output is 0 with or without sink.
MOEKV_HD void merge_sink(SoftmaxState& state, float* o, float sink, std::uint32_t d_v) {
  if (state.l == 0.0F) return;
  const float m = sink > state.m ? sink : state.m;
  const float keep = rescale_factor(state.m, m);
  state = {m, state.l * keep + rescale_factor(sink, m)};
  for (std::uint32_t c = 0; c < d_v; ++c) o[c] *= keep;
}

}  // namespace moekv
