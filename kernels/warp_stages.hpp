// The ring of stages of every warp: which tiles come into it, and their asynchronous copies. Rows lie in a stage as in their page, further apart.
#pragma once

#include "layout.hpp"
#include "warp_tile.hpp"

namespace moekv::kernels {

template <class Block>
class WarpStages {
 public:
  MOEKV_HD WarpStages(Block& block, const AttendLaunch& work, const AttendItem& item, std::byte* memory)
      : k(warp_plane(work.pools[item.pool].k)),
        v(warp_plane(work.pools[item.pool].v)),
        block_(block),
        work_(work),
        first_page_(item.first_page),
        n_pages_(item.n_pages),
        head_(item.kv_head * work.pools[item.pool].head_bytes),
        memory_(memory),
        stage_bytes_(stage_bytes(k.row_bytes, v.row_bytes)),
        page_slots_((work.pools[item.pool].page_slots + warp_tile - 1) / warp_tile * warp_tile) {
    block_.free_each([&](unsigned t) {
      index_[t] = 0;
      first_[t] = t / 32 * warp_tile;
      look_up(t);
    });
  }

  /// Rounds in which each warp has a tile, the last ones perhaps an empty one.
  [[nodiscard]] MOEKV_HD std::uint32_t n_rounds() const { return (n_pages_ * (page_slots_ / warp_tile) + n_warps - 1) / n_warps; }

  [[nodiscard]] MOEKV_HD std::byte* k_rows(unsigned t, std::uint32_t stage) { return memory_ + (t / 32 * warp_stages + stage) * stage_bytes_; }
  [[nodiscard]] MOEKV_HD std::byte* v_rows(unsigned t, std::uint32_t stage) { return k_rows(t, stage) + warp_tile * (k.row_bytes + row_pad); }
  [[nodiscard]] MOEKV_HD TileSlots& slots(unsigned t, std::uint32_t stage) {
    return *reinterpret_cast<TileSlots*>(v_rows(t, stage) + warp_tile * (v.row_bytes + row_pad));
  }

  /// Starts copying the tiles of the next round, which is `round`, to a stage; rows that are not read become zeros.
  MOEKV_HD void fetch(std::uint32_t round, std::uint32_t stage) {
    if (round < n_rounds()) {
      block_.free_each([&](unsigned t) {
        const DevicePage& page = page_[t];
        const std::uint32_t first = first_[t];
        const bool there = index_[t] < n_pages_ && first < page.n_slots;
        std::uint32_t n = 0, live = 0;
        if (there) {
          n = page.n_slots - first < warp_tile ? page.n_slots - first : warp_tile;
          live = (1U << n) - 1;
          if (page.mask != 0xFFFFFFFFU) live &= static_cast<std::uint32_t>(work_.masks[page.mask + first / 64] >> (first % 64));
        }
        TileSlots& s = slots(t, stage);
        if (t % 32 == 0) {
          s.live = live;
          s.n = n;
          s.first_slot = there ? page.first_slot + first : 0;
        }
        const std::byte* head = there ? page.block + head_ : work_.q;
        fetch_rows(t % 32, k, head + (there ? k.codes + std::uint64_t{first} * k.row_bytes : 0), live, k_rows(t, stage));
        fetch_rows(t % 32, v, head + (there ? v.codes + std::uint64_t{first} * v.row_bytes : 0), live, v_rows(t, stage));
        const bool of_k = t % 32 < warp_tile;
        fetch_meta(t % 32, of_k ? k.meta : v.meta, of_k ? k.meta_bytes : v.meta_bytes, head, first, live, s);
        first_[t] = first + n_warps * warp_tile;
        look_up(t);
      });
    }
    block_.end_group();
  }

  const WarpPlane k, v;

 private:
  template <class T>
  using Lanes = typename Block::template Lanes<T>;

  /// The page of a warp's next tile, which is wanted a round later.
  MOEKV_HD void look_up(unsigned t) {
    while (first_[t] >= page_slots_) {
      first_[t] -= page_slots_;
      index_[t] += 1;
    }
    if (index_[t] < n_pages_) page_[t] = work_.pages[first_page_ + index_[t]];
  }

  /// Each lane takes one piece of 16 bytes of some rows.
  MOEKV_HD void fetch_rows(unsigned lane, const WarpPlane& plane, const std::byte* rows, std::uint32_t live, std::byte* stage) {
    const std::uint32_t first = lane >> plane.row_shift, step = 32U >> plane.row_shift, piece = lane & ((1U << plane.row_shift) - 1);
    const std::uint32_t stride = step * (plane.row_bytes + row_pad);
    const std::byte* from = rows + lane * 16;
    std::byte* to = stage + first * (plane.row_bytes + row_pad) + piece * 16;
    if (live == (1U << warp_tile) - 1) {
      for (std::uint32_t row = first; row < warp_tile; row += step) {
        block_.copy_later(to, from, true);
        from += 512;
        to += stride;
      }
      return;
    }
    for (std::uint32_t row = first; row < warp_tile; row += step) {
      const bool read = (live >> row & 1U) != 0;
      block_.copy_later(to, read ? from : work_.q, read);
      from += 512;
      to += stride;
    }
  }

  /// The first 16 lanes fetch what belongs to rows of K, the others of V.
  MOEKV_HD void fetch_meta(unsigned lane, std::uint64_t meta, std::uint32_t meta_bytes, const std::byte* head, std::uint32_t first,
                           std::uint32_t live, TileSlots& s) {
    if (meta_bytes == 0) return;
    const std::uint32_t row = lane % warp_tile;
    const bool read = (live >> row & 1U) != 0;
    const std::uint64_t word = (meta + (first + row) * meta_bytes) / 4 * 4;
    block_.copy_word_later(&s.meta[lane / warp_tile][row], read ? head + word : work_.q, read);
  }

  Block& block_;
  const AttendLaunch& work_;
  std::uint32_t first_page_, n_pages_;
  std::uint64_t head_;  // from a block to the item's KV head
  std::byte* memory_;
  std::uint32_t stage_bytes_;
  std::uint32_t page_slots_;            // up to whole tiles
  Lanes<std::uint32_t> index_, first_;  // page and first slot of the tile that is fetched next
  Lanes<DevicePage> page_;
};

}  // namespace moekv::kernels
