// Parameters of the kernels: trivially copyable, all pointers to device memory. A launch is a list of equal pieces of work, one block each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "layout.hpp"
#include "rules/select/catalogue.hpp"

namespace moekv::kernels {

inline constexpr std::uint32_t block_threads = 128;

/// One entry: rows of K and V (null for latent planes) go to slot `slot` of the block at `block`.
struct AppendItem {
  std::byte* block;
  const std::byte *k, *v;
  std::uint32_t pool, slot;
};
struct AppendLaunch {
  const PoolLayout* pools;
  const AppendItem* items;
  std::uint32_t n_items;
};

/// All keys that a call brings to one block, in their order: its bounds widen by them. The first one may start the bounds anew.
struct WidenItem {
  std::byte* bounds;          // of the block: [head][low | high][d_k]
  std::uint32_t first, n;     // in `keys`
  std::uint32_t pool;
  std::uint32_t fresh;        // index below n of the last key that starts the bounds, or n
};
struct WidenLaunch {
  const PoolLayout* pools;
  const WidenItem* items;
  std::uint32_t n_items;
  const std::byte* const* keys;
};

/// Rows [first_row, first_row + n_rows) of one plane of one KV head of a block, encoded into a block of another pool.
struct SealItem {
  const std::byte* from;
  std::byte* to;
  const std::byte* table;  // shared by the target's blocks, or null
  std::uint32_t from_pool, to_pool;
  std::uint32_t kv_head;
  std::uint32_t is_v;
  std::uint32_t first_row, n_rows;
};
struct SealLaunch {
  const PoolLayout* pools;
  const SealItem* items;
  std::uint32_t n_items;
  std::uint64_t shared_bytes;  // the most that an item needs
};

/// Pages under one query: the heads [first_q, first_q + n_kv_heads * group) of the query rows. All pages are of one pool.
struct ScoreItem {
  std::uint64_t first_q;  // row of d_k values in `q`
  std::uint32_t first_page, n_pages;
  std::uint32_t pool, n_kv_heads, group;
};
struct ScoreLaunch {
  const PoolLayout* pools;
  const ScoreItem* items;
  std::uint32_t n_items;
  const std::byte* const* bounds;  // of the pages
  const std::byte* q;
  ElementFormat q_format;
  std::uint32_t d_k;
  SelectRule rule;
  float* scores;                   // [pages]
  std::uint64_t shared_bytes;
};

/// A run of pages of one task for some query heads of one KV head. Partials go to rows `out` .. `out` + n_heads of m, l, o.
struct AttendItem {
  std::uint64_t first_q;         // row of d_k values of its first head in `q`
  std::uint64_t logits;          // first value of its first head; the slots of the task lie side by side
  std::uint64_t logits_stride;   // from head to head
  std::uint32_t first_page, n_pages;
  std::uint32_t kv_head, n_heads;
  std::uint32_t out;
};
struct AttendLaunch {
  const PoolLayout* pools;
  const DevicePage* pages;
  const std::uint64_t* masks;
  const AttendItem* items;
  std::uint32_t n_items;
  const std::byte* q;
  ElementFormat q_format;
  std::uint32_t d_k, d_v;
  std::uint32_t page_slots;   // of every page (tensor path only)
  std::uint32_t tile_slots;   // slots decoded at a time (portable path only)
  bool mapped, latent, codes; // some page has a map; K holds V; some page has codes (tensor path only)
  float scale;
  float *m, *l, *o;           // [rows], [rows], [rows][d_v]
  float* logits;              // or null
  std::uint64_t shared_bytes;
};

/// Row i of the output is the merge of rows parts[offsets[i]] .. in that order.
struct MergeLaunch {
  const std::uint32_t *offsets, *parts;
  const std::uint32_t* rows;  // where output rows go, or null: row i to row i
  std::uint32_t n_rows;
  const float *m, *l, *o;
  const float* sink;  // or null
  std::uint32_t d_v;
  float *m_out, *l_out, *o_out;
};

}  // namespace moekv::kernels
