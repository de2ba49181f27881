// Turns: which of the units that compete for a budget leaves next, and when enough has left. Replays and the conformance command run the same.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/page_state.hpp"
#include "rules/evict/queue.hpp"
#include "rules/evict/rule.hpp"

namespace moekv {

/// Positions of a request that may leave: [sinks, end). Those before it never do, those behind it not yet.
struct EvictableRange {
  std::uint32_t sinks = 0, end = 0;

  [[nodiscard]] evict::Standing standing(std::uint32_t position) const {
    if (position < sinks) return evict::Standing::permanent;
    return position < end ? evict::Standing::evictable : evict::Standing::sheltered;
  }
  /// Whether all positions from `first` to `last` may leave.
  [[nodiscard]] bool holds(std::uint32_t first, std::uint32_t last) const { return first >= sinks && last < end; }
};

/// What protection leaves of a request of `length` tokens.
[[nodiscard]] inline EvictableRange unprotected(std::uint32_t sinks, std::uint32_t recent, std::uint32_t length) {
  return {sinks, length - std::min(recent, length)};
}

/// Sets the score of units that compete: each has `view` and `score`. A rule without scores leaves them.
template <class Rule, class Units>
void score_units(const Rule& rule, Units& units) {
  evict::Peers peers;
  for (const auto& u : units) {
    peers.last = std::max(peers.last, u.view.access.last);
    peers.count = std::max(peers.count, u.view.access.count);
    peers.state = std::max(peers.state, u.view.state);
  }
  for (auto& u : units) {
    u.view.peers = peers;
    if constexpr (requires { rule.score(u.view); }) u.score = rule.score(u.view);
  }
}

/// A unit in its turn: by key, then as it was found.
struct Turn {
  std::uint64_t key;
  std::uint32_t found;
  std::uint32_t page, slot;
  float score;
  friend bool operator<(const Turn& a, const Turn& b) { return a.key != b.key ? a.key < b.key : a.found < b.found; }
};

/// What `take_in_turn` took: the first n of the turns, which are in order; the one behind them is the next. `left` could not be freed.
struct Taken {
  std::size_t n;
  std::uint64_t left;
};

/// Calls take(turn) for units in their turns until their weight(turn) makes `excess` and none that scores below `below` stays. The `n_known` that go
/// first lie at the front already; about `expected` will go.
template <class Weight, class Take>
Taken take_in_turn(std::span<Turn> turns, std::size_t n_known, std::size_t expected, std::uint64_t excess, float below, Weight&& weight,
                   Take&& take) {
  std::size_t known = n_known, sorted = 0;  // the first ones lie before `known`, in order before `sorted`
  for (std::size_t i = 0; i < turns.size(); ++i) {
    if (i == sorted) {
      const auto at = [&](std::size_t n) { return turns.begin() + static_cast<std::ptrdiff_t>(n); };
      if (i == known) {
        known += std::min(turns.size() - i, std::max({i, expected, std::size_t{1}}));
        if (known != turns.size()) std::nth_element(at(i), at(known), turns.end());
      }
      std::sort(at(i), at(known));
      sorted = known;
    }
    if (excess == 0 && !(turns[i].score < below)) return {i, 0};
    excess -= std::min(excess, weight(turns[i]));
    take(turns[i]);
  }
  return {turns.size(), excess};
}

}  // namespace moekv
