// What the generator keeps per (layer, head): the orthogonal map, channel gains and offsets, spectra and RoPE frequencies.
#pragma once

#include <cstdint>
#include <vector>

#include "core/model_shape.hpp"

namespace moekv {

/// What kind of row a map makes. `latent` and `latent_rope` are the two parts of an MLA row.
enum class KvPlane : std::uint8_t { key, value, latent, latent_rope };

/// Channels of a plane that stand out.
enum class ChannelTail : std::uint8_t { none, outliers, bias, outliers_and_bias };

struct PlaneShape {
  KvPlane plane = KvPlane::key;
  std::uint32_t rank = 0;  // latents per row
  std::uint32_t dim = 0;   // channels per row
  double spectrum = 0;     // variance of latent i proportional to (i + 1)^-spectrum, sum = dim
  bool gains = false;      // channel gains and offsets
  ChannelTail tail = ChannelTail::none;
};

/// row = gain * (orthogonal^T (deviation * latents)) + offset. Immutable once made; a pure function of (seed, plane, layer, head).
struct PlaneMap {
  std::uint64_t latent_seed = 0;
  std::uint32_t rank = 0, n_quads = 0, dim = 0, n_columns = 0;  // n_quads = ceil(rank / 4); n_columns = dim padded for map_rows
  std::vector<float> weights;                                   // [rank][n_columns], orthonormal rows times gain
  std::vector<float> deviation;                                 // [rank]
  std::vector<float> gain, offset;                              // [dim]
};

[[nodiscard]] PlaneMap make_plane_map(std::uint64_t seed, const PlaneShape& shape, std::uint32_t layer, std::uint32_t head);

/// Standard deviations of the latents for one request: spectrum (1 - mix) * shared + mix * the request's own permutation of it, so that
/// at mix = 1 each request's leading subspace is a different one.
void request_deviations(const PlaneMap& map, std::uint32_t request, double mix, std::vector<float>& out);

/// Turns per position of RoPE pair i, theta^(-2 i / dim) / (2 pi), for i < dim / 2, without libm.
[[nodiscard]] std::vector<double> rope_turns(double theta, std::uint32_t dim);

/// The slow channel that carries the attention sink; its pair is never an outlier. Planes of `dim` channels, dim >= 2.
[[nodiscard]] inline std::uint32_t sink_channel(std::uint32_t dim) { return dim / 2 - 1; }

}  // namespace moekv
