// Access log: what happens to pages, step by step and shard by shard, named without slots and processes. The input of offline bounds.
#pragma once

#include <compare>
#include <cstdint>
#include <span>
#include <vector>

namespace moekv {

/// In the order of a step: evictions due from the step before, budgets that begin, writes, lookups, pages that came back, requests that end.
enum class AccessKind : std::uint8_t { evicted, opened, written, hit, miss, finished, recalled };

/// Pages [first, first + count) of one chain of the shadow index. `opened`: a budget of `count` pages begins, of the group or, where `request` is
/// AccessEvent::whole_shard, of the shard. `finished`: every page of the request leaves the shard. `written`: the pages become resident.
/// `evicted` under action demote: they go to the host tier; `recalled`: they come back from it.
struct AccessEvent {
  static constexpr std::uint32_t whole_shard = 0xFFFFFFFFU;
  static constexpr std::uint32_t unlimited = 0xFFFFFFFFU;  // `count` of an opened budget without limit
  std::uint32_t shard = 0, request = 0;
  std::uint16_t layer = 0;       // model layer
  std::uint16_t head_group = 0;
  std::uint16_t expert = 0xFFFF; // of the chain, 0xFFFF: pages of any expert
  std::uint8_t side = 0;         // 1: the side page of sink tokens
  AccessKind kind = AccessKind::hit;
  std::uint32_t first = 0, count = 0;
};
static_assert(sizeof(AccessEvent) == 24);

/// Events of one step on one process. `end_step` puts them in the order of the log: shard, part of the step, request, layer, head group, side,
/// expert, page, which does not depend on who hosts the shard.
class AccessRecorder {
 public:
  void add(const AccessEvent& event) {
    if (!events_.empty() && continues(events_.back(), event)) {
      events_.back().count += event.count;
    } else {
      events_.push_back(event);
    }
  }
  /// The step's events in order, runs of pages joined; valid until the next call.
  [[nodiscard]] std::span<const AccessEvent> end_step();

 private:
  [[nodiscard]] static bool continues(const AccessEvent& before, const AccessEvent& event);

  std::vector<AccessEvent> events_, ordered_;
};

/// One step of one sampled (request, layer): exact attention of the step's queries over the full history, summed over queries, mean over heads.
struct AttentionRow {
  std::uint64_t step = 0;
  std::uint32_t request = 0;
  std::uint16_t layer = 0;       // model layer
  std::uint16_t evicts = 0;      // 1: entries may leave after this step
  std::uint32_t length = 0;      // tokens stored after the step
  std::uint32_t budget = 0;      // tokens that the group may keep
  std::uint32_t held = 0;        // tokens that the step's last query read; `length` where it has no query
  std::uint32_t n_cells = 0;
  double mass = 0;               // attention on keys, all queries of the step
  double kept = 0;               // the part on tokens that the run read
  double residual = 0;           // the part that no cell tells
};
static_assert(sizeof(AttentionRow) == 56);

/// Attention on one position in one row.
struct AttentionCell {
  std::uint32_t position = 0;
  float mass = 0;
};

}  // namespace moekv
