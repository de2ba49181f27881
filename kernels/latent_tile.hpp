// Tiles of latent rows as a block of threads takes them: which rows of which pages they are, how their codes become 16-bit values, what it keeps.
#pragma once

#include "launches.hpp"
#include "rules/codec/narrow.hpp"
#include "rules/codec/row.hpp"

namespace moekv::kernels {

inline constexpr std::uint32_t latent_tile = 32;  // slots; two blocks of threads fit a multiprocessor
inline constexpr std::uint32_t pad16 = 8;         // 16-bit values between rows of shared memory: rows of a fragment fall into different banks

/// Row widths and query heads (in eights) that a kernel is made for.
template <ElementFormat e, std::uint32_t k, std::uint32_t v, std::uint32_t n>
struct LatentShape {
  static constexpr ElementFormat element = e;
  static constexpr std::uint32_t d_k = k, d_v = v, eights = n, heads = 8 * n;
  static constexpr std::uint32_t k_stride = k + pad16, p_stride = latent_tile + pad16, s_stride = latent_tile + 1;
};

/// What is known of the slots of a tile. Pointers of slots that are not read are null.
struct TileRows {
  const std::byte* row[latent_tile];
  float scale[latent_tile], zero[latent_tile];
  std::uint32_t logit[latent_tile];  // place of the slot's logit in the task, or ~0
  ElementFormat element[latent_tile];
};

template <class Shape>
struct LatentShared {
  std::uint16_t stages[2][latent_tile * Shape::k_stride];
  std::uint16_t q[Shape::heads * Shape::k_stride];
  std::uint16_t p[2][Shape::heads * Shape::p_stride];  // weights: leading part, rest
  float s[Shape::heads * Shape::s_stride];
  TileRows rows[3];
  float m[Shape::heads], l[Shape::heads], zero[Shape::heads], keep[Shape::heads], q_sum[Shape::heads];
  float lift[Shape::heads];  // what weights of the newest tile are multiplied by
};

/// Tiles of a run of pages: whole pages where several fit a tile, else parts of one.
[[nodiscard]] MOEKV_HD std::uint32_t count_tiles(std::uint32_t n_pages, std::uint32_t page_slots) {
  if (page_slots >= latent_tile) return n_pages * ((page_slots + latent_tile - 1) / latent_tile);
  const std::uint32_t pages = latent_tile / page_slots;
  return (n_pages + pages - 1) / pages;
}

/// Fills place t of `rows` for tile `tile` of an item.
MOEKV_HD void describe_slot(const AttendLaunch& work, const AttendItem& item, std::uint32_t tile, std::uint32_t t, TileRows& rows) {
  rows.row[t] = nullptr;
  rows.logit[t] = ~0U;
  rows.scale[t] = rows.zero[t] = 0.0F;
  std::uint32_t index = 0, slot = 0;
  if (work.page_slots < latent_tile) {
    const std::uint32_t pages = latent_tile / work.page_slots;
    if (t / work.page_slots >= pages) return;
    index = tile * pages + t / work.page_slots;
    slot = t % work.page_slots;
  } else {
    const std::uint32_t tiles = (work.page_slots + latent_tile - 1) / latent_tile;
    index = tile / tiles;
    slot = tile % tiles * latent_tile + t;
  }
  if (index >= item.n_pages) return;
  const DevicePage& page = work.pages[item.first_page + index];
  if (slot >= page.n_slots) return;
  rows.logit[t] = page.first_slot + slot;
  if (!is_read(page, work.masks, slot)) return;
  const PoolLayout& pool = work.pools[page.pool];
  const std::byte* head = page.block + item.kv_head * pool.head_bytes;
  rows.row[t] = head + pool.k.codes + std::uint64_t{slot} * pool.k.row_bytes;
  const RowScale s = load_scale(pool.k.format, head + pool.k.meta + std::uint64_t{slot} * pool.k.meta_bytes);
  rows.scale[t] = s.scale;
  rows.zero[t] = s.zero;
  rows.element[t] = pool.k.format.element;
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
