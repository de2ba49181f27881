// Backend: the seam between the engine, which decides, and what holds and computes on payload (host, count, cuda).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/id.hpp"
#include "rules/attend.hpp"
#include "rules/codec/format.hpp"
#include "rules/generate.hpp"
#include "rules/route/topk.hpp"
#include "rules/select/catalogue.hpp"

namespace moekv {

class StateStream;

using PoolId = Id<struct PoolTag, std::uint32_t>;

/// Names a block: `index` counts blocks of `pool`. The engine owns the free lists; the backend only the bytes.
struct BlockRef {
  PoolId pool;
  std::uint32_t index = 0;
};

/// Writes one entry into a slot of a raw block. `k` is [n_kv_heads][d_k], `v` [n_kv_heads][d_v] in the block's element format
/// (both planes of a raw block have the run's payload format); `v` is null for MLA. Source stride between heads is dense.
struct AppendOp {
  BlockRef block;
  std::uint32_t slot;
  const std::byte* k;
  const std::byte* v;
  bool fresh = false;  // first entry of the block since it was taken: bounds start with it; every other one widens them
};

/// Encodes the first `n_slots` slots of a raw block into a block of a compressed pool. Dead slots are encoded too. Blocks of one pool with equal
/// `table_key` share tables (BlockFormat::shared_bytes), which are made from the blocks of the call that names the key first. Bounds go along as they
/// are: those of the raw keys.
struct SealOp {
  BlockRef from, to;
  std::uint32_t n_slots;
  std::uint64_t table_key = 0;
  const std::byte* q = nullptr;   // recent queries of the entries' request for fits that want them: [n_q] rows of [n_kv_heads * q_group][d_k] in the
  std::size_t q_stride = 0;       // payload format, q_stride bytes apart; may be null
  std::uint32_t n_q = 0, q_group = 0;
};

/// One query against the bounds of pages of one head group. Heads as in AttendTask.
struct ScoreTask {
  std::uint32_t first_page, n_pages;  // in ScoreBatch::pages
  std::uint32_t query;
  std::uint32_t q_head;
  std::uint32_t n_kv_heads;
  std::uint32_t group;
  std::uint32_t newest = 0;  // which of its pages, counted from the first, holds the newest entry
};

/// Scores by a rule that needs bounds: of a page, the scores of its query heads in ascending order, reduced as the rule says. Then of each task, in
/// their order, the pages that select::choose_pages leaves, counted from the task's first: select::n_chosen of them.
struct ScoreBatch {
  std::span<const ScoreTask> tasks;
  std::span<const BlockRef> pages;
  const std::byte* q;            // [queries][q_row_heads][d_k] in the payload format
  ElementFormat q_format;
  std::uint32_t q_row_heads;
  std::uint32_t d_k;
  const SelectRule* rule;
  float* scores;                    // [pages], or null
  std::uint32_t* chosen = nullptr;  // or null
};

/// What storing a page lost, over all its slots and KV heads.
struct SealAudit {
  double k_error = 0, v_error = 0;  // norm of the error over norm of the values (V of MLA: 0)
  double spread_error = 0;          // the larger of both, over norm of the values less their mean over the page's slots
  double logit_error = 0;           // under the newest query: norm of the error of a head's logits, less its mean, over that of the logits less theirs
  double attention_error = 0;       // norm of the error of the softmax over the page, over its norm; NaN, as logit_error, without queries
  std::int64_t code_bits = 0;       // of codes below 16 bits
  std::int64_t entropy_bits = 0;    // what an ideal coder would make of them, plane by plane
};
/// `stored`: what lies in the target block. `trial`: what the target's pool would store; no table may be shared, and the target block is not touched.
enum class AuditOf : std::uint8_t { stored, trial };

/// Copies a whole block (BlockFormat::block_bytes) to the caller's memory, and the tables it shares with others (shared_bytes) where `tables` is given.
struct BlockOut {
  BlockRef block;
  std::byte* bytes;
  std::byte* tables = nullptr;
};
/// The reverse, into a block of an equal format. `tables` is used where no block of the pool has tables of `table_key` yet.
struct BlockIn {
  BlockRef block;
  const std::byte* bytes;
  const std::byte* tables = nullptr;
  std::uint64_t table_key = 0;
};

/// Copies a whole block as it is stored between a pool and the host pool made for it, in either direction. `table_key` is that of its sealing.
struct CopyOp {
  BlockRef from, to;
  std::uint64_t table_key = 0;
};

/// One page of a read list. `mask` is the index of its first 64-bit word in AttendBatch::masks (bit i = slot i is read; ceil(n_slots/64)
/// words) or all_slots.
struct PageRead {
  static constexpr std::uint32_t all_slots = 0xFFFFFFFFU;
  BlockRef block;
  std::uint32_t n_slots;
  std::uint32_t mask = all_slots;
};

/// One query over one head group of one shard. Query heads [q_head, q_head + n_kv_heads * group) of query row `query`; KV head j of the
/// blocks serves query heads q_head + j * group ... Partials go to rows `out` ... `out + n_kv_heads * group - 1`.
struct AttendTask {
  std::uint32_t first_page, n_pages;
  std::uint32_t query;
  std::uint32_t q_head;
  std::uint32_t n_kv_heads;
  std::uint32_t group;
  std::uint32_t out;
  std::uint64_t logits;  // first value in AttendBatch::logits: [n_kv_heads * group][sum of n_slots of its pages]; unread slots = -inf
};

/// Decode attention of many tasks. m, l, o are the running maximum, the sum of exp(logit - m) and sum of exp(logit - m) v (not divided by l).
/// A task that reads nothing writes m = -inf, l = 0, o = 0. All arithmetic fp32 or better.
struct AttendBatch {
  std::span<const AttendTask> tasks;
  std::span<const PageRead> pages;
  std::span<const std::uint64_t> masks;
  const std::byte* q;            // [queries][q_row_heads][d_k] in the payload format
  ElementFormat q_format;
  std::uint32_t q_row_heads;
  std::uint32_t d_k, d_v;
  float scale;              // logit = scale * q.k
  float* m;                 // [rows]
  float* l;                 // [rows]
  float* o;                 // [rows][d_v]
  float* logits = nullptr;  // where the caller wants them, or null
  // Where given, m, l and o take merged rows instead: row i is the merge of merge_parts[merge_offsets[i] .. merge_offsets[i+1]) in that order, which are
  // rows of tasks; one that no task fills is empty.
  std::span<const std::uint32_t> merge_offsets = {}, merge_parts = {};
  bool keep_logits = false;  // they are kept for `weigh`, by a backend that keeps logits, until the next attend that says so
};

/// Attention mass of pages of `page_slots` slots each, as slot_mass says, from the logits of an attend whose tasks' `logits` the mass tasks name.
/// `logits`: what that attend wrote, or null where the backend kept them.
struct WeighBatch {
  std::span<const MassTask> tasks;
  std::span<const MassRead> reads;
  std::span<const MassPage> pages;
  std::span<const float> lse;
  Reducer heads;
  std::uint32_t page_slots;
  const float* logits;
  SlotMass* mass;  // [pages][page_slots]
};

/// The choice of rule topk for many tokens, each with logits.
struct GateBatch {
  const route::Topk* rule;
  const route::Geometry* geometry;
  std::span<const route::TokenView> tokens;
  route::Choice out;  // [tokens][top_k]
};

/// The `n_lowest` smallest of keys [first, first + n).
struct LowestTask {
  std::uint32_t first, n, n_lowest;
};

/// Of each task, in their order, its smallest keys: ascending numbers of keys, counted from its first. Of equal keys the first ones are taken.
struct LowestBatch {
  std::span<const std::uint64_t> keys;
  std::span<const LowestTask> tasks;
  std::uint32_t* lowest;
};

/// Rows of the q, k, v generator: every one of `rows` for the positions of each range. Planes that agree in all but where
/// `weights` lie have the same weights.
struct GenerateBatch {
  std::span<const generate::PlaneView> planes;
  std::span<const generate::RowPlan> rows;
  std::span<const generate::RowRange> ranges;
  std::span<const double> turns;                           // generate::rope_angle's, of every pair that rotates
  std::array<std::uint32_t, generate::n_row_kinds> width;  // by RowKind: values of a token in k, v, q
  std::array<float*, generate::n_row_kinds> out;           // [tokens of all ranges][width]; those of q their queries
};

/// Batches of device work that were launched as a graph, graphs made for that, and batches launched piece by piece.
struct BackendWork {
  std::int64_t graph_launches = 0, graph_captures = 0, plain_batches = 0;
};

struct BackendMemory {
  std::int64_t pool_bytes = 0;        // bytes of blocks handed to the engine so far (high-water mark of each pool)
  std::int64_t reserved_bytes = 0;    // what the allocator took from the system for pools
  std::int64_t scratch_bytes = 0;
  std::int64_t table_bytes = 0;       // tables that sealed blocks share
  std::int64_t bounds_bytes = 0;      // bounds of the blocks counted in pool_bytes
};

/// Batch operations in the order of the calls; results are ready after `sync` (host: at return). Not thread-safe.
class Backend {
 public:
  virtual ~Backend() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  /// What computes, for provenance: model, driver, how many processes share it; empty for this machine's processors.
  [[nodiscard]] virtual std::string device() const { return {}; }
  /// Whether other processes of the job compute on the same device by turns, so that measured times hold theirs too.
  [[nodiscard]] virtual bool time_sliced() const { return false; }
  /// False for `count`: nothing that touches payload may then be called.
  [[nodiscard]] virtual bool has_payload() const = 0;
  /// Makes room for up to `max_blocks` blocks; memory is taken from the system at once where it can be reserved. Throws PointFailure when it cannot.
  virtual PoolId create_pool(const BlockFormat& format, std::uint32_t max_blocks) = 0;
  /// A pool in host memory for blocks that leave `of`, in its format. They keep the tables they share; attention does not read them there.
  virtual PoolId create_host_pool(PoolId of, std::uint32_t max_blocks) = 0;
  /// Sets the tables (BlockFormat::shared_bytes) of blocks that are sealed with `table_key`, before the first of them; they stay until release_pools.
  virtual void set_tables(PoolId pool, std::uint64_t table_key, std::span<const std::byte> tables) = 0;
  /// Drops all pools.
  virtual void release_pools() = 0;
  virtual void append(std::span<const AppendOp> ops) = 0;
  virtual void seal(std::span<const SealOp> ops) = 0;
  /// All pages are of pools with bounds.
  virtual void score_pages(const ScoreBatch& batch) = 0;
  /// Compares each target with its raw block, which must still hold what was or would be sealed. `scale` as AttendBatch. Not timed.
  virtual void audit(std::span<const SealOp> ops, AuditOf what, float scale, SealAudit* out) = 0;
  virtual void read_blocks(std::span<const BlockOut> ops) = 0;
  virtual void write_blocks(std::span<const BlockIn> ops) = 0;
  virtual void copy(std::span<const CopyOp> ops) = 0;
  virtual void attend(const AttendBatch& batch) = 0;
  [[nodiscard]] virtual bool keeps_logits() const { return false; }
  virtual void weigh(const WeighBatch& batch) = 0;
  /// Makes the rule's choices and returns true, or false where the caller does so sooner.
  virtual bool gate(const GateBatch& /*batch*/) { return false; }
  /// Finds them and returns true, or false where the caller does so sooner.
  virtual bool find_lowest(const LowestBatch& /*batch*/) { return false; }
  /// Makes the rows, bit for bit those of the host, and returns true, or false where the caller does so sooner.
  virtual bool generate(const GenerateBatch& /*batch*/) { return false; }
  /// Decodes row `slot` of KV head `head` to fp32: k [d_k], v [d_v] (v from k for MLA). For rules that score stored rows, probes and tests.
  virtual void read_row(BlockRef block, std::uint32_t head, std::uint32_t slot, float* k, float* v) = 0;
  virtual void sync() = 0;
  [[nodiscard]] virtual BackendMemory memory() const = 0;
  /// Whether batches that come back may be launched as graphs (yes, at first).
  virtual void use_graphs(bool /*yes*/) {}
  /// Whether `transfer` saves and restores what pools hold.
  [[nodiscard]] virtual bool can_transfer() const { return false; }
  /// Blocks in use, what they share and their bounds, between pools that were created alike.
  virtual void transfer(StateStream& /*stream*/) {}
  /// Work since the last call.
  [[nodiscard]] virtual BackendWork take_work() { return {}; }
};

/// "host", "count" or "cuda". Throws DeviceMissing with what to do when the device or the build lacks it. n_threads 0 = OpenMP's default.
[[nodiscard]] std::unique_ptr<Backend> make_backend(std::string_view name, int n_threads);
[[nodiscard]] std::unique_ptr<Backend> make_host_backend(int n_threads);
[[nodiscard]] std::unique_ptr<Backend> make_count_backend();
[[nodiscard]] std::unique_ptr<Backend> make_cuda_backend();

}  // namespace moekv
