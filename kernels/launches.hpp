// Parameters of the kernels: trivially copyable, all pointers to device memory. A launch is a list of equal pieces of work, one block each. Where
// `count` is set, it points to how many of them there are when the launch runs, and blocks beyond do nothing: one graph serves batches of many sizes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <variant>

#include "layout.hpp"
#include "rules/attend.hpp"
#include "rules/generate.hpp"
#include "rules/route/topk.hpp"
#include "rules/select/catalogue.hpp"

namespace moekv::kernels {

inline constexpr std::uint32_t block_threads = 128;
inline constexpr std::uint32_t select_threads = 512;  // of a choice, whose steps wait for each other

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
  const std::uint32_t* count = nullptr;
  friend bool operator==(const AppendLaunch&, const AppendLaunch&) = default;
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
  const std::uint32_t* count = nullptr;
  friend bool operator==(const WidenLaunch&, const WidenLaunch&) = default;
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
  const std::uint32_t* count = nullptr;
  friend bool operator==(const SealLaunch&, const SealLaunch&) = default;
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
  const std::uint32_t* count = nullptr;
  friend bool operator==(const ScoreLaunch&, const ScoreLaunch&) = default;
};

/// A run of pages of one task for some query heads of one KV head; on tensor cores pages of 64 or 128 channels are all of `pool`. Partials go to rows
/// `out` .. `out` + n_heads of m, l, o.
struct AttendItem {
  std::uint64_t first_q;         // row of d_k values of its first head in `q`
  std::uint64_t logits;          // first value of its first head; the slots of the task lie side by side
  std::uint64_t logits_stride;   // from head to head
  std::uint32_t first_page, n_pages;
  std::uint32_t kv_head, n_heads;
  std::uint32_t out;
  std::uint32_t pool;
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
  std::uint32_t page_slots;    // of every page (latent pages on tensor cores only)
  std::uint32_t tile_slots;    // slots decoded at a time (portable path only)
  bool mapped, latent, codes;  // some page has a map; K holds V; some page has codes (tensor path only)
  bool on_tensor_cores;        // shapes of tensor_shapes.hpp, formats that narrow to q_format, identity maps; else any format and shape
  float scale;
  float *m, *l, *o;           // [rows], [rows], [rows][d_v]
  float* logits;              // or null
  std::uint64_t shared_bytes;
  const std::uint32_t* count = nullptr;
  friend bool operator==(const AttendLaunch&, const AttendLaunch&) = default;
};

/// Row i of the output is the merge of rows parts[offsets[i]] .. in that order.
struct MergeLaunch {
  const std::uint32_t *offsets, *parts;
  const std::uint32_t* rows;  // where output rows go, or null: row i to row i
  std::uint32_t n_items;      // output rows
  const float *m, *l, *o;
  std::uint32_t d_v;
  float *m_out, *l_out, *o_out;
  const std::uint32_t* count = nullptr;
  friend bool operator==(const MergeLaunch&, const MergeLaunch&) = default;
};

/// Pages [first, first + n) under one query; of these `n_best` are chosen by score, and `newest` besides (none: n). They are written from `out` on.
/// Or keys, of which the `n_best` smallest are chosen.
struct SelectItem {
  std::uint32_t first, n;
  std::uint32_t n_best, newest;
  std::uint32_t out;
};
struct SelectLaunch {
  const SelectItem* items;
  std::uint32_t n_items;
  const float* scores;         // null: keys
  std::uint32_t* chosen;       // ascending in each item, counted from its first page
  std::uint32_t shared_pages;  // of an item of at most so many pages the keys lie in shared memory
  std::uint64_t shared_bytes;
  const std::uint32_t* count = nullptr;
  const std::uint64_t* keys = nullptr;
  friend bool operator==(const SelectLaunch&, const SelectLaunch&) = default;
};

/// Each block makes block_threads values of the mass, which is [pages][page_slots].
struct MassLaunch {
  const MassPage* pages;
  const MassRead* reads;
  const MassTask* tasks;
  const float *lse, *logits;
  Reducer heads;
  std::uint32_t page_slots;
  const std::uint32_t* n_pages;
  std::uint32_t n_items;  // blocks
  SlotMass* mass;
  const std::uint32_t* count = nullptr;
  friend bool operator==(const MassLaunch&, const MassLaunch&) = default;
};

/// Token i has logits[i] and gets ids[i] and weights[i].
struct GateLaunch {
  const float* logits;  // [tokens][n_experts]
  std::uint16_t* ids;   // [tokens][top_k]
  float* weights;
  std::uint32_t n_items;  // tokens
  std::uint32_t n_experts, top_k, n_group, topk_group;
  ScoreFunction score;
  ScoreOrder order;
  bool renormalise;
  float scale, temperature;
  std::uint64_t shared_bytes;
  const std::uint32_t* count = nullptr;
  friend bool operator==(const GateLaunch&, const GateLaunch&) = default;
};

/// Tokens [first, first + n) of a range, n at most generate_rows, in the rows of one plan; of queries the tokens count from the range's first query.
struct GenerateItem {
  std::uint32_t plan, range;
  std::uint32_t first, n;
};
inline constexpr std::uint32_t generate_rows = 4;
struct GenerateLaunch {
  const GenerateItem* items;
  std::uint32_t n_items;
  const generate::PlaneView* planes;
  const generate::RowPlan* plans;
  const generate::RowRange* ranges;
  const generate::BridgeNode* nodes;  // of a block
  const double* turns;
  std::uint32_t width[generate::n_row_kinds];  // as GenerateBatch
  float* out[generate::n_row_kinds];
  std::uint64_t shared_bytes;
  const std::uint32_t* count = nullptr;
  friend bool operator==(const GenerateLaunch&, const GenerateLaunch&) = default;
};

using AnyLaunch =
    std::variant<AppendLaunch, WidenLaunch, SealLaunch, ScoreLaunch, SelectLaunch, AttendLaunch, MergeLaunch, MassLaunch, GateLaunch, GenerateLaunch>;

}  // namespace moekv::kernels
