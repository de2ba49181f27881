// What an eviction rule sees of a unit (a page or a token entry) and what it must declare.
#pragma once

#include <cstdint>
#include <string_view>

namespace moekv::evict {

/// `score`: state beside the pages, lowest score goes first. `queue`: a list, its head goes first. `none`: never evicts.
enum class Family : std::uint8_t { none, score, queue };

/// When a queue moves a unit to its tail.
enum class Refresh : std::uint8_t { never, on_access };

/// One evictable unit, as a score rule sees it.
struct UnitView {
  std::uint32_t request;
  std::uint32_t layer;
  std::uint32_t position;    // of the entry, or the smallest live position of the page
  std::uint64_t step;        // the step that decides
  float state;               // the rule's own accumulator (reduced over the page for page units)
  std::uint64_t seed;
};

}  // namespace moekv::evict
