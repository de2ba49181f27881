// What a routing rule sees and gives: one token's logits or recorded choice in, k distinct experts with weights out.
#pragma once

#include <cstdint>

#include "core/id.hpp"
#include "core/model_shape.hpp"

namespace moekv::route {

/// One token at one MoE layer. Pointers are borrowed for the call; absent inputs are null.
struct TokenView {
  std::uint32_t request;
  std::uint32_t position;
  std::uint32_t layer;                          // model layer index
  const float* logits = nullptr;                // [n_experts] gate logits, or null
  const std::uint16_t* recorded_ids = nullptr;  // [top_k], ExpertId::invalid marks an absent slot
  const float* recorded_weights = nullptr;      // [top_k], or null
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

}  // namespace moekv::route
