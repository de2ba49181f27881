// Raw codecs: the payload's own type.
#pragma once

#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "rules/codec/format.hpp"

namespace moekv::codec {

struct Fp32 {
  static constexpr std::string_view name = "fp32";
  static constexpr std::string_view doc = "raw 32-bit";
  static constexpr std::string_view source = "IEEE 754 single";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return {ElementFormat::fp32}; }
};
struct Bf16 {
  static constexpr std::string_view name = "bf16";
  static constexpr std::string_view doc = "raw bfloat16";
  static constexpr std::string_view source = "IEEE 754 single, upper half";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return {ElementFormat::bf16}; }
};
struct Fp16 {
  static constexpr std::string_view name = "fp16";
  static constexpr std::string_view doc = "raw IEEE half";
  static constexpr std::string_view source = "IEEE 754 half";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return {ElementFormat::fp16}; }
};

}  // namespace moekv::codec
