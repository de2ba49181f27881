// The order of a step's events.
#include "engine/access_log.hpp"

#include <algorithm>
#include <array>
#include <tuple>

namespace moekv {
namespace {

/// Place in a step, indexed by kind. Hits and misses are one part, in ascending order of pages.
constexpr std::array<std::uint8_t, 7> places_in_step{0, 1, 2, 3, 3, 5, 4};
std::uint8_t part(AccessKind kind) { return places_in_step[static_cast<std::size_t>(kind)]; }

auto chain_of(const AccessEvent& e) { return std::tuple(e.shard, part(e.kind), e.request, e.layer, e.head_group, e.side, e.expert); }

}  // namespace

bool AccessRecorder::continues(const AccessEvent& before, const AccessEvent& event) {
  return event.kind != AccessKind::opened && event.kind == before.kind && chain_of(before) == chain_of(event) && before.first + before.count == event.first;
}

std::span<const AccessEvent> AccessRecorder::end_step() {
  ordered_.swap(events_);
  events_.clear();
  const auto key = [](const AccessEvent& e) { return std::tuple_cat(chain_of(e), std::tuple(e.first)); };
  std::sort(ordered_.begin(), ordered_.end(), [&](const AccessEvent& a, const AccessEvent& b) { return key(a) < key(b); });
  std::size_t n = 0;
  for (const AccessEvent& event : ordered_) {
    if (n > 0 && continues(ordered_[n - 1], event)) {
      ordered_[n - 1].count += event.count;
    } else {
      ordered_[n++] = event;
    }
  }
  ordered_.resize(n);
  return ordered_;
}

}  // namespace moekv
