// Typed indices: an expert cannot be passed where a shard is meant. Invalid by default, trivially copyable, usable on device.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <limits>

namespace moekv {

template <class Tag, class Rep>
struct Id {
  static constexpr Rep invalid = std::numeric_limits<Rep>::max();
  Rep value = invalid;

  constexpr Id() = default;
  constexpr explicit Id(Rep v) : value(v) {}
  [[nodiscard]] constexpr bool valid() const { return value != invalid; }
  friend constexpr auto operator<=>(Id, Id) = default;
};

using ExpertId = Id<struct ExpertTag, std::uint16_t>;
using LayerId = Id<struct LayerTag, std::uint16_t>;    // index of an attention layer in the model, 0..n_layers-1
using RequestId = Id<struct RequestTag, std::uint32_t>;  // index of a request in the trace
using Rank = Id<struct RankTag, std::uint32_t>;        // a logical rank, 0..G-1 (MODEL section 1), not an MPI rank
using ShardId = Id<struct ShardTag, std::uint32_t>;    // 0..S-1, global
using PageId = Id<struct PageTag, std::uint32_t>;      // index of a page inside its shard

}  // namespace moekv

template <class Tag, class Rep>
struct std::hash<moekv::Id<Tag, Rep>> {
  std::size_t operator()(moekv::Id<Tag, Rep> id) const noexcept { return std::hash<Rep>{}(id.value); }
};
