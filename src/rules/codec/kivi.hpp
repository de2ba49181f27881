// KIVI: keys are scaled per channel, values per token. Groups of 32 tokens lie within a page.
#pragma once

#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "rules/codec/format.hpp"
#include "rules/codec/integer.hpp"

namespace moekv::codec {

struct Kivi4 {
  static constexpr std::string_view name = "kivi4";
  static constexpr std::string_view doc = "KIVI: K in 4 bits per channel over 32 tokens, V in 4 bits per token and 32 channels";
  static constexpr std::string_view source = "KIVI, arXiv 2402.02750";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role role, std::uint32_t) const {
    return role == Role::k ? detail::asymmetric(ElementFormat::int4, ScaleScheme::channel_group, 32)
                           : detail::asymmetric(ElementFormat::int4, ScaleScheme::token_group, 32);
  }
};
struct Kivi2 {
  static constexpr std::string_view name = "kivi2";
  static constexpr std::string_view doc = "KIVI in 2 bits";
  static constexpr std::string_view source = "KIVI, arXiv 2402.02750";
  static constexpr auto params = std::tuple{};
  [[nodiscard]] PlaneFormat plane(Role role, std::uint32_t) const {
    return role == Role::k ? detail::asymmetric(ElementFormat::int2, ScaleScheme::channel_group, 32)
                           : detail::asymmetric(ElementFormat::int2, ScaleScheme::token_group, 32);
  }
};

}  // namespace moekv::codec
