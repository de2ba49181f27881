// Product quantisation: a byte for each sub-vector, and a codebook of k-means centroids for K and for V of every head.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "rules/codec/format.hpp"

namespace moekv::codec {

/// What a codebook is made from: the first sealed pages of the sequence, or calibration sequences of the same layer.
enum class CodebookFrom : std::uint8_t { sequence, offline };
constexpr auto enum_names(CodebookFrom) { return std::array<std::string_view, 2>{"sequence", "offline"}; }

struct Pq {
  static constexpr std::string_view name = "pq";
  static constexpr std::string_view doc = "product quantisation: one byte for each sub-vector, 256 k-means centroids of each";
  static constexpr std::string_view source = "Jegou et al., TPAMI 2011; for KV: PQCache, arXiv 2407.12820";
  std::uint32_t subvectors = 32;
  CodebookFrom codebook = CodebookFrom::sequence;
  static constexpr auto params = std::tuple{
      Param{"subvectors", &Pq::subvectors, "1", "sub-vectors of a row, of equal lengths as far as the channels divide", 1.0, 4096.0},
      Param{"codebook", &Pq::codebook, "1", "rows that centroids are made from: the sequence's first sealed pages, or calibration sequences"}};
  /// Numbers of centroids are bytes that stand for themselves.
  [[nodiscard]] PlaneFormat plane(Role, std::uint32_t) const {
    return {.element = ElementFormat::int8,
            .scale = ScaleScheme::head,
            .zero_point = true,
            .map = MapKind::codebook,
            .fit = TableFit::kmeans,
            .scope = codebook == CodebookFrom::sequence ? TableScope::sequence : TableScope::run,
            .width = static_cast<std::uint16_t>(subvectors)};
  }
};

}  // namespace moekv::codec
