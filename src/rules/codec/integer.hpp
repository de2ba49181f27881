// Integer codecs with scales per token or per group of channels.
#pragma once

#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "rules/codec/format.hpp"

namespace moekv::codec {

namespace detail {

/// Asymmetric integers with fp16 scale and zero per token, or per `group` of the scheme.
[[nodiscard]] constexpr PlaneFormat asymmetric(ElementFormat element, ScaleScheme scale = ScaleScheme::token, std::uint16_t group = 0) {
  return {.element = element, .scale = scale, .zero_point = true, .group = group};
}
[[nodiscard]] constexpr PlaneFormat rotated(PlaneFormat f) {
  f.map = MapKind::hadamard;
  return f;
}
/// K with its channel mean taken out: exact under softmax, because q . mean is added to every logit of the page.
[[nodiscard]] constexpr PlaneFormat centred(PlaneFormat f) {
  f.centre = true;
  return f;
}

}  // namespace detail

struct Int8Token {
  static constexpr std::string_view name = "int8_token";
  static constexpr std::string_view doc = "symmetric 8-bit, fp16 scale per (token, head)";
  static constexpr std::string_view source = "vLLM int8_per_token_head";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return {ElementFormat::int8, ScaleScheme::token}; }
};
struct Int8TokenAsymmetric {
  static constexpr std::string_view name = "int8_token.asym";
  static constexpr std::string_view doc = "asymmetric 8-bit, fp16 scale and zero per (token, head)";
  static constexpr std::string_view source = "PiKV's 8-bit compressor, faithfully";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::asymmetric(ElementFormat::int8); }
};
struct Int4Token {
  static constexpr std::string_view name = "int4_token";
  static constexpr std::string_view doc = "asymmetric 4-bit, fp16 scale and zero per (token, head)";
  static constexpr std::string_view source = "QServe KV4, arXiv 2405.04532";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::asymmetric(ElementFormat::int4); }
};
struct Int4TokenHadamard {
  static constexpr std::string_view name = "int4_token.hadamard";
  static constexpr std::string_view doc = "int4_token behind a Hadamard rotation (QuaRot)";
  static constexpr std::string_view source = "QuaRot, arXiv 2404.00456";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::rotated(detail::asymmetric(ElementFormat::int4)); }
};
struct Int4TokenCentred {
  static constexpr std::string_view name = "int4_token.centred";
  static constexpr std::string_view doc = "int4_token, K minus the channel mean of its sequence's first sealed pages";
  static constexpr std::string_view source = "key centring before QServe KV4";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role role, std::uint32_t) const {
    return role == Role::k ? detail::centred(detail::asymmetric(ElementFormat::int4)) : detail::asymmetric(ElementFormat::int4);
  }
};
struct Int4TokenHadamardCentred {
  static constexpr std::string_view name = "int4_token.hadamard_centred";
  static constexpr std::string_view doc = "int4_token, K centred, both rotated";
  static constexpr std::string_view source = "key centring before QuaRot";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role role, std::uint32_t) const {
    return role == Role::k ? detail::centred(detail::rotated(detail::asymmetric(ElementFormat::int4)))
                           : detail::rotated(detail::asymmetric(ElementFormat::int4));
  }
};
struct Int4G64 {
  static constexpr std::string_view name = "int4_g64";
  static constexpr std::string_view doc = "asymmetric 4-bit, fp16 scale and zero per (token, 64 channels)";
  static constexpr std::string_view source = "Atom, arXiv 2310.19102; FlexGen";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::asymmetric(ElementFormat::int4, ScaleScheme::token_group, 64); }
};
struct Int4G32 {
  static constexpr std::string_view name = "int4_g32";
  static constexpr std::string_view doc = "asymmetric 4-bit, fp16 scale and zero per (token, 32 channels)";
  static constexpr std::string_view source = "Atom, arXiv 2310.19102; FlexGen";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::asymmetric(ElementFormat::int4, ScaleScheme::token_group, 32); }
};

}  // namespace moekv::codec
