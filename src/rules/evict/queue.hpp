// The lists that queue rules keep units in. A unit is an index into an array of nodes and is in at most one list; a rule offers
//   insert(q, u)              u was stored, or came back
//   access(q, u)              u was accessed
//   recency_list              where all that an access does is to move the unit to the end of this list
//   victim(q, standing)       takes a unit that may go out of the resident lists and returns it, or no_unit
// and where `needs_return`, may keep units that went in lists of its own ("ghosts").
#pragma once

#include <array>
#include <cstdint>

namespace moekv::evict {

inline constexpr std::uint32_t no_unit = 0xFFFFFFFFU;
inline constexpr std::uint8_t no_list = 0xFF;

/// Whether a unit may go: `permanent` ones leave the queue for good, `sheltered` ones stay in place.
enum class Standing : std::uint8_t { evictable, sheltered, permanent };

struct QueueNode {
  std::uint32_t prev = no_unit, next = no_unit;
  std::uint8_t list = no_list;
  std::uint8_t mark = 0;  // reference bit or small count
  bool resident = false;  // for who owns the nodes; no rule reads it
};

struct QueueList {
  std::uint32_t head = no_unit, tail = no_unit;  // head: oldest
  std::uint32_t size = 0;
};

/// The queues of one budget.
struct QueueState {
  std::array<QueueList, 4> lists;
  std::uint32_t hand = no_unit;
  float target = 0;            // ARC's p; 1 after S3-FIFO's first eviction
  bool second_ghost = false;   // the newest unit came from ARC's B2
};

/// A view of one state and the nodes of its units. `capacity`: units that the budget holds.
class Queue {
 public:
  Queue(QueueState& state, QueueNode* nodes, std::uint32_t capacity) : state_(&state), nodes_(nodes), capacity_(capacity) {}

  [[nodiscard]] QueueState& state() { return *state_; }
  [[nodiscard]] QueueNode& node(std::uint32_t u) { return nodes_[u]; }
  [[nodiscard]] const QueueList& list(std::uint8_t l) const { return state_->lists[l]; }
  [[nodiscard]] std::uint32_t capacity() const { return capacity_; }

  [[gnu::always_inline]] void push(std::uint8_t l, std::uint32_t u) {
    QueueList& list = state_->lists[l];
    nodes_[u].prev = list.tail;
    nodes_[u].next = no_unit;
    nodes_[u].list = l;
    (list.tail != no_unit ? nodes_[list.tail].next : list.head) = u;
    list.tail = u;
    list.size += 1;
  }
  [[gnu::always_inline]] void remove(std::uint32_t u) {
    QueueNode& node = nodes_[u];
    if (node.list == no_list) return;
    QueueList& list = state_->lists[node.list];
    (node.prev != no_unit ? nodes_[node.prev].next : list.head) = node.next;
    (node.next != no_unit ? nodes_[node.next].prev : list.tail) = node.prev;
    if (state_->hand == u) state_->hand = node.next;
    list.size -= 1;
    node.list = no_list;
    prefetch(list.head);
  }
  [[gnu::always_inline]] void move(std::uint8_t l, std::uint32_t u) {
    QueueNode& node = nodes_[u];
    if (node.list != l) {
      remove(u);
      push(l, u);
      return;
    }
    // Within a list neither its size nor the node's list changes.
    QueueList& list = state_->lists[l];
    if (list.tail == u) return;
    const std::uint32_t prev = node.prev, next = node.next;
    nodes_[next].prev = prev;
    (prev != no_unit ? nodes_[prev].next : list.head) = next;
    if (state_->hand == u) state_->hand = next;
    node.prev = list.tail;
    node.next = no_unit;
    nodes_[list.tail].next = u;
    list.tail = u;
    if (prev == no_unit) prefetch(next);
  }
  /// Moves units that lie one behind the other in a list behind the newest, in their order. None of them is the hand.
  void move_run(std::uint8_t l, std::uint32_t first, std::uint32_t last) {
    QueueList& list = state_->lists[l];
    if (list.tail == last) return;
    const std::uint32_t prev = nodes_[first].prev, next = nodes_[last].next;
    nodes_[next].prev = prev;
    (prev != no_unit ? nodes_[prev].next : list.head) = next;
    nodes_[first].prev = list.tail;
    nodes_[last].next = no_unit;
    nodes_[list.tail].next = first;
    list.tail = last;
  }
  /// Starts to load a unit that is looked at soon.
  void prefetch(std::uint32_t u) const {
    if (u != no_unit) __builtin_prefetch(&nodes_[u]);
  }
  /// Takes the oldest unit of a list that is not empty.
  [[gnu::always_inline]] std::uint32_t pop(std::uint8_t l) {
    QueueList& list = state_->lists[l];
    const std::uint32_t u = list.head, next = nodes_[u].next;
    list.head = next;
    (next != no_unit ? nodes_[next].prev : list.tail) = no_unit;
    if (state_->hand == u) state_->hand = next;
    list.size -= 1;
    nodes_[u].list = no_list;
    prefetch(next);
    return u;
  }
  /// Moves the oldest units up to `last` behind the newest, in their order.
  [[gnu::always_inline]] void rotate(std::uint8_t l, std::uint32_t last) {
    QueueList& list = state_->lists[l];
    const std::uint32_t first = list.head, next = nodes_[last].next;
    if (next == no_unit) return;
    nodes_[list.tail].next = first;
    nodes_[first].prev = list.tail;
    nodes_[last].next = no_unit;
    nodes_[next].prev = no_unit;
    list.head = next;
    list.tail = last;
  }
  /// The oldest unit of a list that may go; permanent ones on the way leave the list.
  template <class F>
  [[nodiscard, gnu::always_inline]] std::uint32_t oldest(std::uint8_t l, F&& standing) {
    for (std::uint32_t u = state_->lists[l].head; u != no_unit;) {
      const std::uint32_t next = nodes_[u].next;
      const Standing s = standing(u);
      if (s == Standing::evictable) return u;
      if (s == Standing::permanent) remove(u);
      u = next;
    }
    return no_unit;
  }
  /// Drops the oldest of a ghost list until it has at most n.
  void trim(std::uint8_t l, std::uint32_t n) {
    while (state_->lists[l].size > n) remove(state_->lists[l].head);
  }

 private:
  QueueState* state_;
  QueueNode* nodes_;
  std::uint32_t capacity_;
};

/// Victim of a rule with one list: its oldest unit.
template <class F>
[[nodiscard]] std::uint32_t take_oldest(Queue& q, std::uint8_t list, F&& standing) {
  const std::uint32_t head = q.list(list).head;
  if (head == no_unit) return no_unit;
  if (standing(head) == Standing::evictable) return q.pop(list);
  const std::uint32_t u = q.oldest(list, standing);
  if (u != no_unit) q.remove(u);
  return u;
}

/// A share of the capacity, at least one unit.
[[nodiscard]] inline std::uint32_t share_of(std::uint32_t capacity, float share) {
  const auto units = static_cast<std::uint32_t>(static_cast<float>(capacity) * share);
  return units > 0 ? units : 1;
}

}  // namespace moekv::evict
