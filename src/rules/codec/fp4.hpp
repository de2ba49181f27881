// 4-bit floating-point codecs with block scales.
#pragma once

#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "rules/codec/format.hpp"

namespace moekv::codec {

namespace detail {

[[nodiscard]] constexpr PlaneFormat block_fp4(ScaleCode code, std::uint16_t group, float tensor_scale, bool four_over_six) {
  return {.element = ElementFormat::e2m1,
          .scale = ScaleScheme::token_group,
          .head_scale = tensor_scale,
          .group = group,
          .scale_code = code,
          .four_over_six = four_over_six};
}

}  // namespace detail

struct Nvfp4 {
  static constexpr std::string_view name = "nvfp4";
  static constexpr std::string_view doc = "NVFP4, emulated: E2M1 with an E4M3 scale per (token, 16 channels)";
  static constexpr std::string_view source = "NVFP4 of TensorRT-LLM and vLLM";
  float tensor_scale = 1.0F;
  static constexpr auto params =
      std::tuple{Param{"tensor_scale", &Nvfp4::tensor_scale, "1", "S: a block's scale is E4M3(amax / (6 S)) times S", 1e-6, 1e6}};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::block_fp4(ScaleCode::e4m3, 16, tensor_scale, false); }
};
struct Nvfp4FourOverSix {
  static constexpr std::string_view name = "nvfp4.4over6";
  static constexpr std::string_view doc = "nvfp4, each block with the better of two scales: its largest value on 6 or on 4";
  static constexpr std::string_view source = "vLLM nvfp4_4over6";
  float tensor_scale = 1.0F;
  static constexpr auto params = std::tuple{Param{"tensor_scale", &Nvfp4FourOverSix::tensor_scale, "1", "S, as nvfp4", 1e-6, 1e6}};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::block_fp4(ScaleCode::e4m3, 16, tensor_scale, true); }
};
struct Mxfp4 {
  static constexpr std::string_view name = "mxfp4";
  static constexpr std::string_view doc = "MXFP4, emulated: E2M1 with a power of two per (token, 32 channels)";
  static constexpr std::string_view source = "OCP Microscaling; SGLang FP4";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::block_fp4(ScaleCode::e8m0, 32, 1.0F, false); }
};

}  // namespace moekv::codec
