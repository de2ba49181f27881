// The linear maps of codecs: what is stored is T(k - c); queries meet it as T'q, outputs leave it as T'o, so no row is ever mapped back for attention.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/hd.hpp"
#include "core/math.hpp"
#include "rules/codec/codebook.hpp"
#include "rules/codec/element.hpp"
#include "rules/codec/format.hpp"

namespace moekv {

/// One map with its data. `table` is what table_bytes(format, d) describes: [centre d][channel numbers width | matrix width x d (| second matrix) |
/// divisors d | centroids d x 256]; the first matrix makes stored values of a row, the second (the first where there is one) takes them back. Null
/// for maps without data.
struct MapView {
  MapKind kind = MapKind::identity;
  TableFit fit = TableFit::none;
  bool centre = false;
  std::uint32_t d = 0, width = 0;  // channels before and after
  std::uint32_t pool = 1;          // MapKind::pool: channels of one mean
  const std::byte* table = nullptr;

  [[nodiscard]] constexpr bool identity() const { return kind == MapKind::identity && !centre; }
  /// False where attention needs rows as they were before the map.
  [[nodiscard]] constexpr bool linear() const { return kind != MapKind::codebook; }
  friend bool operator==(const MapView&, const MapView&) = default;
};

MOEKV_HD MapView map_view(const PlaneFormat& f, std::uint32_t d, const std::byte* table) {
  return {f.map, f.fit, f.centre, d, stored_width(f, d), f.map == MapKind::pool ? f.width : 1U, f.has_table() ? table : nullptr};
}

/// Length of a Hadamard block: the largest power of two that divides d.
MOEKV_HD std::uint32_t hadamard_block(std::uint32_t d) { return d & (0U - d); }

/// x[0..d) times the orthonormal Sylvester matrix, block by block; its own inverse.
MOEKV_HD void hadamard(float* x, std::uint32_t d) {
  const std::uint32_t block = hadamard_block(d);
  const float norm = 1.0F / sqrt_fixed(static_cast<float>(block));
  for (std::uint32_t first = 0; first < d; first += block) {
    for (std::uint32_t h = 1; h < block; h *= 2) {
      for (std::uint32_t i = 0; i < block; i += 2 * h) {
        for (std::uint32_t j = first + i; j < first + i + h; ++j) {
          const float a = x[j];
          const float b = x[j + h];
          x[j] = a + b;
          x[j + h] = a - b;
        }
      }
    }
    for (std::uint32_t i = first; i < first + block; ++i) x[i] *= norm;
  }
}

namespace detail {

MOEKV_HD float table_value(const std::byte* table, std::size_t i) { return float_from_fp16(load_u16(table + 2 * i)); }
/// Where channel numbers, matrices, divisors or centroids begin.
MOEKV_HD const std::byte* map_data(const MapView& m) { return m.table + (m.centre ? 2 * std::size_t{m.d} : 0); }
/// What channel i is divided by on the way in, and multiplied by on the way back.
MOEKV_HD float divisor(const MapView& m, std::uint32_t i) { return table_value(map_data(m), i); }
/// The matrix that leads back, [width][d].
MOEKV_HD const std::byte* back_matrix(const MapView& m) {
  const bool second = m.fit == TableFit::kq_svd || m.fit == TableFit::loaded;
  return map_data(m) + (second ? 2 * std::size_t{m.width} * m.d : 0);
}
/// Channel c of centroid k of its sub-vector.
MOEKV_HD float centroid(const MapView& m, std::uint32_t c, std::uint32_t k) { return table_value(map_data(m), centroid_index(c, k)); }
/// Loaded maps are affine: their centre is added on the way back only.
MOEKV_HD bool subtracts_centre(const MapView& m) { return m.centre && m.fit != TableFit::loaded; }
MOEKV_HD float matrix_row(const std::byte* matrix, std::uint32_t row, const float* x, std::uint32_t d) {
  float sum = 0.0F;
  for (std::uint32_t c = 0; c < d; ++c) sum += table_value(matrix, std::size_t{row} * d + c) * x[c];
  return sum;
}

}  // namespace detail

/// Centre of channel c.
MOEKV_HD float map_centre(const MapView& m, std::uint32_t c) { return m.centre ? detail::table_value(m.table, c) : 0.0F; }

/// Stored value i of the row x[0..d), less its centre where the map subtracts one; not for Hadamard, which mixes whole blocks.
MOEKV_HD float map_forward_value(const MapView& m, const float* x, std::uint32_t i) {
  if (m.kind == MapKind::select) return x[load_u16(detail::map_data(m) + 2 * std::size_t{i})];
  if (m.kind == MapKind::basis) return detail::matrix_row(detail::map_data(m), i, x, m.d);
  if (m.kind == MapKind::diag) return x[i] / detail::divisor(m, i);
  if (m.kind == MapKind::codebook) {
    const auto at = [&](std::uint32_t c, std::uint32_t k) { return detail::centroid(m, c, k); };
    return static_cast<float>(nearest_centroid(x, subvector_begin(i, m.d, m.width), subvector_begin(i + 1, m.d, m.width), at));
  }
  if (m.kind != MapKind::pool) return x[i];
  const std::uint32_t end = (i + 1) * m.pool < m.d ? (i + 1) * m.pool : m.d;
  float sum = 0.0F;
  for (std::uint32_t c = i * m.pool; c < end; ++c) sum += x[c];
  return sum / static_cast<float>(end - i * m.pool);
}

/// Stored values z[0..width) of the row x[0..d), which it overwrites.
MOEKV_HD void map_forward(const MapView& m, float* x, float* z) {
  for (std::uint32_t c = 0; detail::subtracts_centre(m) && c < m.d; ++c) x[c] -= map_centre(m, c);
  if (m.kind == MapKind::hadamard) hadamard(x, m.d);
  for (std::uint32_t i = 0; i < m.width; ++i) z[i] = map_forward_value(m, x, i);
}

/// Value i of map_query; not for Hadamard and codebooks.
MOEKV_HD float map_query_value(const MapView& m, const float* q, std::uint32_t i) {
  if (m.kind == MapKind::select) return q[load_u16(detail::map_data(m) + 2 * std::size_t{i})];
  if (m.kind == MapKind::basis) return detail::matrix_row(detail::back_matrix(m), i, q, m.d);
  if (m.kind == MapKind::diag) return q[i] * detail::divisor(m, i);
  if (m.kind != MapKind::pool) return q[i];
  float sum = 0.0F;
  for (std::uint32_t c = i * m.pool; c < m.d && c < (i + 1) * m.pool; ++c) sum += q[c];
  return sum;
}

/// q'[0..width) with q' . z = q . (what z stands for, without the centre). `q` [d] is kept.
MOEKV_HD void map_query(const MapView& m, const float* q, float* out) {
  for (std::uint32_t i = 0; i < m.width; ++i) out[i] = map_query_value(m, q, i);
  if (m.kind == MapKind::hadamard) hadamard(out, m.d);
}

/// q . centre: what every logit of this map's rows lacks.
MOEKV_HD float query_centre(const MapView& m, const float* q) {
  float sum = 0.0F;
  for (std::uint32_t c = 0; m.centre && c < m.d; ++c) sum += q[c] * map_centre(m, c);
  return sum;
}

/// Adds to o[0..n), n <= d, what z[0..width) stands for plus `weight` times the centre. Overwrites z.
MOEKV_HD void map_back(const MapView& m, float* z, float weight, float* o, std::uint32_t n) {
  for (std::uint32_t c = 0; m.centre && c < n; ++c) o[c] += weight * map_centre(m, c);
  switch (m.kind) {
    case MapKind::pool:
      for (std::uint32_t c = 0; c < n; ++c) o[c] += z[c / m.pool];
      return;
    case MapKind::select:
      for (std::uint32_t i = 0; i < m.width; ++i) {
        const std::uint32_t c = load_u16(detail::map_data(m) + 2 * std::size_t{i});
        if (c < n) o[c] += z[i];
      }
      return;
    case MapKind::basis:
      for (std::uint32_t i = 0; i < m.width; ++i) {
        const std::byte* row = detail::back_matrix(m) + 2 * std::size_t{i} * m.d;
        for (std::uint32_t c = 0; c < n; ++c) o[c] += detail::table_value(row, c) * z[i];
      }
      return;
    case MapKind::diag:
      for (std::uint32_t c = 0; c < n; ++c) o[c] += detail::divisor(m, c) * z[c];
      return;
    case MapKind::codebook:
      for (std::uint32_t c = 0; c < n; ++c) o[c] += detail::centroid(m, c, static_cast<std::uint32_t>(z[subvector_of(c, m.d, m.width)]));
      return;
    default:
      if (m.kind == MapKind::hadamard) hadamard(z, m.d);
      for (std::uint32_t c = 0; c < n; ++c) o[c] += z[c];
  }
}

/// Channel c of a row whose codes are numbers of centroids.
MOEKV_HD float codebook_value(const MapView& m, const std::byte* codes, std::uint32_t c) {
  return detail::centroid(m, c, static_cast<std::uint32_t>(codes[subvector_of(c, m.d, m.width)]));
}

/// `o` after map_back of channel c alone, z having gone through the Hadamard map where that is the map. Slow for MapKind::select: it looks for c.
MOEKV_HD float map_back_value(const MapView& m, const float* z, float weight, float o, std::uint32_t c) {
  if (m.centre) o += weight * map_centre(m, c);
  switch (m.kind) {
    case MapKind::pool: return o + z[c / m.pool];
    case MapKind::select:
      for (std::uint32_t i = 0; i < m.width; ++i) {
        if (load_u16(detail::map_data(m) + 2 * std::size_t{i}) == c) o += z[i];
      }
      return o;
    case MapKind::basis:
      for (std::uint32_t i = 0; i < m.width; ++i) o += detail::table_value(detail::back_matrix(m), std::size_t{i} * m.d + c) * z[i];
      return o;
    case MapKind::diag: return o + detail::divisor(m, c) * z[c];
    case MapKind::codebook: return o + detail::centroid(m, c, static_cast<std::uint32_t>(z[subvector_of(c, m.d, m.width)]));
    default: return o + z[c];
  }
}

}  // namespace moekv
