// Small model shapes for tests that need q, k, v.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/model_shape.hpp"

namespace moekv::test {

inline ModelShape gqa_shape(std::uint32_t n_heads, std::uint32_t n_kv_heads, std::uint32_t d, std::uint32_t n_layers = 2) {
  ModelShape shape;
  shape.layers.resize(n_layers);
  shape.n_heads = n_heads;
  shape.n_kv_heads = n_kv_heads;
  shape.d_k = shape.d_v = d;
  shape.gate.n_experts = 16;
  shape.gate.top_k = 2;
  shape.rope_theta = 5e5;
  return shape;
}

inline ModelShape mla_shape(std::uint32_t n_heads, std::uint32_t d_c, std::uint32_t d_rope) {
  ModelShape shape = gqa_shape(n_heads, 1, d_c + d_rope);
  shape.d_v = d_c;
  shape.latent = {d_c, d_rope};
  shape.softmax_scale = 1.0 / std::sqrt(192.0);
  return shape;
}

}  // namespace moekv::test
