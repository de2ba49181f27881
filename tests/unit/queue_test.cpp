// Queue: runs that move at once, against units that move one by one.
#include "rules/evict/queue.hpp"

#include <gtest/gtest.h>

#include <random>
#include <utility>
#include <vector>

namespace moekv::evict {
namespace {

std::vector<std::uint32_t> forwards(const QueueState& state, const std::vector<QueueNode>& nodes) {
  std::vector<std::uint32_t> units;
  for (std::uint32_t u = state.lists[0].head; u != no_unit; u = nodes[u].next) units.push_back(u);
  return units;
}

std::vector<std::uint32_t> backwards(const QueueState& state, const std::vector<QueueNode>& nodes) {
  std::vector<std::uint32_t> units;
  for (std::uint32_t u = state.lists[0].tail; u != no_unit; u = nodes[u].prev) units.insert(units.begin(), u);
  return units;
}

TEST(Queue, ARunMovesAsItsUnitsDoOneByOne) {
  constexpr std::uint32_t n = 9;
  std::mt19937 random(3);
  std::vector<QueueNode> nodes(n), others(n);
  QueueState state, other;
  Queue runs(state, nodes.data(), n), units(other, others.data(), n);
  for (std::uint32_t u = 0; u < n; ++u) {
    runs.push(0, u);
    units.push(0, u);
  }
  for (int round = 0; round < 500; ++round) {
    const std::vector<std::uint32_t> order = forwards(state, nodes);
    std::size_t first = random() % n, last = random() % n;
    if (first > last) std::swap(first, last);
    runs.move_run(0, order[first], order[last]);
    for (std::size_t i = first; i <= last; ++i) units.move(0, order[i]);
    ASSERT_EQ(forwards(state, nodes), forwards(other, others)) << "round " << round;
    ASSERT_EQ(backwards(state, nodes), forwards(other, others)) << "round " << round;
    ASSERT_EQ(runs.list(0).size, n);
  }
}

}  // namespace
}  // namespace moekv::evict
