// Codecs whose maps were made elsewhere and come from a file (compression.maps_path): down and up projections, with or without a bias.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "rules/codec/choice.hpp"
#include "rules/codec/format.hpp"

namespace moekv::codec {

namespace detail {

/// Stored: fp16 values of D x. Read: U z, plus a bias where the map is affine.
enum class Bias : std::uint8_t { none, added };
[[nodiscard]] constexpr PlaneFormat loaded(std::uint32_t rank, Bias bias) {
  return {.element = ElementFormat::fp16,
          .map = MapKind::basis,
          .fit = TableFit::loaded,
          .scope = TableScope::run,
          .centre = bias == Bias::added,
          .width = static_cast<std::uint16_t>(rank)};
}
inline constexpr std::string_view loaded_rank_doc = "rows of the down projection";

}  // namespace detail

struct Lora {
  static constexpr std::string_view name = "lora";
  static constexpr std::string_view doc = "loaded down and up projections (what PiKV calls LoRA)";
  static constexpr std::string_view source = "PiKV Table 2, Lo";
  std::uint32_t rank = 64;
  static constexpr auto params = std::tuple{Param{"rank", &Lora::rank, "1", detail::loaded_rank_doc, 1.0, 4096.0}};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::loaded(rank, detail::Bias::none); }
};
/// Rank classes of LoRA++ are {4, 8, 16} k; a smaller class stores the first coordinates of the largest.
struct LoraPlus {
  static constexpr std::string_view name = "lora++";
  static constexpr std::string_view doc =
      "loaded affine auto-encoder U D x + b; a page stores a quarter, half or all of the coordinates, by its share of attention (what PiKV calls "
      "LoRA++)";
  static constexpr std::string_view source = "PiKV Table 2, Lo+";
  std::uint32_t rank = 64;
  float low = 0.3F, high = 0.7F;
  static constexpr auto params = std::tuple{Param{"rank", &LoraPlus::rank, "1", "rows of the down projection, the most important first", 1.0, 4096.0},
                                            Param{"low", &LoraPlus::low, "1", detail::low_doc, 0.0, 1.0},
                                            Param{"high", &LoraPlus::high, "1", detail::high_doc, 0.0, 1.0}};
  static constexpr std::array<std::string_view, n_page_classes> class_names{"quarter", "half", "whole"};
  [[nodiscard]] ClassChoice choice() const { return {.by = ChooseBy::importance, .low = low, .high = high}; }
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t, std::uint32_t page_class) const {
    const std::uint32_t part = rank >> (n_page_classes - 1 - page_class);
    return detail::loaded(part > 0 ? part : 1, detail::Bias::added);
  }
  [[nodiscard]] PlaneFormat plane(Role role, std::uint32_t d) const { return plane(role, d, n_page_classes - 1); }
};
struct AeLoaded {
  static constexpr std::string_view name = "ae_loaded";
  static constexpr std::string_view doc = "loaded encoder and decoder, trained elsewhere (what PiKV calls distillation); stored as lora++";
  static constexpr std::string_view source = "PiKV Table 2, Dis";
  std::uint32_t rank = 64;
  static constexpr auto params = std::tuple{Param{"rank", &AeLoaded::rank, "1", detail::loaded_rank_doc, 1.0, 4096.0}};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::loaded(rank, detail::Bias::added); }
};

}  // namespace moekv::codec
