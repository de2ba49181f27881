// Element arithmetic of decode attention by online softmax: what one entry adds to one query head. Backends may reorder the sums, not the meaning.
#pragma once

#include <cstdint>
#include <limits>

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

/// How several values become one.
enum class Reducer : std::uint8_t { mean, sum, max };

/// The weight of an entry in the whole softmax whose logarithm of the denominator is `lse`: its share of attention mass.
MOEKV_HD float attention_weight(float logit, float lse) { return exp_fixed(logit - lse); }

/// Logits that one query kept of one head group: `stride` values from head to head, the first at `logits`; its log-sum-exps begin at `first_lse`.
struct MassTask {
  std::uint64_t logits, stride;
  std::uint32_t first_lse, n_heads;
};
/// What a task read of a page: slot i has column `column` + i of its logits, for i < n_slots.
struct MassRead {
  std::uint32_t task, column, n_slots;
};
/// The reads of a page, in the order in which their masses add up.
struct MassPage {
  std::uint32_t first_read, n_reads;
};
/// Attention that an entry got, and how many queries read it.
struct SlotMass {
  float value = 0.0F;
  std::uint32_t seen = 0;
};

/// Mass of a slot of a page: of each query the weights of its heads, reduced; then summed over the queries.
MOEKV_HD SlotMass slot_mass(const MassPage& page, const MassRead* reads, const MassTask* tasks, const float* logits, const float* lse, Reducer heads,
                            std::uint32_t slot) {
  SlotMass mass;
  for (std::uint32_t r = page.first_read; r < page.first_read + page.n_reads; ++r) {
    if (slot >= reads[r].n_slots) continue;
    const MassTask& task = tasks[reads[r].task];
    const float* x = logits + task.logits + reads[r].column + slot;
    float sum = 0.0F, most = 0.0F;
    for (std::uint32_t h = 0; h < task.n_heads; ++h) {
      const float a = attention_weight(x[h * task.stride], lse[task.first_lse + h]);
      sum += a;
      most = a > most ? a : most;
    }
    mass.value += heads == Reducer::max ? most : heads == Reducer::sum ? sum : sum / static_cast<float>(task.n_heads);
    mass.seen += x[0] > -std::numeric_limits<float>::infinity() ? 1U : 0U;
  }
  return mass;
}

/// ln of the denominator of a state that read something.
MOEKV_HD float log_sum_exp(const SoftmaxState& state) { return state.m + log_fixed(state.l); }

}  // namespace moekv
