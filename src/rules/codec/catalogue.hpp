// The codecs. One line here makes a codec known to YAML, help, kernels, HDF5 attributes and the every-rule tests.
#pragma once

#include <string_view>
#include <tuple>
#include <variant>

#include "core/field.hpp"
#include "rules/codec/format.hpp"

namespace moekv {

namespace codec {

struct Fp32 {
  static constexpr std::string_view name = "fp32";
  static constexpr std::string_view doc = "raw 32-bit";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane() const { return {ElementFormat::fp32}; }
};
struct Bf16 {
  static constexpr std::string_view name = "bf16";
  static constexpr std::string_view doc = "raw bfloat16";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane() const { return {ElementFormat::bf16}; }
};
struct Fp16 {
  static constexpr std::string_view name = "fp16";
  static constexpr std::string_view doc = "raw IEEE half";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane() const { return {ElementFormat::fp16}; }
};
struct Fp8Head {
  static constexpr std::string_view name = "fp8_e4m3.head";
  static constexpr std::string_view doc = "E4M3, one fixed scale per head";
  float head_scale = 1.0F;
  static constexpr auto params = std::tuple{Param{"head_scale", &Fp8Head::head_scale, "1", "x is stored as E4M3(x / head_scale)", 1e-6, 1e6}};
  [[nodiscard]] PlaneFormat plane() const { return {ElementFormat::fp8_e4m3, ScaleScheme::head, false, head_scale}; }
};
struct Fp8Token {
  static constexpr std::string_view name = "fp8_e4m3.token";
  static constexpr std::string_view doc = "E4M3, fp16 scale per (token, head)";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane() const { return {ElementFormat::fp8_e4m3, ScaleScheme::token}; }
};
struct Int8Token {
  static constexpr std::string_view name = "int8_token";
  static constexpr std::string_view doc = "symmetric 8-bit, fp16 scale per (token, head)";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane() const { return {ElementFormat::int8, ScaleScheme::token}; }
};
struct Int4Token {
  static constexpr std::string_view name = "int4_token";
  static constexpr std::string_view doc = "asymmetric 4-bit, fp16 scale and zero per (token, head)";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane() const { return {ElementFormat::int4, ScaleScheme::token, true}; }
};

}  // namespace codec

using Codec = std::variant<codec::Bf16, codec::Fp16, codec::Fp32, codec::Fp8Head, codec::Fp8Token, codec::Int8Token, codec::Int4Token>;

}  // namespace moekv
