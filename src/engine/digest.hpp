// The decision digest: a sum modulo 2^128 of hashes of decisions, so the order in which processes make them does not matter (MODEL section 11).
#pragma once

#include <cstdint>
#include <vector>

#include "engine/records.hpp"

namespace moekv {

class StateStream;

enum class Decision : std::uint32_t { route = 1, admit, evict, lookup, read, select, seal, move, recall };

/// One decision. Carries no slot, page or process id.
struct DecisionEvent {
  std::uint64_t step = 0;
  std::uint32_t layer = 0;
  Decision kind = Decision::route;
  std::uint32_t request = 0;
  std::uint32_t position = 0;
  std::uint32_t expert = 0;
  std::uint32_t ordinal = 0;   // index in its group: shard, head group, copy or rank of choice
  std::uint64_t outcome = 0;
};

class DecisionDigest {
 public:
  static constexpr std::uint64_t window_steps = 64;
  void add(const DecisionEvent& event);
  /// Per window of 64 steps, index step / 64.
  [[nodiscard]] std::vector<Digest128>& windows() { return windows_; }
  void transfer(StateStream& stream);

 private:
  std::vector<Digest128> windows_;
};

/// a + b modulo 2^128.
[[nodiscard]] Digest128 add(const Digest128& a, const Digest128& b);

}  // namespace moekv
