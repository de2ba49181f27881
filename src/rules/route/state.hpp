// Updates of the state that routing rules keep between steps: averages of load and misses, biases, penalties made from them.
#pragma once

#include <cstdint>

#include "core/hd.hpp"
#include "core/math.hpp"
#include "rules/route/rule.hpp"

namespace moekv::route {

/// Values below this count as nothing.
inline constexpr float state_floor = 0x1p-100F;

/// load = decay load + (1 - decay) E share; a step without choices changes nothing.
MOEKV_HD void average_load(float decay, std::uint32_t n_experts, const StepCounts& step, const LayerState& state) {
  std::int64_t total = 0;
  for (std::uint32_t e = 0; e < n_experts; ++e) total += step.load[e];
  if (total == 0) return;
  const float scale = static_cast<float>(n_experts) / static_cast<float>(total);
  for (std::uint32_t e = 0; e < n_experts; ++e) {
    const float x = decay * state.load[e] + (1.0F - decay) * (static_cast<float>(step.load[e]) * scale);
    state.load[e] = x < state_floor ? 0.0F : x;
  }
}

/// miss = decay miss + misses of the step.
MOEKV_HD void decay_misses(float decay, std::uint32_t n_experts, const StepCounts& step, const LayerState& state) {
  for (std::uint32_t e = 0; e < n_experts; ++e) {
    const float x = decay * state.miss[e] + static_cast<float>(step.missed[e]);
    state.miss[e] = x < state_floor ? 0.0F : x;
  }
}

/// bias += u sign(mean count - count), the aux-loss-free balancing of DeepSeek-V3. The sign is taken of whole numbers.
MOEKV_HD void step_bias(float u, std::uint32_t n_experts, const StepCounts& step, const LayerState& state) {
  std::int64_t total = 0;
  for (std::uint32_t e = 0; e < n_experts; ++e) total += step.load[e];
  for (std::uint32_t e = 0; e < n_experts; ++e) {
    const std::int64_t over = step.load[e] * static_cast<std::int64_t>(n_experts) - total;
    state.bias[e] += over > 0 ? -u : over < 0 ? u : 0.0F;
  }
}

MOEKV_HD float mean_of(const float* x, std::uint32_t n) {
  float sum = 0.0F;
  for (std::uint32_t i = 0; i < n; ++i) sum += x[i];
  return sum / static_cast<float>(n);
}

/// h2(u) = -u ln u - (1 - u) ln(1 - u), the entropy of being chosen or not; 0 at 0 and 1.
MOEKV_HD float binary_entropy(float u) {
  if (!(u > 0.0F) || !(u < 1.0F)) return 0.0F;
  return -u * log_fixed(u) - (1.0F - u) * log_fixed(1.0F - u);
}

/// h2 of expert e's share u_e of the averaged load, times beta, taken off z.
MOEKV_HD void penalise_share(float beta, const LayerState& state, std::uint32_t n_experts, float* z) {
  const float sum = mean_of(state.load, n_experts) * static_cast<float>(n_experts);
  for (std::uint32_t e = 0; sum > 0.0F && e < n_experts; ++e) z[e] -= beta * binary_entropy(state.load[e] / sum);
}

/// lambda ln(1 + miss_e), taken off z.
MOEKV_HD void penalise_misses(float lambda, const LayerState& state, std::uint32_t n_experts, float* z) {
  for (std::uint32_t e = 0; e < n_experts; ++e) z[e] -= lambda * log_fixed(1.0F + state.miss[e]);
}

}  // namespace moekv::route
