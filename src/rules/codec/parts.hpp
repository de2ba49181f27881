// A codec put together from its parts: an element format, a scale scheme, a map and a centre (compression.md 8.1).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "rules/codec/channel.hpp"
#include "rules/codec/format.hpp"

namespace moekv::codec {

/// How one stored value is written: asymmetric and symmetric integers, floats, Lloyd-Max levels, and numbers without a scale.
enum class PartElement : std::uint8_t {
  int8_asym,
  int4_asym,
  int3_asym,
  int2_asym,
  int8_sym,
  int4_sym,
  int3_sym,
  int2_sym,
  fp8_e4m3,
  fp8_e5m2,
  e2m1,
  lloyd4,
  lloyd3,
  lloyd2,
  bf16,
  fp16,
  fp32
};
constexpr auto enum_names(PartElement) {
  return std::array<std::string_view, 17>{"int8_asym", "int4_asym", "int3_asym", "int2_asym", "int8_sym", "int4_sym",
                                          "int3_sym",  "int2_sym",  "fp8_e4m3",  "fp8_e5m2",  "e2m1",     "lloyd4",
                                          "lloyd3",    "lloyd2",    "bf16",      "fp16",      "fp32"};
}
/// What shares a scale: nothing has one; a head for the whole run; a token; `group` channels of a token; `group` tokens of a channel.
enum class PartScale : std::uint8_t { none, head, token, group, channel };
constexpr auto enum_names(PartScale) { return std::array<std::string_view, 5>{"none", "head", "token", "group", "channel"}; }
enum class PartScaleCode : std::uint8_t { fp16, e4m3, e4m3_4over6, e8m0 };
constexpr auto enum_names(PartScaleCode) { return std::array<std::string_view, 4>{"fp16", "e4m3", "e4m3.4over6", "e8m0"}; }
enum class PartMap : std::uint8_t { none, hadamard, pool, diag, crop, magnitude, think, pca, kq_svd, loaded };
constexpr auto enum_names(PartMap) {
  return std::array<std::string_view, 10>{"none",         "hadamard",  "pool",         "diag",        "select.crop", "select.magnitude",
                                          "select.think", "basis.pca", "basis.kq_svd", "basis.loaded"};
}
enum class PartCentre : std::uint8_t { none, mean };
constexpr auto enum_names(PartCentre) { return std::array<std::string_view, 2>{"none", "mean"}; }
/// Who shares the data of a map and a centre, and so what they are made from.
enum class PartTable : std::uint8_t { sequence, offline, page };
constexpr auto enum_names(PartTable) { return std::array<std::string_view, 3>{"sequence", "offline", "page"}; }

struct Parts {
  static constexpr std::string_view name = "parts";
  static constexpr std::string_view doc =
      "element format x scale scheme x map x centre as given, for K and V alike, or apart in compression.k and compression.v; by default int4_token";
  static constexpr std::string_view source = "the parts of the other codecs";
  PartElement element = PartElement::int4_asym;
  PartScale scale = PartScale::token;
  std::uint32_t group = 32;
  PartScaleCode scale_code = PartScaleCode::fp16;
  float head_scale = 1.0F;
  PartMap map = PartMap::none;
  float pruned = 0.5F;
  std::uint32_t level = 1, rank = 64;
  float alpha = 0.5F;
  PartCentre centre = PartCentre::none;
  PartTable table = PartTable::sequence;
  static constexpr auto params = std::tuple{
      Param{"element", &Parts::element, "1",
            "how a value is stored: integers with zero (asym) or without (sym), floats, Lloyd-Max levels, raw numbers"},
      Param{"scale", &Parts::scale, "1", "what shares a scale: a head for the run, a token, group channels of a token, group tokens of a channel"},
      Param{"group", &Parts::group, "1", "channels (scale group) or tokens (scale channel) of a scale, a multiple of 8", 8.0, 4096.0},
      Param{"scale_code", &Parts::scale_code, "1", "how a scale is stored; e4m3 and e8m0: of e2m1, by token or group"},
      Param{"head_scale", &Parts::head_scale, "1", "the scale of scale head; the tensor scale of scale_code e4m3", 1e-6, 1e6},
      Param{"map", &Parts::map, "1",
            "linear map before the element: rotation, means of neighbours, smoothed channels, some channels, coordinates in a basis"},
      Param{"pruned", &Parts::pruned, "1", detail::pruned_doc, 0.0, 0.95},
      Param{"level", &Parts::level, "1", "of map pool: each level halves the channels", 1.0, 6.0},
      Param{"rank", &Parts::rank, "1", "of basis maps: coordinates stored of a row", 1.0, 4096.0},
      Param{"alpha", &Parts::alpha, "1",
            "of map diag (SmoothAttention): channels are divided by their largest |value| to this power, RoPE partners of K by the larger", 0.0, 1.0},
      Param{"centre", &Parts::centre, "1", "mean: the channel mean is taken out before the map (basis.loaded: its bias is added)"},
      Param{"table", &Parts::table, "1",
            "whose rows make map and centre: the sequence's first sealed pages, calibration sequences, each page (kept in it)"}};

  [[nodiscard]] PlaneFormat plane(Role role, std::uint32_t d) const {
    PlaneFormat f{.element = stored_element(), .scale = scheme(), .zero_point = element <= PartElement::int2_asym, .head_scale = head_scale};
    if (grouped()) f.group = static_cast<std::uint16_t>(group);
    f.scale_code = scale_code == PartScaleCode::fp16 ? ScaleCode::fp16 : scale_code == PartScaleCode::e8m0 ? ScaleCode::e8m0 : ScaleCode::e4m3;
    f.four_over_six = scale_code == PartScaleCode::e4m3_4over6;
    set_map(f, role, d);
    f.centre = centre == PartCentre::mean;
    if (map == PartMap::loaded || (f.has_table() && table == PartTable::offline)) f.scope = TableScope::run;
    if (f.has_table() && table == PartTable::page) f.scope = TableScope::page;
    return f;
  }

  /// Calls report(parameter, what, advice) for each pair of parts that do not go together in a plane of `role`.
  template <class F>
  constexpr void check(Role role, F&& report) const {
    check_scale(report);
    check_scale_parameters(report);
    check_map(role, report);
    check_map_parameters(report);
  }

 private:
  [[nodiscard]] constexpr bool numbers() const { return element >= PartElement::bf16; }
  [[nodiscard]] constexpr bool levels() const { return element >= PartElement::lloyd4 && !numbers(); }
  [[nodiscard]] constexpr bool grouped() const { return scale == PartScale::group || scale == PartScale::channel; }
  [[nodiscard]] constexpr bool selects() const { return map >= PartMap::crop && map <= PartMap::think; }
  [[nodiscard]] constexpr bool in_basis() const { return map >= PartMap::pca; }
  /// Whether the map is made from rows.
  [[nodiscard]] constexpr bool fitted() const { return map >= PartMap::diag; }
  [[nodiscard]] constexpr bool asks_queries() const { return map == PartMap::think || map == PartMap::kq_svd; }

  [[nodiscard]] constexpr ElementFormat stored_element() const {
    using enum ElementFormat;
    constexpr std::array<ElementFormat, 17> stored{int8,     int4, int3,   int2,   int8,   int4, int3, int2, fp8_e4m3,
                                                   fp8_e5m2, e2m1, lloyd4, lloyd3, lloyd2, bf16, fp16, fp32};
    return stored[static_cast<std::size_t>(element)];
  }
  [[nodiscard]] constexpr ScaleScheme scheme() const {
    using enum ScaleScheme;
    return std::array<ScaleScheme, 5>{none, head, token, token_group, channel_group}[static_cast<std::size_t>(scale)];
  }
  void set_map(PlaneFormat& f, Role role, std::uint32_t d) const {
    using enum TableFit;
    f.fit = std::array<TableFit, 10>{none, none, none, smooth, crop, magnitude, think, pca, kq_svd, loaded}[static_cast<std::size_t>(map)];
    if (map == PartMap::hadamard) f.map = MapKind::hadamard;
    if (map == PartMap::pool) {
      f.map = MapKind::pool;
      f.width = static_cast<std::uint16_t>(1U << level);
    }
    if (map == PartMap::diag) {
      f.map = MapKind::diag;
      f.fit = role == Role::k ? smooth_pairs : smooth;
      f.alpha = alpha;
    }
    if (selects()) {
      f.map = MapKind::select;
      f.width = detail::pruned(f.fit, pruned, d).width;
    }
    if (in_basis()) {
      f.map = MapKind::basis;
      f.width = static_cast<std::uint16_t>(rank);
    }
  }

  template <class F>
  constexpr void check_scale(F&& report) const {
    if (numbers() && scale != PartScale::none)
      report("scale", "bf16, fp16 and fp32 are the numbers themselves and have no scale", "set scale: none, or an element of fewer bits");
    if (!numbers() && scale == PartScale::none)
      report("scale", "codes of fewer than 16 bits need a scale",
             "set scale: head (with head_scale: 1 they stand for themselves), token, group or channel");
    if (element <= PartElement::int2_asym && scale == PartScale::head)
      report("element", "a scale that is fixed for a head has no zero beside it",
             "take the symmetric integer (sym), or scale: token, group or channel");
    if (levels() && scale != PartScale::token && scale != PartScale::none)
      report("scale", "Lloyd-Max levels are relative to the norm of a whole row", "set scale: token");
  }
  template <class F>
  constexpr void check_scale_parameters(F&& report) const {
    const bool bytes = scale_code != PartScaleCode::fp16;
    if (bytes && element != PartElement::e2m1)
      report("scale_code", "scales of one byte belong to 4-bit floats", "set element: e2m1, or scale_code: fp16");
    else if (bytes && scale != PartScale::token && scale != PartScale::group)
      report("scale_code", "only scales of a token or of its groups of channels are stored in one byte",
             "set scale: group or token, or scale_code: fp16");
    if (grouped() && group % 8 != 0) report("group", "codes of a group must fill whole bytes", "take a multiple of 8");
    if (!grouped() && group != Parts{}.group) report("group", "no scale is shared by a group", "set scale: group or channel, or leave group out");
    const bool fixed = scale == PartScale::head || scale_code == PartScaleCode::e4m3 || scale_code == PartScaleCode::e4m3_4over6;
    if (!fixed && head_scale != Parts{}.head_scale)
      report("head_scale", "scales follow what is stored", "set scale: head or scale_code: e4m3, or leave head_scale out");
  }
  template <class F>
  constexpr void check_map(Role role, F&& report) const {
    if (role == Role::v && asks_queries())
      report("map", "this map weighs channels by queries, which meet keys alone",
             "give V a map of its own in compression.v, such as select.magnitude or basis.pca");
    if (table == PartTable::page && asks_queries())
      report("table", "a page that makes a map of its own is sealed without queries",
             "set table: sequence or offline, or map: select.magnitude or basis.pca");
    if (table != PartTable::sequence && map == PartMap::loaded)
      report("table", "a loaded map is one for all pages of a layer and head", "leave table out");
    if (table != PartTable::sequence && !fitted() && centre == PartCentre::none)
      report("table", "neither map nor centre is made from rows", "set centre: mean or map: diag, a select or a basis map, or leave table out");
    if (map == PartMap::diag && scale == PartScale::channel)
      report("map", "scales of channels take up whatever channels are divided by", "set scale: token or group, or map: none");
  }
  template <class F>
  constexpr void check_map_parameters(F&& report) const {
    if (!selects() && pruned != Parts{}.pruned)
      report("pruned", "only select maps leave channels out", "set map: select.crop, select.magnitude or select.think");
    if (map != PartMap::pool && level != Parts{}.level) report("level", "only map pool has levels", "set map: pool");
    if (map != PartMap::diag && alpha != Parts{}.alpha) report("alpha", "only map diag smooths channels", "set map: diag");
    if (map == PartMap::diag && alpha == 0.0F) report("alpha", "every channel would be divided by 1", "take a power above 0, or map: none");
    if (!in_basis() && rank != Parts{}.rank) report("rank", "only basis maps have a rank", "set map: basis.pca, basis.kq_svd or basis.loaded");
  }
};

}  // namespace moekv::codec
