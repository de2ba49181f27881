// Codecs that keep some channels, or means of neighbours: pruning, cropping, multi-resolution.
#pragma once

#include <cstdint>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "rules/codec/format.hpp"

namespace moekv::codec {

namespace detail {

/// Raw values of the channels left after pruning a share of d, filled up to a multiple of 16 where d is one.
[[nodiscard]] constexpr PlaneFormat pruned(TableFit fit, float share, std::uint32_t d) {
  const std::uint32_t kept = d - static_cast<std::uint32_t>(share * static_cast<float>(d));
  const std::uint32_t width = d % 16 == 0 ? (kept + 15) / 16 * 16 : kept;
  return {.map = MapKind::select, .fit = fit, .width = static_cast<std::uint16_t>(width)};
}
inline constexpr std::string_view pruned_doc = "share of the channels that is not stored; what is left fills up to a multiple of 16";

}  // namespace detail

struct PruneCrop {
  static constexpr std::string_view name = "chan_prune.crop";
  static constexpr std::string_view doc = "keeps the first channels of K and V (what PiKV calls FastV)";
  static constexpr std::string_view source = "PiKV Table 2, F";
  float pruned = 0.5F;
  static constexpr auto params = std::tuple{Param{"pruned", &PruneCrop::pruned, "1", detail::pruned_doc, 0.0, 0.95}};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t d) const { return detail::pruned(TableFit::crop, pruned, d); }
};
struct PruneMagnitude {
  static constexpr std::string_view name = "chan_prune.magnitude";
  static constexpr std::string_view doc = "keeps the channels of K and V with the largest mean square in the first sealed pages (structured pruning)";
  static constexpr std::string_view source = "PiKV Table 2, Pr";
  float pruned = 0.5F;
  static constexpr auto params = std::tuple{Param{"pruned", &PruneMagnitude::pruned, "1", detail::pruned_doc, 0.0, 0.95}};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t d) const { return detail::pruned(TableFit::magnitude, pruned, d); }
};
struct PruneThink {
  static constexpr std::string_view name = "chan_prune.think";
  static constexpr std::string_view doc =
      "ThinK: keeps the channels of K with the largest product of mean squares of K and of recent queries; V stays raw";
  static constexpr std::string_view source = "ThinK, arXiv 2407.21018";
  float pruned = 0.4F;
  static constexpr auto params = std::tuple{Param{"pruned", &PruneThink::pruned, "1", detail::pruned_doc, 0.0, 0.95}};
  [[nodiscard]] PlaneFormat plane(Role role, std::uint32_t d) const {
    return role == Role::k ? detail::pruned(TableFit::think, pruned, d) : PlaneFormat{};
  }
};
struct PyramidRes {
  static constexpr std::string_view name = "pyramid_res";
  static constexpr std::string_view doc = "multi-resolution: fp16 means of 2^level adjacent channels (what PiKV calls PyramidKV)";
  static constexpr std::string_view source = "PiKV Table 2, Py";
  std::uint32_t level = 1;
  static constexpr auto params = std::tuple{Param{"level", &PyramidRes::level, "1", "each level halves the channels", 1.0, 6.0}};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const {
    return {.element = ElementFormat::fp16, .map = MapKind::pool, .width = static_cast<std::uint16_t>(1U << level)};
  }
};

}  // namespace moekv::codec
