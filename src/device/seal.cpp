// Blocks are sealed plane by plane; planes that keep their format are copied, mapped ones pass through fp32 rows.
#include "device/seal.hpp"

#include <algorithm>
#include <vector>

#include "core/error.hpp"
#include "device/fit_codebook.hpp"
#include "device/fit_table.hpp"
#include "rules/codec/map.hpp"
#include "rules/codec/row.hpp"

namespace moekv {
namespace {

/// Raw rows of `n` slots as fp32, appended to `out`.
void load_rows(ElementFormat format, const std::byte* codes, std::uint32_t d, std::uint32_t n, std::vector<float>& out) {
  const std::size_t first = out.size();
  out.resize(first + std::size_t{n} * d);
  for (std::uint32_t t = 0; t < n; ++t)
    decode_row({format}, codes + std::size_t{t} * d * element_bits(format) / 8, nullptr, d, &out[first + std::size_t{t} * d]);
}

/// The format of values behind the map.
PlaneFormat behind_map(PlaneFormat f) {
  f.map = MapKind::identity;
  f.centre = false;
  f.width = 0;
  return f;
}

/// map_forward of `n` rows by a matrix: its values are converted once, and those of a row summed side by side, each in the order of map_forward.
void multiply_rows(const MapView& map, float* x, std::uint32_t n, float* z) {
  thread_local std::vector<float> columns;  // [d][width]
  columns.resize(std::size_t{map.d} * map.width);
  for (std::uint32_t i = 0; i < map.width; ++i) {
    for (std::uint32_t c = 0; c < map.d; ++c)
      columns[std::size_t{c} * map.width + i] = detail::table_value(detail::map_data(map), std::size_t{i} * map.d + c);
  }
  for (std::uint32_t t = 0; t < n; ++t, x += map.d, z += map.width) {
    for (std::uint32_t c = 0; detail::subtracts_centre(map) && c < map.d; ++c) x[c] -= map_centre(map, c);
    std::fill_n(z, map.width, 0.0F);
    for (std::uint32_t c = 0; c < map.d; ++c) {
      const float* __restrict column = &columns[std::size_t{c} * map.width];
      float* __restrict sums = z;
      for (std::uint32_t i = 0; i < map.width; ++i) sums[i] += column[i] * x[c];
    }
  }
}

void seal_mapped(const PlaneRows& from, const PlaneRows& to, std::byte* table, bool own_table, std::uint32_t d, std::uint32_t first_rotated,
                 std::uint32_t n_slots) {
  thread_local std::vector<float> rows, values;
  rows.clear();
  load_rows(from.format.element, from.codes, d, n_slots, rows);
  if (own_table) fit_table(to.format, d, {rows.data(), n_slots, nullptr, 0, first_rotated}, table);
  const MapView map = map_view(to.format, d, table);
  values.resize(std::size_t{n_slots} * map.width);
  if (map.kind == MapKind::codebook) {
    find_centroids(map, rows.data(), n_slots, values.data());
  } else if (map.kind == MapKind::basis) {
    multiply_rows(map, rows.data(), n_slots, values.data());
  } else {
    for (std::uint32_t t = 0; t < n_slots; ++t) map_forward(map, &rows[std::size_t{t} * d], &values[std::size_t{t} * map.width]);
  }
  encode_rows({{ElementFormat::fp32}, reinterpret_cast<std::byte*>(values.data()), nullptr}, {behind_map(to.format), to.codes, to.meta}, map.width,
              n_slots);
}

void seal_plane(const PlaneRows& from, const PlaneRows& to, const std::byte* table, std::uint32_t d, std::uint32_t first_rotated,
                std::uint32_t n_slots) {
  if (to.format.mapped()) {
    seal_mapped(from, to, const_cast<std::byte*>(table), table != nullptr && to.format.scope == TableScope::page, d, first_rotated, n_slots);
  } else if (from.format == to.format) {
    std::copy_n(from.codes, std::size_t{code_bytes(from.format, d)} * n_slots, to.codes);
  } else {
    encode_rows(from, to, d, n_slots);
  }
}

}  // namespace

void seal_block(const PoolView& from, std::uint32_t from_block, const PoolView& to, std::uint32_t to_block, std::uint32_t n_slots) {
  const BlockFormat& f = from.format;
  const BlockFormat& t = to.format;
  MOEKV_EXPECT(f.n_kv_heads == t.n_kv_heads && f.d_k == t.d_k && f.d_v == t.d_v && f.latent == t.latent);
  MOEKV_EXPECT(n_slots <= f.page_slots && n_slots <= t.page_slots && f.k.scale == ScaleScheme::none);
  for (std::uint32_t head = 0; head < f.n_kv_heads; ++head) {
    std::byte* source = from.head(from_block, head);
    std::byte* target = to.head(to_block, head);
    seal_plane({f.k, source + f.k_codes(), nullptr}, {t.k, target + t.k_codes(), target + t.k_meta()}, to.k_table(to_block, head), f.d_k,
               f.first_rotated(), n_slots);
    if (f.latent) continue;
    seal_plane({f.v, source + f.v_codes(), nullptr}, {t.v, target + t.v_codes(), target + t.v_meta()}, to.v_table(to_block, head), f.d_v, 0, n_slots);
  }
}

void fit_shared_tables(const PoolView& from, const BlockFormat& to, std::span<const SealOp* const> ops, std::byte* tables) {
  const BlockFormat& f = from.format;
  std::vector<float> rows, queries;
  for (std::uint32_t head = 0; head < f.n_kv_heads; ++head) {
    std::byte* table = tables + head * to.shared_head_bytes();
    const auto fit = [&](const PlaneFormat& plane, std::uint64_t codes, std::uint32_t d) {
      rows.clear();
      queries.clear();
      std::uint32_t n = 0;
      for (const SealOp* op : ops) {
        load_rows(f.k.element, from.head(op->from.index, head) + codes, d, op->n_slots, rows);
        n += op->n_slots;
      }
      const std::uint32_t group = ops[0]->q_group;
      if (ops[0]->q != nullptr && codes == f.k_codes()) {
        for (std::uint32_t i = 0; i < ops[0]->n_q; ++i) {
          const std::byte* row = ops[0]->q + i * ops[0]->q_stride + std::size_t{head} * group * d * element_bits(f.k.element) / 8;
          load_rows(f.k.element, row, d, group, queries);
        }
      }
      fit_table(plane, d, {rows.data(), n, queries.data(), static_cast<std::uint32_t>(queries.size() / d), to.first_rotated()}, table);
    };
    if (to.shared_k_table() > 0) fit(to.k, f.k_codes(), f.d_k);
    table += to.shared_k_table();
    if (!to.latent && to.v.scope != TableScope::page && to.v.has_table()) fit(to.v, f.v_codes(), f.d_v);
  }
}

}  // namespace moekv
