// What a routing rule sees and gives: one token's logits or recorded choice in, k distinct experts with weights out.
#pragma once

#include <cstdint>

#include "core/hd.hpp"
#include "core/id.hpp"
#include "core/model_shape.hpp"

namespace moekv::route {

/// Limits of a choice; no known model comes near (E 896, k 22).
inline constexpr std::uint32_t max_experts = 1024;
inline constexpr std::uint32_t max_top_k = 64;
/// Arms of a bandit.
inline constexpr std::uint32_t max_arms = 64;

/// What a rule remembers of one layer between steps. It changes only by the rule's `update`, from whole numbers summed over all processes.
struct LayerState {
  float* load;   // [n_experts] moving average of n_experts times the expert's share of the choices: 1 everywhere when even
  float* miss;   // [n_experts] decayed count of missed pages
  float* bias;   // [n_experts] added to the scores of the choice
  float* value;  // [max_arms] mean reward of an arm
  float* pulls;  // [max_arms] steps that an arm was rewarded for
  float* worst;  // [1] largest cost of a choice so far, by which costs are measured
  std::uint32_t arm;
};

/// One step of one layer, summed over all processes.
struct StepCounts {
  const std::int64_t* load;    // [n_experts] tokens that chose the expert
  const std::int64_t* missed;  // [n_experts] page lookups under the expert's key that missed
  std::int64_t lookups = 0;    // page lookups under any expert's key
  std::int64_t model_ns = 0;   // modelled time of the whole step
  std::uint64_t step = 0;      // index of the step that follows
  std::uint32_t layer = 0;
};

/// One token at one MoE layer. Pointers are borrowed for the call; absent inputs are null.
struct TokenView {
  std::uint32_t request;
  std::uint32_t position;
  std::uint32_t layer;                          // model layer index
  const float* logits = nullptr;                // [n_experts] gate logits, or null
  const std::uint16_t* recorded_ids = nullptr;  // [top_k], ExpertId::invalid marks an absent slot
  const float* recorded_weights = nullptr;      // [top_k], or null
  const LayerState* state = nullptr;            // of rules that have an `update`
  bool prefill = true;                          // a token of the prompt: rules that are not causal leave others to top-k
};

/// Size of the choice and the seed; `gate` is the model's own gate (score function, order, scale).
struct Geometry {
  std::uint32_t n_experts;
  std::uint32_t top_k;
  std::uint64_t seed;
  GateShape gate;
};

/// The choice: ids [top_k] distinct, in descending score, then ExpertId::invalid; weights [top_k], 0 in absent slots.
struct Choice {
  std::uint16_t* ids;
  float* weights;
};

/// Work space of rules that choose for all tokens of a group at once; see scratch_floats and scratch_words.
struct Scratch {
  float* floats;
  std::uint32_t* words;
};
[[nodiscard]] MOEKV_HD std::uint64_t scratch_floats(std::uint32_t n_experts, std::uint64_t tokens) { return (tokens + 2) * (n_experts + 1ULL); }
[[nodiscard]] MOEKV_HD std::uint64_t scratch_words(std::uint32_t n_experts, std::uint64_t tokens) { return 4ULL * n_experts + tokens; }

}  // namespace moekv::route
