// Tiles of 64 slots as the tensor kernel takes them: which rows of which pages they are, how their codes become 16-bit values, what a block of
// threads keeps.
#pragma once

#include "launches.hpp"
#include "rules/codec/narrow.hpp"
#include "rules/codec/row.hpp"

namespace moekv::kernels {

inline constexpr std::uint32_t tensor_tile = 64;  // slots
inline constexpr std::uint32_t pad16 = 8;         // 16-bit values between rows of shared memory: rows of a fragment fall into different banks

/// Row widths and query heads (in eights) that a kernel is made for.
template <ElementFormat e, std::uint32_t k, std::uint32_t v, std::uint32_t n, bool l>
struct TensorShape {
  static constexpr ElementFormat element = e;
  static constexpr std::uint32_t d_k = k, d_v = v, eights = n, heads = 8 * n;
  static constexpr bool latent = l;
  static constexpr std::uint32_t k_stride = k + pad16, v_stride = l ? k_stride : v + pad16, p_stride = tensor_tile + pad16,
                                 s_stride = tensor_tile + 1;
  static constexpr std::uint32_t stage_bytes = 2 * tensor_tile * (k_stride + (l ? 0 : v_stride));
};

/// What is known of the slots of a tile. Pointers of slots that are not read are null.
struct TileRows {
  const std::byte *k[tensor_tile], *v[tensor_tile];
  float k_scale[tensor_tile], k_zero[tensor_tile], v_scale[tensor_tile], v_zero[tensor_tile];
  std::uint32_t logit[tensor_tile];  // place of the slot's logit in the task, or ~0
  ElementFormat k_element[tensor_tile], v_element[tensor_tile];
};

template <class Shape>
struct TensorShared {
  std::byte stages[2][Shape::stage_bytes];
  std::uint16_t q[Shape::heads * Shape::k_stride];
  std::uint16_t p[2][Shape::heads * Shape::p_stride];  // weights: leading part, rest
  float s[Shape::heads * Shape::s_stride];
  TileRows rows[3];
  float m[Shape::heads], l[Shape::heads], zero[Shape::heads], keep[Shape::heads], q_sum[Shape::heads];
  float lift[Shape::heads];  // what weights of the newest tile are multiplied by
};

/// Tiles of a run of pages: whole pages where several fit a tile, else parts of one.
[[nodiscard]] MOEKV_HD std::uint32_t count_tiles(std::uint32_t n_pages, std::uint32_t page_slots) {
  if (page_slots >= tensor_tile) return n_pages * ((page_slots + tensor_tile - 1) / tensor_tile);
  const std::uint32_t pages = tensor_tile / page_slots;
  return (n_pages + pages - 1) / pages;
}

/// Row of a slot in one plane of a page head, with its scale and zero.
MOEKV_HD void place_row(const PlaneLayout& plane, const std::byte* head, std::uint32_t slot, const std::byte*& row, float& scale, float& zero) {
  row = head + plane.codes + std::uint64_t{slot} * plane.row_bytes;
  const RowScale s = load_scale(plane.format, head + plane.meta + std::uint64_t{slot} * plane.meta_bytes);
  scale = s.scale;
  zero = s.zero;
}

/// Fills place t of `rows` for tile `tile` of an item.
MOEKV_HD void describe_slot(const AttendLaunch& work, const AttendItem& item, std::uint32_t tile, std::uint32_t t, bool latent, TileRows& rows) {
  rows.k[t] = rows.v[t] = nullptr;
  rows.logit[t] = ~0U;
  rows.k_scale[t] = rows.k_zero[t] = rows.v_scale[t] = rows.v_zero[t] = 0.0F;
  std::uint32_t index = 0, slot = 0;
  if (work.page_slots < tensor_tile) {
    const std::uint32_t pages = tensor_tile / work.page_slots;
    if (t / work.page_slots >= pages) return;
    index = tile * pages + t / work.page_slots;
    slot = t % work.page_slots;
  } else {
    const std::uint32_t tiles = (work.page_slots + tensor_tile - 1) / tensor_tile;
    index = tile / tiles;
    slot = tile % tiles * tensor_tile + t;
  }
  if (index >= item.n_pages) return;
  const DevicePage& page = work.pages[item.first_page + index];
  if (slot >= page.n_slots) return;
  rows.logit[t] = page.first_slot + slot;
  if (!is_read(page, work.masks, slot)) return;
  const PoolLayout& pool = work.pools[page.pool];
  const std::byte* head = page.block + item.kv_head * pool.head_bytes;
  rows.k_element[t] = pool.k.format.element;
  place_row(pool.k, head, slot, rows.k[t], rows.k_scale[t], rows.k_zero[t]);
  if (latent) {
    rows.v_scale[t] = rows.k_scale[t];
    rows.v_zero[t] = rows.k_zero[t];
  } else {
    rows.v_element[t] = pool.v.format.element;
    place_row(pool.v, head, slot, rows.v[t], rows.v_scale[t], rows.v_zero[t]);
  }
}

/// 16 values of a row of codes, from value c on, as 16-bit floats.
template <class Block, ElementFormat wide>
MOEKV_HD void put_codes(ElementFormat element, const std::byte* row, std::uint32_t c, std::uint16_t* to) {
  std::uint32_t pairs[8];
  if (element == ElementFormat::int4) {
    const std::uint64_t codes = *reinterpret_cast<const std::uint64_t*>(row + c / 2);
    narrow_nibbles<wide>(static_cast<std::uint32_t>(codes), pairs);
    narrow_nibbles<wide>(static_cast<std::uint32_t>(codes >> 32), pairs + 4);
  } else {
    const auto* codes = reinterpret_cast<const std::uint64_t*>(row + c);
    const std::uint64_t first = codes[0], second = codes[1];
    narrow_bytes<wide>(element, static_cast<std::uint32_t>(first), pairs);
    narrow_bytes<wide>(element, static_cast<std::uint32_t>(first >> 32), pairs + 2);
    narrow_bytes<wide>(element, static_cast<std::uint32_t>(second), pairs + 4);
    narrow_bytes<wide>(element, static_cast<std::uint32_t>(second >> 32), pairs + 6);
  }
  Block::store_wide(to, pairs);
  Block::store_wide(to + 8, pairs + 4);
}

}  // namespace moekv::kernels
