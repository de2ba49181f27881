// 8-bit floating-point codecs.
#pragma once

#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "rules/codec/format.hpp"

namespace moekv::codec {

struct Fp8Head {
  static constexpr std::string_view name = "fp8_e4m3.head";
  static constexpr std::string_view doc = "E4M3, one fixed scale per head";
  static constexpr std::string_view source = "OCP FP8; vLLM and TensorRT-LLM fp8";
  float head_scale = 1.0F;
  static constexpr auto params = std::tuple{Param{"head_scale", &Fp8Head::head_scale, "1", "x is stored as E4M3(x / head_scale)", 1e-6, 1e6}};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return {ElementFormat::fp8_e4m3, ScaleScheme::head, false, head_scale}; }
};
struct Fp8E5m2 {
  static constexpr std::string_view name = "fp8_e5m2";
  static constexpr std::string_view doc = "E5M2, one fixed scale per head";
  static constexpr std::string_view source = "OCP FP8; vLLM fp8_e5m2";
  float head_scale = 1.0F;
  static constexpr auto params = std::tuple{Param{"head_scale", &Fp8E5m2::head_scale, "1", "x is stored as E5M2(x / head_scale)", 1e-6, 1e6}};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return {ElementFormat::fp8_e5m2, ScaleScheme::head, false, head_scale}; }
};
struct Fp8Token {
  static constexpr std::string_view name = "fp8_e4m3.token";
  static constexpr std::string_view doc = "E4M3, fp16 scale per (token, head)";
  static constexpr std::string_view source = "vLLM fp8_per_token_head";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return {ElementFormat::fp8_e4m3, ScaleScheme::token}; }
};

}  // namespace moekv::codec
