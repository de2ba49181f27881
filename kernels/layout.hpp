// What kernels know of a pool: where the planes of a page head lie, and how their values are stored. Trivially copyable; made once per pool.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/hd.hpp"
#include "rules/codec/format.hpp"
#include "rules/codec/map.hpp"

namespace moekv::kernels {

/// One plane of a page head. Offsets count from the page head.
struct PlaneLayout {
  PlaneFormat format;
  std::uint32_t d = 0, width = 0;  // channels, and values stored of them
  std::uint32_t read_width = 0;    // values that attention reads of a row
  std::uint32_t row_bytes = 0;     // codes of one row
  std::uint32_t meta_bytes = 0;    // metadata of one row; 0 where rows share it
  std::uint64_t codes = 0, meta = 0;
  std::uint64_t table = 0;         // from the page head (TableScope::page) or from the shared table of the head
  bool has_table = false, table_in_page = false;
};

struct PoolLayout {
  PlaneLayout k, v;  // v is not used where the planes are latent
  std::uint32_t page_slots = 0, n_kv_heads = 0;
  std::uint64_t head_bytes = 0;         // from one KV head of a block to the next
  std::uint64_t shared_head_bytes = 0;  // from one KV head of a shared table to the next
  std::uint64_t bounds_head_bytes = 0;
  ElementFormat bounds_element = ElementFormat::bf16;
  bool latent = false;
};

[[nodiscard]] inline PlaneLayout plane_layout(const PlaneFormat& f, std::uint32_t d, std::uint64_t codes, std::uint64_t meta, std::uint64_t table) {
  const std::uint32_t width = stored_width(f, d), read_width = f.map == MapKind::codebook ? d : width;
  return {f, d, width, read_width, code_bytes(f, d), moekv::meta_bytes(f, d), codes, meta, table, f.has_table(), f.scope == TableScope::page};
}

[[nodiscard]] inline PoolLayout pool_layout(const BlockFormat& f) {
  PoolLayout p;
  p.k = plane_layout(f.k, f.d_k, f.k_codes(), f.k_meta(), f.k.scope == TableScope::page ? f.k_table() : 0);
  p.v = plane_layout(f.v, f.d_v, f.v_codes(), f.v_meta(), f.v.scope == TableScope::page ? f.v_table() : f.shared_k_table());
  p.page_slots = f.page_slots;
  p.n_kv_heads = f.n_kv_heads;
  p.head_bytes = f.head_bytes();
  p.shared_head_bytes = f.shared_head_bytes();
  p.bounds_head_bytes = f.bounds_head_bytes();
  p.bounds_element = f.bounds_element;
  p.latent = f.latent;
  return p;
}

/// A page as kernels find it. `table`: what its block shares with others, or null.
struct DevicePage {
  const std::byte* block;
  const std::byte* table;
  std::uint32_t pool;
  std::uint32_t n_slots;
  std::uint32_t mask;        // PageRead::mask
  std::uint32_t first_slot;  // slots of its task before it
};

/// The map of a plane of one page head.
MOEKV_HD MapView map_of(const PoolLayout& pool, const PlaneLayout& plane, const std::byte* head, const std::byte* table, std::uint32_t kv_head) {
  const std::byte* at = nullptr;
  if (plane.has_table) at = (plane.table_in_page ? head : table + kv_head * pool.shared_head_bytes) + plane.table;
  const PlaneFormat& f = plane.format;
  return {f.map, f.fit, f.centre, plane.d, plane.width, f.map == MapKind::pool ? f.width : 1U, at};
}

/// The map that queries and outputs go through: none where rows are read as they were before it.
MOEKV_HD MapView attended_map(const MapView& map) { return map.linear() ? map : MapView{}; }

/// Whether the query reads a slot of a page. `masks`: AttendBatch::masks.
MOEKV_HD bool is_read(const DevicePage& page, const std::uint64_t* masks, std::uint32_t slot) {
  if (slot >= page.n_slots) return false;
  return page.mask == 0xFFFFFFFFU || (masks[page.mask + slot / 64] >> (slot % 64) & 1U) != 0;
}

}  // namespace moekv::kernels
