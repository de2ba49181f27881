// Codecs that store coordinates in a smaller basis.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "rules/codec/format.hpp"

namespace moekv::codec {

/// How coordinates are stored: fp16, or asymmetric 4-bit with fp16 scale and zero per token.
enum class Latents : std::uint8_t { fp16, int4 };
constexpr auto enum_names(Latents) { return std::array<std::string_view, 2>{"fp16", "int4"}; }
/// What a basis is made from: the first sealed pages of the sequence, calibration sequences of the same layer, or a file (with a bias where the
/// basis is centred).
enum class BasisFrom : std::uint8_t { sequence, offline, loaded };
constexpr auto enum_names(BasisFrom) { return std::array<std::string_view, 3>{"sequence", "offline", "loaded"}; }

namespace detail {

[[nodiscard]] constexpr PlaneFormat in_basis(TableFit fit, std::uint32_t rank, Latents latents, BasisFrom from) {
  const bool fp16 = latents == Latents::fp16;
  return {.element = fp16 ? ElementFormat::fp16 : ElementFormat::int4,
          .scale = fp16 ? ScaleScheme::none : ScaleScheme::token,
          .zero_point = !fp16,
          .map = MapKind::basis,
          .fit = from == BasisFrom::loaded ? TableFit::loaded : fit,
          .scope = from == BasisFrom::sequence ? TableScope::sequence : TableScope::run,
          .centre = fit == TableFit::pca,
          .width = static_cast<std::uint16_t>(rank)};
}
inline constexpr std::string_view rank_doc = "coordinates stored of a row";
inline constexpr std::string_view latents_doc = "how coordinates are stored";
inline constexpr std::string_view basis_doc =
    "rows a basis is made from: the sequence's first sealed pages, calibration sequences, or a file (compression.maps_path)";

}  // namespace detail

struct LowrankPca {
  static constexpr std::string_view name = "lowrank.pca";
  static constexpr std::string_view doc = "coordinates along principal axes (truncated SVD), post-RoPE";
  static constexpr std::string_view source = "PiKV Table 2, SVD; Palu, arXiv 2407.21118; Eigen Attention, arXiv 2408.05646";
  std::uint32_t rank = 64;
  Latents latents = Latents::fp16;
  BasisFrom basis = BasisFrom::sequence;
  static constexpr auto params =
      std::tuple{Param{"rank", &LowrankPca::rank, "1", detail::rank_doc, 1.0, 4096.0},
                 Param{"latents", &LowrankPca::latents, "1", detail::latents_doc}, Param{"basis", &LowrankPca::basis, "1", detail::basis_doc}};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const { return detail::in_basis(TableFit::pca, rank, latents, basis); }
};
struct LowrankKqSvd {
  static constexpr std::string_view name = "lowrank.kq_svd";
  static constexpr std::string_view doc = "coordinates of K that are best for logits under recent queries (KQ-SVD), V as lowrank.pca";
  static constexpr std::string_view source = "KQ-SVD, arXiv 2512.05916";
  std::uint32_t rank = 64;
  Latents latents = Latents::fp16;
  BasisFrom basis = BasisFrom::sequence;
  static constexpr auto params =
      std::tuple{Param{"rank", &LowrankKqSvd::rank, "1", detail::rank_doc, 1.0, 4096.0},
                 Param{"latents", &LowrankKqSvd::latents, "1", detail::latents_doc}, Param{"basis", &LowrankKqSvd::basis, "1", detail::basis_doc}};
  [[nodiscard]] PlaneFormat plane(Role role, std::uint32_t) const {
    return detail::in_basis(role == Role::k ? TableFit::kq_svd : TableFit::pca, rank, latents, basis);
  }
};
struct BlockPca {
  static constexpr std::string_view name = "block_pca";
  static constexpr std::string_view doc = "principal axes of each page, stored in the page (what PiKV calls ChunkKV)";
  static constexpr std::string_view source = "PiKV Table 2, Ch";
  std::uint32_t rank = 16;
  static constexpr auto params = std::tuple{Param{"rank", &BlockPca::rank, "1", detail::rank_doc, 1.0, 256.0}};
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const {
    PlaneFormat f = detail::in_basis(TableFit::pca, rank, Latents::fp16, BasisFrom::sequence);
    f.scope = TableScope::page;
    f.centre = false;
    return f;
  }
};

}  // namespace moekv::codec
