// Hashes one decision record and adds it modulo 2^128.
#include "engine/digest.hpp"

#include <fmt/format.h>

#include <xxhash.h>

namespace moekv {

Digest128 add(const Digest128& a, const Digest128& b) {
  const std::uint64_t low = a.low + b.low;
  return {a.high + b.high + (low < a.low ? 1 : 0), low};
}

std::string to_hex(const Digest128& digest) { return fmt::format("{:016x}{:016x}", digest.high, digest.low); }

void DecisionDigest::add(const DecisionEvent& event) {
  static_assert(sizeof(DecisionEvent) == 40, "no padding may enter the hash");
  const std::size_t window = event.step / window_steps;
  if (windows_.size() <= window) windows_.resize(window + 1);
  const XXH128_hash_t hash = XXH3_128bits(&event, sizeof event);
  windows_[window] = moekv::add(windows_[window], {hash.high64, hash.low64});
}

}  // namespace moekv
