// The arithmetic of synthetic q, k, v: random-access AR(1) latents, normal variates and RoPE, pure functions of counters so that any
// process or device regenerates any entry.
#pragma once

#include <cstddef>
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
/// j + 3 n_quads (sines). Quad j of row (a, b) of a stream, in this order:
struct NormalQuad {
  float v[4];
};
MOEKV_HD NormalQuad normal_quad(std::uint64_t seed, Stream stream, std::uint32_t a, std::uint32_t b, std::uint32_t j) {
  const Draw4 draw = draw4(seed, stream, a, b, j);
  const NormalPair even = normal_pair(draw.v[0], draw.v[2]), odd = normal_pair(draw.v[1], draw.v[3]);
  return {{even.first, odd.first, even.second, odd.second}};
}
/// Component `i` alone.
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
/// The nodes of offsets between left and right.
inline void set_bridge_nodes(BridgeNode* nodes, std::uint32_t left, std::uint32_t right) {
  if (right - left < 2) return;
  const std::uint32_t middle = (left + right) / 2;
  nodes[middle] = bridge_between(left, middle, right);
  set_bridge_nodes(nodes, left, middle);
  set_bridge_nodes(nodes, middle, right);
}
/// Those of all offsets of a block but the first.
inline void set_bridge_nodes(BridgeNode* nodes) {
  nodes[block_tokens - 1] = bridge_end();
  set_bridge_nodes(nodes, 0, block_tokens - 1);
}

/// Quad `j` of the latents of unit variance at a position, without those of other positions.
MOEKV_HD NormalQuad latent_quad(const BridgeNode* nodes, std::uint64_t seed, std::uint32_t request, std::uint32_t position, std::uint32_t j) {
  const std::uint32_t offset = position % block_tokens, begin = position - offset;
  const auto between = [&](std::uint32_t at, const NormalQuad& left, const NormalQuad& right) {
    NormalQuad quad = normal_quad(seed, Stream::kv_latent, request, begin + at, j);
    for (std::uint32_t i = 0; i < 4; ++i) quad.v[i] = bridge_value(nodes[at], left.v[i], right.v[i], quad.v[i]);
    return quad;
  };
  NormalQuad left = normal_quad(seed, Stream::kv_latent, request, begin, j);
  if (offset == 0) return left;
  std::uint32_t from = 0, to = block_tokens - 1;
  NormalQuad right = between(to, left, left);
  while (offset != to) {
    const std::uint32_t middle = (from + to) / 2;
    const NormalQuad quad = between(middle, left, right);
    if (offset <= middle) {
      to = middle;
      right = quad;
    } else {
      from = middle;
      left = quad;
    }
  }
  return right;
}

/// cos and sin of the RoPE angle of a pair at a position; `turns` is the pair's frequency in turns per position.
MOEKV_HD CosSin rope_angle(std::uint32_t position, double turns) {
  const double angle = position * turns;
  const auto fraction = static_cast<float>(angle - static_cast<double>(static_cast<std::int64_t>(angle)));
  return cos_sin_turns(fraction < 1.0F ? fraction : 0.0F);
}
MOEKV_HD void rotate_pair(float& first, float& second, const CosSin& angle) {
  const float x = first;
  const float y = second;
  first = x * angle.cos - y * angle.sin;
  second = x * angle.sin + y * angle.cos;
}
/// Half-split RoPE of one row in place: channel i turns with channel i + n_pairs.
MOEKV_HD void rotate_row(float* row, const CosSin* angles, std::uint32_t n_pairs) {
  for (std::uint32_t i = 0; i < n_pairs; ++i) rotate_pair(row[i], row[i + n_pairs], angles[i]);
}

/// The earlier position whose key a query leans towards: uniform over the `reach` positions before `position` (reach <= position, > 0).
MOEKV_HD std::uint32_t target_position(std::uint32_t word, std::uint32_t position, std::uint32_t reach) {
  return position - 1 - static_cast<std::uint32_t>(static_cast<std::uint64_t>(word) * reach >> 32);
}

/// The position that a query leans towards, drawn of the stream of its head; no_target where there is none before it within `reach` positions.
inline constexpr std::uint32_t no_target = 0xFFFFFFFFU;
MOEKV_HD std::uint32_t query_target(std::uint64_t head_seed, std::uint32_t request, std::uint32_t position, std::uint32_t reach) {
  const std::uint32_t within = position < reach ? position : reach;
  return within == 0 ? no_target : target_position(draw4(head_seed, Stream::query, request, position, 0).v[0], position, within);
}

/// A channel of a query before RoPE: noise, and the target's key along the key's gain. `expert`: what its experts add.
MOEKV_HD float query_value(bool has_target, float noise, float target, float gain, float expert, float scale) {
  const float noise_share = sqrt_fixed(1.0F - target_share * target_share);
  const float along = target_share * (target / gain) + expert;
  return scale * ((has_target ? noise_share : 1.0F) * noise + along) / gain;
}

/// What a token's V row is multiplied by.
MOEKV_HD float value_norm(std::uint64_t latent_seed, std::uint32_t request, std::uint32_t position, std::uint32_t n_quads) {
  const Draw4 draw = draw4(latent_seed, Stream::kv_latent, request, position, n_quads);
  return exp_fixed(token_norm_sigma * normal_pair(draw.v[0], draw.v[2]).first);
}

/// The map of one plane of a head as the generator keeps it.
struct PlaneView {
  const float* weights;        // [rank][n_columns]
  const float* deviation;      // [rank], of the latents
  const float *gain, *offset;  // [dim]
  std::uint64_t latent_seed;
  std::uint32_t rank, dim, n_columns;
  friend bool operator==(const PlaneView&, const PlaneView&) = default;
};

enum class RowKind : std::uint8_t { key, value, query };
inline constexpr std::size_t n_row_kinds = 3;

/// Channels [first, first + dim) of what a head has of every token: the mapped latents of the position, or for queries of its target, finished as
/// the kind says. Sink tokens' rows are multiplied by `sink_scale`, and channel `sink_channel` of the plane, where there is one, gets `sink_value`
/// more; in a query of any token it becomes `sink_value`.
struct RowPlan {
  static constexpr std::uint32_t no_channel = 0xFFFFFFFFU;
  RowKind kind = RowKind::key;
  bool rotates = false;
  std::uint32_t plane = 0;
  std::uint32_t first = 0;
  std::uint32_t sink_channel = no_channel;
  float sink_value = 0, sink_scale = 1;
  // Of queries:
  std::uint64_t target_seed = 0, noise_seed = 0;
  std::uint32_t reach = 0;
  float scale = 1;
};

/// Positions [begin, end) of a request, of which those from query_begin on have queries.
struct RowRange {
  std::uint32_t request, begin, end, query_begin;
  std::uint64_t first_token, first_query;  // among all ranges
};

}  // namespace moekv::generate
