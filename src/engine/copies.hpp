// Which copies of a token exist: pure function of its expert set, so home and every owner agree without talking (MODEL sections 2, 3).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "core/error.hpp"
#include "core/rng.hpp"
#include "rules/place.hpp"

namespace moekv {

inline constexpr std::size_t max_top_k = 22;

/// The stored copies of one (request, layer, position). Elements past the copies, and past the experts of the key, are not set.
struct CopySet {
  std::uint8_t n_copies = 0;
  std::uint8_t n_chosen = 0;                     // experts present in the key
  std::array<ShardId, max_top_k> shard;          // of each copy
  std::array<ExpertId, max_top_k> expert;        // first expert of each copy
  std::array<std::uint32_t, max_top_k> smaller;  // bit c: copy c has a smaller hash
  std::array<std::uint8_t, max_top_k> copy_of;   // copy that stands for expert slot i; 0xFF where the slot is absent
};

/// Copies of a token whose key names `experts` ([top_k], ExpertId::invalid = absent) under layout expert. The hash order is that of
/// hash(seed, request, layer, position, first expert of the copy), ties by copy index. `home` is the home rank of the request.
[[nodiscard]] inline CopySet plan_copies(const Placement& placement, Rank home, RequestId request, std::uint32_t layer, std::uint32_t position,
                                         std::span<const std::uint16_t> experts) {
  CopySet set;
  std::array<std::uint64_t, max_top_k> hash;
  const std::uint64_t token = hash_words(placement.seed, 0x63U, request.value, layer, position);
  for (std::size_t i = 0; i < experts.size(); ++i) {
    set.copy_of[i] = 0xFF;
    if (experts[i] == ExpertId::invalid) continue;
    set.n_chosen += 1;
    const ExpertId e(experts[i]);
    const ShardId shard = placement.copy_shard(layer, home, request, position, e);
    std::uint8_t copy = set.n_copies;
    for (std::uint8_t c = 0; c < set.n_copies; ++c) {
      const bool same = placement.dedup == Dedup::shard ? set.shard[c] == shard
                                                        : placement.dedup == Dedup::rank && placement.owner(set.shard[c]) == placement.owner(shard);
      if (same) copy = c;
    }
    set.copy_of[i] = copy;
    if (copy < set.n_copies) continue;
    set.shard[copy] = shard;
    set.expert[copy] = e;
    set.smaller[copy] = 0;
    hash[copy] = mix64(token ^ e.value);  // hash_words of all of it
    set.n_copies += 1;
  }
  for (std::uint8_t c = 0; c < set.n_copies; ++c) {
    for (std::uint8_t d = 0; d < c; ++d) {  // no branches: hashes come in any order
      const std::uint32_t before = hash[d] <= hash[c] ? 1 : 0;
      set.smaller[c] |= before << d;
      set.smaller[d] |= (before ^ 1U) << c;
    }
  }
  return set;
}

/// An eviction notice on the wire, 8 bytes: copy `copy` of the entry (request, layer index, position, head group) is gone.
struct Notice {
  RequestId request;
  std::uint32_t layer = 0, position = 0, head_group = 0, copy = 0;

  [[nodiscard]] std::uint64_t pack() const {
    MOEKV_EXPECT(request.value < 1U << 22U && layer < 1U << 9U && position < 1U << 22U && head_group < 1U << 6U && copy < 1U << 5U);
    return std::uint64_t{request.value} << 42U | std::uint64_t{layer} << 33U | std::uint64_t{position} << 11U | std::uint64_t{head_group} << 5U | copy;
  }
  [[nodiscard]] static Notice unpack(std::uint64_t bits) {
    const auto field = [bits](unsigned low, unsigned n) { return static_cast<std::uint32_t>(bits >> low & ((1U << n) - 1U)); };
    return {RequestId(field(42, 22)), field(33, 9), field(11, 22), field(5, 6), field(0, 5)};
  }
  /// Whether `next` is of the same group, and of a later position.
  [[nodiscard]] bool precedes(const Notice& next) const {
    return request == next.request && layer == next.layer && head_group == next.head_group && position < next.position;
  }
};

}  // namespace moekv
