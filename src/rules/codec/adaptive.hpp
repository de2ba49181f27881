// A codec chosen anew for each page, from three that need no table beyond the page.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "core/field.hpp"
#include "rules/codec/channel.hpp"
#include "rules/codec/choice.hpp"
#include "rules/codec/format.hpp"
#include "rules/codec/fp4.hpp"
#include "rules/codec/fp8.hpp"
#include "rules/codec/integer.hpp"
#include "rules/codec/kivi.hpp"
#include "rules/codec/lowrank.hpp"
#include "rules/codec/turboquant.hpp"

namespace moekv::codec {

namespace detail {

/// The payload's own type, whatever it is.
struct Raw {
  static constexpr std::string_view name = "raw";
  [[nodiscard]] static PlaneFormat plane(Role, std::uint32_t) { return {}; }
};

/// Codecs by number.
template <class... C>
struct CodecList {
  static constexpr std::array<std::string_view, sizeof...(C)> names{C::name...};

  template <class Wanted>
  [[nodiscard]] static constexpr std::uint8_t index_of() {
    std::uint8_t index = 0, found = 0;
    ((found = std::is_same_v<C, Wanted> ? index : found, ++index), ...);
    return found;
  }
  [[nodiscard]] static PlaneFormat plane(std::size_t index, Role role, std::uint32_t d) {
    PlaneFormat f;
    std::size_t i = 0;
    ((i++ == index ? void(f = C{}.plane(role, d)) : void()), ...);
    return f;
  }
};

using PageCodecs = CodecList<Raw, Fp8Token, Fp8E5m2, Int8Token, Int8TokenAsymmetric, Int4Token, Int4TokenHadamard, Int4G64, Int4G32, Kivi4, Kivi2,
                             Nvfp4, Nvfp4FourOverSix, Mxfp4, TurboQuant4, TurboQuant3, TurboQuant2, PyramidRes, BlockPca>;

}  // namespace detail

/// A codec that a page can have by itself, in its default parameters.
enum class PageCodec : std::uint8_t {};
constexpr auto enum_names(PageCodec) { return detail::PageCodecs::names; }
template <class C>
inline constexpr PageCodec page_codec{detail::PageCodecs::index_of<C>()};

/// What chooses among them.
enum class AdaptBy : std::uint8_t { error, importance };
constexpr auto enum_names(AdaptBy) { return std::array<std::string_view, 2>{"error", "importance"}; }

struct Adaptive {
  static constexpr std::string_view name = "adaptive";
  static constexpr std::string_view doc =
      "a codec per page, chosen when it is sealed: the smallest of three whose error on the page is at most max_error, or by the page's share of "
      "attention (what PiKV's unified compressor means)";
  static constexpr std::string_view source = "PiKV's unified compressor, faithfully";
  PageCodec small = page_codec<Int4TokenHadamard>, medium = page_codec<Int8Token>, large = page_codec<detail::Raw>;
  AdaptBy by = AdaptBy::error;
  float max_error = 0.1F;
  float low = 0.3F, high = 0.7F;
  static constexpr auto params = std::tuple{
      Param{"small", &Adaptive::small, "1", "codec with the smallest pages"}, Param{"medium", &Adaptive::medium, "1", "one with pages as large or larger"},
      Param{"large", &Adaptive::large, "1", "the last resort, as large or larger; raw is the payload's own type"},
      Param{"by", &Adaptive::by, "1", "error: what small and medium would lose; importance: attention of the newest queries, low and high"},
      Param{"max_error", &Adaptive::max_error, "1", "largest norm of a plane's error over that of its values less their mean over the page", 0.0, 1e6},
      Param{"low", &Adaptive::low, "1", detail::low_doc, 0.0, 1.0}, Param{"high", &Adaptive::high, "1", detail::high_doc, 0.0, 1.0}};

  [[nodiscard]] ClassChoice choice() const {
    return {.by = by == AdaptBy::error ? ChooseBy::error : ChooseBy::importance, .max_error = max_error, .low = low, .high = high};
  }
  [[nodiscard]] std::array<PageCodec, n_page_classes> classes() const { return {small, medium, large}; }
  [[nodiscard]] PlaneFormat plane(Role role, std::uint32_t d, std::uint32_t page_class) const {
    return detail::PageCodecs::plane(static_cast<std::size_t>(classes()[page_class]), role, d);
  }
  [[nodiscard]] PlaneFormat plane(Role role, std::uint32_t d) const { return plane(role, d, n_page_classes - 1); }
};

}  // namespace moekv::codec
