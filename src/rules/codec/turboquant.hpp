// TurboQuant: Lloyd-Max codes of rotated rows.
#pragma once

#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "rules/codec/format.hpp"
#include "rules/codec/integer.hpp"

namespace moekv::codec {

namespace detail {

/// Rotated rows in levels of a normal distribution, with the fp16 norm that restores theirs.
[[nodiscard]] constexpr PlaneFormat turbo(ElementFormat element) {
  return {.element = element, .scale = ScaleScheme::token, .map = MapKind::hadamard};
}

}  // namespace detail

struct TurboQuant4 {
  static constexpr std::string_view name = "turboquant4";
  static constexpr std::string_view doc = "TurboQuant: K and V rotated, 4-bit Lloyd-Max levels, norm-corrected";
  static constexpr std::string_view source = "TurboQuant, arXiv 2504.19874";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::turbo(ElementFormat::lloyd4); }
};
struct TurboQuant3 {
  static constexpr std::string_view name = "turboquant3";
  static constexpr std::string_view doc = "TurboQuant: K and V rotated, 3-bit Lloyd-Max levels, norm-corrected";
  static constexpr std::string_view source = "TurboQuant, arXiv 2504.19874";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::turbo(ElementFormat::lloyd3); }
};
struct TurboQuant2 {
  static constexpr std::string_view name = "turboquant2";
  static constexpr std::string_view doc = "TurboQuant: K and V rotated, 2-bit Lloyd-Max levels, norm-corrected";
  static constexpr std::string_view source = "TurboQuant, arXiv 2504.19874";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::turbo(ElementFormat::lloyd2); }
};
struct TurboK8V4 {
  static constexpr std::string_view name = "turboquant_k8v4";
  static constexpr std::string_view doc = "as vLLM: K in E4M3, V int4_token";
  static constexpr std::string_view source = "vLLM turboquant_k8v4";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role role, std::uint32_t) const {
    return role == Role::k ? PlaneFormat{ElementFormat::fp8_e4m3, ScaleScheme::head} : detail::asymmetric(ElementFormat::int4);
  }
};
struct Turbo4Nc {
  static constexpr std::string_view name = "turboquant_4bit_nc";
  static constexpr std::string_view doc = "as vLLM: K as turboquant4, V int4_token";
  static constexpr std::string_view source = "vLLM turboquant_4bit_nc";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role role, std::uint32_t) const {
    return role == Role::k ? detail::turbo(ElementFormat::lloyd4) : detail::asymmetric(ElementFormat::int4);
  }
};
struct TurboK3V4Nc {
  static constexpr std::string_view name = "turboquant_k3v4_nc";
  static constexpr std::string_view doc = "as vLLM: K as turboquant3, V int4_token";
  static constexpr std::string_view source = "vLLM turboquant_k3v4_nc";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role role, std::uint32_t) const {
    return role == Role::k ? detail::turbo(ElementFormat::lloyd3) : detail::asymmetric(ElementFormat::int4);
  }
};
struct Turbo3Nc {
  static constexpr std::string_view name = "turboquant_3bit_nc";
  static constexpr std::string_view doc = "as vLLM: K as turboquant3, V in 3 bits per token";
  static constexpr std::string_view source = "vLLM turboquant_3bit_nc";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role role, std::uint32_t) const {
    return role == Role::k ? detail::turbo(ElementFormat::lloyd3) : detail::asymmetric(ElementFormat::int3);
  }
};

}  // namespace moekv::codec
