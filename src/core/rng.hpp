// Counter-based random numbers (Philox4x32-10): every draw is a pure function of a key and a counter, the same on host and device.
#pragma once

#include <Random123/philox.h>

#include <array>
#include <cstdint>

#include "core/hd.hpp"

namespace moekv {

/// What a draw is for; keeps streams of different purposes apart under one seed.
enum class Stream : std::uint32_t {
  kv_latent = 1, kv_basis, kv_gain, query, sinks, routing_context, routing_expert, routing_token,
  hash_router, placement, evict_random, arrivals, bootstrap, probe, pseudo_logits, join, codebook
};

struct Draw4 {
  std::uint32_t v[4];
};

/// Four uniform 32-bit words for (seed, stream; a, b, c): the counter is (a, b, c, stream), the key the two halves of seed.
MOEKV_HD Draw4 draw4(std::uint64_t seed, Stream stream, std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  const r123::Philox4x32 philox;
  const r123::Philox4x32::ctr_type counter = {{a, b, c, static_cast<std::uint32_t>(stream)}};
  const r123::Philox4x32::key_type key = {{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
  const auto r = philox(counter, key);
  return {{r[0], r[1], r[2], r[3]}};
}

/// Uniform in [0, 1), 24 bits.
MOEKV_HD float uniform_float(std::uint32_t word) { return static_cast<float>(static_cast<std::int32_t>(word >> 8)) * 0x1p-24F; }
/// Uniform in (0, 1], never 0: safe under a logarithm.
MOEKV_HD float uniform_open(std::uint32_t word) { return (static_cast<float>(static_cast<std::int32_t>(word >> 8)) + 1.0F) * 0x1p-24F; }

/// A 64-bit mix of one word (splitmix64 finaliser), for hashes of ids.
MOEKV_HD std::uint64_t mix64(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}
/// Hash of several words, order-dependent.
template <class... Words>
MOEKV_HD std::uint64_t hash_words(std::uint64_t seed, Words... words) {
  std::uint64_t h = mix64(seed);
  ((h = mix64(h ^ static_cast<std::uint64_t>(words))), ...);
  return h;
}

}  // namespace moekv
