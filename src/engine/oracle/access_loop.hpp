// AccessLoop: an eviction rule alone on a sequence of accesses: demand fill, no pins, one unit at a time. What `moekv policy evict` runs and what
// other simulators can confirm.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/math.hpp"
#include "rules/evict/catalogue.hpp"

namespace moekv {

/// Units are below `n_units`. Score rules evict, once `capacity` is reached, until at most `low` units stay (at least one goes): they score every
/// resident at a time, and all below the threshold of a rule that has one go too. Queue rules take one victim a miss.
template <class Rule>
class AccessLoop {
 public:
  AccessLoop(const Rule& rule, std::uint32_t capacity, std::uint32_t n_units, std::uint64_t seed, std::uint32_t low)
      : rule_(rule),
        capacity_(capacity),
        low_(low < capacity ? low : capacity - 1),
        seed_(seed),
        nodes_(queues ? n_units : 0),
        place_(queues ? 0 : n_units, absent) {}
  AccessLoop(const Rule& rule, std::uint32_t capacity, std::uint32_t n_units, std::uint64_t seed) : AccessLoop(rule, capacity, n_units, seed, capacity) {}

  /// Calls note(hit) for each access and gone(unit) for each eviction, in no order among units that go at once. Sequences follow each other.
  template <class Note, class Gone>
  void run(std::span<const std::uint32_t> sequence, Note&& note, Gone&& gone) {
    evict::QueueState state = state_;  // local, so that it can live in registers
    evict::Queue queue(state, nodes_.data(), capacity_);
    for (std::size_t t = 0; t < sequence.size(); ++t) {
      prefetch(queue, sequence, t);
      const std::uint32_t u = sequence[t];
      const bool hit = resident(u);
      note(hit);
      if constexpr (controlled) {
        control_.lookups += 1;
        control_.hits += hit ? 1 : 0;
      }
      hit ? touch(queue, u) : store(queue, u, gone);
      ++now_;
      if constexpr (controlled) evict::end_step(rule_, control_);
    }
    state_ = state;
  }
  /// Residents: lists of a queue rule, oldest first; else in order of storing.
  [[nodiscard]] std::vector<std::uint32_t> residents() const {
    if constexpr (!queues) return in_order();
    std::vector<std::uint32_t> out;
    for (std::size_t l = 0; l < state_.lists.size(); ++l) {
      for (const std::uint32_t u : list(l)) {
        if (resident(u)) out.push_back(u);
      }
    }
    return out;
  }
  /// Units of list `l` of a queue rule, oldest first.
  [[nodiscard]] std::vector<std::uint32_t> list(std::size_t l) const {
    std::vector<std::uint32_t> out;
    for (std::uint32_t u = state_.lists[l].head; u != evict::no_unit; u = nodes_[u].next) out.push_back(u);
    return out;
  }

 private:
  static constexpr bool queues = Rule::family == evict::Family::queue;
  static constexpr bool controlled = requires(const Rule& rule, const evict::Control& control) { rule.threshold(control); };
  static constexpr std::uint32_t absent = evict::no_unit;
  static constexpr std::size_t ahead = 8;  // accesses
  struct NoAccess {};
  struct Resident {
    std::uint32_t unit, stored;
    [[no_unique_address]] std::conditional_t<evict::needs_access<Rule>, evict::Access, NoAccess> access;
  };

  void prefetch(evict::Queue& queue, std::span<const std::uint32_t> sequence, std::size_t t) const {
    if constexpr (queues) {
      if (t + ahead < sequence.size()) queue.prefetch(sequence[t + ahead]);
    } else {
      if (t + 2 * ahead < sequence.size()) __builtin_prefetch(&place_[sequence[t + 2 * ahead]]);
      if (t + ahead >= sequence.size() || !evict::needs_access<Rule>) return;
      if (const std::uint32_t place = place_[sequence[t + ahead]]; place != absent) __builtin_prefetch(&residents_[place]);
    }
  }

  [[nodiscard]] bool resident(std::uint32_t u) const {
    if constexpr (queues) return nodes_[u].resident;
    return place_[u] != absent;
  }
  void touch(evict::Queue& queue, std::uint32_t u) {
    if constexpr (queues) rule_.access(queue, u);
    if constexpr (evict::needs_access<Rule>) evict::touch(rule_, residents_[place_[u]].access, now_);
  }
  template <class Gone>
  void store(evict::Queue& queue, std::uint32_t u, Gone&& gone) {
    if constexpr (requires { rule_.expect(queue, u); }) rule_.expect(queue, u);
    if (size_ >= capacity_ && Rule::family != evict::Family::none) make_room(queue, gone);
    size_ += 1;
    if constexpr (queues) {
      rule_.insert(queue, u);
      nodes_[u].resident = true;
      return;
    }
    place_[u] = static_cast<std::uint32_t>(residents_.size());
    residents_.push_back({u, now_, {}});
    if constexpr (evict::needs_access<Rule>) residents_.back().access = {now_, now_};
  }
  template <class Gone>
  void make_room(evict::Queue& queue, Gone&& gone) {
    if constexpr (queues) {
      const std::uint32_t u = rule_.victim(queue, [](std::uint32_t) { return evict::Standing::evictable; });
      nodes_[u].resident = false;
      size_ -= 1;
      gone(u);
    } else {
      // A key orders by score, then by the time of storing; keys are distinct, so the largest key that goes decides.
      const std::uint32_t n = size_ - low_;
      score_all();
      chosen_ = keys_;
      const auto last = chosen_.begin() + (n - 1);
      n == 1 ? std::iter_swap(last, std::min_element(chosen_.begin(), chosen_.end())) : std::nth_element(chosen_.begin(), last, chosen_.end());
      std::uint64_t limit = *last;
      if constexpr (controlled) limit = std::max(limit, key(evict::threshold(rule_, control_), 0) - 1);
      for (std::uint32_t i = size_; i-- > 0;) {
        if (keys_[i] > limit) continue;
        const std::uint32_t u = residents_[i].unit;
        leave(u);
        gone(u);
      }
    }
  }
  void leave(std::uint32_t u) {
    const Resident last = residents_.back();
    residents_[place_[u]] = last;
    place_[last.unit] = place_[u];
    place_[u] = absent;
    residents_.pop_back();
    size_ -= 1;
  }
  void score_all() {
    evict::Peers peers;
    if constexpr (evict::needs_access<Rule>) {
      for (const Resident& r : residents_) {
        peers.last = std::max(peers.last, r.access.last);
        peers.count = std::max(peers.count, r.access.count);
      }
    }
    keys_.resize(residents_.size());
    for (std::size_t i = 0; i < residents_.size(); ++i) {
      const Resident& r = residents_[i];
      evict::UnitView view{0, 0, r.unit, now_, 0.0F, seed_};
      view.age = now_ - r.stored;
      if constexpr (evict::needs_access<Rule>) view.access = r.access;
      view.peers = peers;
      float score = 0;
      if constexpr (requires { rule_.score(view); }) score = rule_.score(view);
      keys_[i] = key(score, r.stored);
    }
  }
  [[nodiscard]] static std::uint64_t key(float score, std::uint32_t stored) {
    const std::uint32_t bits = bits_of(score + 0.0F);  // -0 is 0
    const std::uint32_t ascending = (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
    return std::uint64_t{ascending} << 32 | stored;
  }
  [[nodiscard]] std::vector<std::uint32_t> in_order() const {
    std::vector<std::pair<std::uint32_t, std::uint32_t>> stored;  // when, unit
    for (const Resident& r : residents_) stored.emplace_back(r.stored, r.unit);
    std::sort(stored.begin(), stored.end());
    std::vector<std::uint32_t> out;
    for (const auto& [when, unit] : stored) out.push_back(unit);
    return out;
  }

  Rule rule_;
  std::uint32_t capacity_, low_;
  std::uint64_t seed_;
  std::uint32_t size_ = 0, now_ = 0;
  evict::QueueState state_;
  evict::Control control_;
  std::vector<evict::QueueNode> nodes_;
  std::vector<std::uint32_t> place_;  // in residents_, score rules
  std::vector<Resident> residents_;
  std::vector<std::uint64_t> keys_, chosen_;  // [residents_]
};

}  // namespace moekv
