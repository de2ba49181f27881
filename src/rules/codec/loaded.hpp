// Codecs whose maps were made elsewhere and come from a file (compression.maps_path): down and up projections, with or without a bias.
#pragma once

#include <cstdint>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
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
  std::uint32_t rank = 64;
  static constexpr auto params = std::tuple{Param{"rank", &Lora::rank, "1", detail::loaded_rank_doc, 1.0, 4096.0}};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::loaded(rank, detail::Bias::none); }
};
struct LoraPlus {
  static constexpr std::string_view name = "lora++";
  static constexpr std::string_view doc = "loaded affine auto-encoder: U D x + b (what PiKV calls LoRA++)";
  std::uint32_t rank = 64;
  static constexpr auto params = std::tuple{Param{"rank", &LoraPlus::rank, "1", detail::loaded_rank_doc, 1.0, 4096.0}};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::loaded(rank, detail::Bias::added); }
};
struct AeLoaded {
  static constexpr std::string_view name = "ae_loaded";
  static constexpr std::string_view doc = "loaded encoder and decoder, trained elsewhere (what PiKV calls distillation); stored as lora++";
  std::uint32_t rank = 64;
  static constexpr auto params = std::tuple{Param{"rank", &AeLoaded::rank, "1", detail::loaded_rank_doc, 1.0, 4096.0}};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::loaded(rank, detail::Bias::added); }
};

}  // namespace moekv::codec
