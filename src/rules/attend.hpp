// Element arithmetic of decode attention by online softmax: what one entry adds to one query head. Backends may reorder the sums, not the meaning.
#pragma once

#include <cstdint>

#include "core/hd.hpp"
#include "core/math.hpp"
#include "rules/merge.hpp"

namespace moekv {

/// q.k over d values; the caller multiplies by the softmax scale.
MOEKV_HD float dot(const float* q, const float* k, std::uint32_t d) {
  float sum = 0.0F;
  for (std::uint32_t c = 0; c < d; ++c) sum += q[c] * k[c];
  return sum;
}

/// Adds one entry with its logit and its value row v [d_v] to (state, o).
MOEKV_HD void attend_entry(SoftmaxState& state, float* o, float logit, const float* v, std::uint32_t d_v) {
  if (state.l == 0.0F) {
    state = {logit, 1.0F};
    for (std::uint32_t c = 0; c < d_v; ++c) o[c] = v[c];
    return;
  }
  if (logit > state.m) {
    const float keep = rescale_factor(state.m, logit);
    state = {logit, state.l * keep};
    for (std::uint32_t c = 0; c < d_v; ++c) o[c] *= keep;
  }
  const float p = exp_fixed(logit - state.m);
  state.l += p;
  for (std::uint32_t c = 0; c < d_v; ++c) o[c] += p * v[c];
}

/// The weight of an entry in the whole softmax whose logarithm of the denominator is `lse`: its share of attention mass.
MOEKV_HD float attention_weight(float logit, float lse) { return exp_fixed(logit - lse); }
/// ln of the denominator of a state that read something.
MOEKV_HD float log_sum_exp(const SoftmaxState& state) { return state.m + log_fixed(state.l); }

}  // namespace moekv
