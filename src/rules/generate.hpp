// The arithmetic of synthetic q, k, v: random-access AR(1) latents, normal variates and RoPE, pure functions of counters so that any
// process or device regenerates any entry.
#pragma once

#include <cstdint>

#include "core/hd.hpp"
#include "core/math.hpp"
#include "core/rng.hpp"

namespace moekv::generate {

// The recipe's constants (compression.md section 9).
inline constexpr std::uint32_t block_tokens = 64;  // AR(1) starts anew, from stationarity, at every multiple of this position
inline constexpr double correlation = 0.8;         // of a latent between neighbouring positions of a block
inline constexpr double key_spectrum = 0.9;        // latent i of a key has variance proportional to (i + 1)^-key_spectrum
inline constexpr double value_spectrum = 0.35;
inline constexpr float gain_sigma = 0.25F;        // channel gains are exp(N(0, gain_sigma^2))
inline constexpr float offset_share = 0.5F;       // channel offsets are offset_share * gain * N(0, 1)
inline constexpr float outlier_offset = 8.0F;     // |mean| of an outlier channel; its gain grows by outlier_offset / 3
inline constexpr float bias_offset = 460.0F;      // preset C: +bias on one channel of a slow RoPE pair, -bias on the other
inline constexpr float token_norm_sigma = 0.35F;  // V rows are scaled by exp(N(0, token_norm_sigma^2))
inline constexpr float target_share = 0.35F;      // amplitude of a query's component along its target key
inline constexpr float logit_std = 1.5F;          // over the keys of one query
inline constexpr std::uint32_t sink_tokens = 4;
inline constexpr float sink_query = 2.0F;         // every query's value in the sink channel
inline constexpr float sink_logit = 8.0F;         // what that channel adds to the logit of a sink token
inline constexpr float sink_value_scale = 0.05F;  // of the V rows of sink tokens
inline constexpr float learned_sink_mean = 6.0F;  // learned sink logits are N(mean, 1): about half the mass of a 128-token window

/// Two normal variates of two words (Box-Muller), without a branch so that loops over words vectorise.
struct NormalPair {
  float first, second;
};
MOEKV_HD NormalPair normal_pair(std::uint32_t radius_word, std::uint32_t angle_word) {
  const float radius = sqrt_fixed(-2.0F * log_fixed(uniform_open(radius_word)));
  const auto [c, s] = cos_sin_turns(uniform_float(angle_word));
  return {radius * c, radius * s};
}

/// Rows of normals are drawn in quads: draw j of `n_quads` holds components j, j + n_quads (words 0 and 1, cosines), j + 2 n_quads and
/// j + 3 n_quads (sines). Component `i` of row (a, b) of a stream:
MOEKV_HD float normal_component(std::uint64_t seed, Stream stream, std::uint32_t a, std::uint32_t b, std::uint32_t n_quads, std::uint32_t i) {
  const Draw4 draw = draw4(seed, stream, a, b, i % n_quads);
  const std::uint32_t part = i / n_quads;
  const NormalPair pair = normal_pair(draw.v[part & 1U], draw.v[(part & 1U) + 2]);
  return part < 2 ? pair.first : pair.second;
}

/// How position `offset` of a block follows from two already known ones: x = from_left x_left + from_right x_right + noise N(0, 1).
/// Drawing 0, then 63, then midpoints gives exactly the law of the AR(1) process, and any position after at most eight draws.
struct BridgeNode {
  float from_left = 0, from_right = 0, noise = 1;
};

/// The node between known offsets left < middle < right.
MOEKV_HD BridgeNode bridge_between(std::uint32_t left, std::uint32_t middle, std::uint32_t right) {
  double a = 1.0;
  double b = 1.0;
  for (std::uint32_t i = left; i < middle; ++i) a *= correlation;
  for (std::uint32_t i = middle; i < right; ++i) b *= correlation;
  const double scale = 1.0 / (1.0 - a * a * b * b);
  const double variance = (1.0 - a * a) * (1.0 - b * b) * scale;
  return {static_cast<float>(a * (1.0 - b * b) * scale), static_cast<float>(b * (1.0 - a * a) * scale), sqrt_fixed(static_cast<float>(variance))};
}
/// The block's last offset, from offset 0 alone.
MOEKV_HD BridgeNode bridge_end() {
  double a = 1.0;
  for (std::uint32_t i = 0; i + 1 < block_tokens; ++i) a *= correlation;
  return {static_cast<float>(a), 0.0F, sqrt_fixed(static_cast<float>(1.0 - a * a))};
}
MOEKV_HD float bridge_value(const BridgeNode& node, float left, float right, float normal) {
  return node.from_left * left + node.from_right * right + node.noise * normal;
}

/// cos and sin of the RoPE angle of a pair at a position; `turns` is the pair's frequency in turns per position.
MOEKV_HD CosSin rope_angle(std::uint32_t position, double turns) {
  const double angle = position * turns;
  const auto fraction = static_cast<float>(angle - static_cast<double>(static_cast<std::int64_t>(angle)));
  return cos_sin_turns(fraction < 1.0F ? fraction : 0.0F);
}
/// Half-split RoPE of one row in place: channel i turns with channel i + n_pairs.
MOEKV_HD void rotate_row(float* row, const CosSin* angles, std::uint32_t n_pairs) {
  for (std::uint32_t i = 0; i < n_pairs; ++i) {
    const float x = row[i];
    const float y = row[i + n_pairs];
    row[i] = x * angles[i].cos - y * angles[i].sin;
    row[i + n_pairs] = x * angles[i].sin + y * angles[i].cos;
  }
}

/// The earlier position whose key a query leans towards: uniform over the `reach` positions before `position` (reach <= position, > 0).
MOEKV_HD std::uint32_t target_position(std::uint32_t word, std::uint32_t position, std::uint32_t reach) {
  return position - 1 - static_cast<std::uint32_t>(static_cast<std::uint64_t>(word) * reach >> 32);
}

}  // namespace moekv::generate
