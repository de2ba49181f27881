// Geometry: everything about a run that is fixed before its first step: layers, ranks, head slices, page formats and budgets.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/id.hpp"
#include "engine/expert_plan.hpp"
#include "engine/run_spec.hpp"
#include "rules/codec/format.hpp"
#include "rules/place.hpp"
#include "trace/source.hpp"

namespace moekv {

/// Query and KV heads that one rank holds. Everything, except under layout head.
struct HeadSlice {
  std::uint32_t kv_begin = 0, kv_count = 0;
  std::uint32_t q_begin = 0, q_count = 0;
  [[nodiscard]] std::uint32_t group() const { return kv_count > 0 ? q_count / kv_count : 0; }
};

/// One replayed layer.
struct ReplayLayer {
  LayerId layer;
  LayerShape shape;
  int row = -1;      // routing row of the trace, -1 for a layer without experts
  int key_row = -1;  // row whose experts are its key (may be of an earlier layer), -1: stored at home
  bool key_is_previous_token = false;
};

/// Static facts of a run, equal on every process.
class Geometry {
 public:
  /// `ranks` is G after defaults, `plan` the replicas of map eplb. Throws UserError where specification and trace do not fit.
  Geometry(const RunSpec& spec, const TraceInfo& trace, std::uint32_t ranks, std::shared_ptr<const ExpertPlan> plan = nullptr);

  /// Takes another plan of experts; the old one ends. Every object of the run sees it at once.
  void adopt(std::shared_ptr<const ExpertPlan> plan);
  [[nodiscard]] const std::shared_ptr<const ExpertPlan>& plan() const { return plan_; }

  [[nodiscard]] const std::vector<ReplayLayer>& layers() const { return layers_; }
  [[nodiscard]] const Placement& placement() const { return placement_; }
  /// The placement a layer uses: the run's, or local for a layer without experts under layout expert.
  [[nodiscard]] Layout layout(const ReplayLayer& layer) const {
    return placement_.layout == Layout::expert && layer.key_row < 0 ? Layout::local : placement_.layout;
  }
  /// Calls f(shard) for every shard that may hold entries of expert e, for maps that ignore the position. Not for shadowed experts.
  template <class F>
  void for_each_home_of(const ReplayLayer& layer, ExpertId e, F&& f) const {
    if (placement_.map != ShardMap::eplb) return f(placement_.expert_shard(0, RequestId(0), 0, e));
    const std::uint32_t* first = placement_.replica_first + std::size_t{layer.layer.value} * placement_.n_experts + e.value;
    for (std::uint32_t i = first[0]; i < first[1]; ++i) f(ShardId(placement_.replica_shard[i]));
  }
  /// Experts of each shard at a layer, in units of 1 / expert_unit: an expert with c replicas counts 1/c at each; shadowed ones nowhere. 1 a shard
  /// under pikv_xor, and where eplb has no plan.
  [[nodiscard]] std::vector<std::uint64_t> shard_experts(const ReplayLayer& layer) const;
  static constexpr std::uint64_t expert_unit = 720720;  // divisible by 1..16
  [[nodiscard]] std::uint32_t n_ranks() const { return placement_.n_ranks; }
  [[nodiscard]] std::uint32_t n_shards() const { return placement_.n_shards; }
  [[nodiscard]] std::uint32_t n_experts() const { return placement_.n_experts; }
  [[nodiscard]] std::uint32_t top_k() const { return top_k_; }
  [[nodiscard]] HeadSlice slice(Rank rank) const;
  /// Whether no rank before it holds the same: every rank has a copy of all under layout replicated, of some KV heads under head.
  [[nodiscard]] bool holds_first(Rank rank) const;
  /// Parts that a token has at a layer: head groups, under layout head those of each rank that holds its KV heads first.
  [[nodiscard]] std::int64_t distinct_parts() const;
  [[nodiscard]] std::uint32_t page_slots() const { return page_slots_; }
  [[nodiscard]] bool pages_by_expert() const { return pages_by_expert_; }
  /// Pages of expert e hold every entry that a query of e must read (not so where one copy stands for several experts).
  [[nodiscard]] bool chains_are_exact() const { return pages_by_expert_ && placement_.dedup == Dedup::none; }
  /// True when entries must carry the expert set of their key.
  [[nodiscard]] bool needs_experts() const { return needs_experts_; }
  /// True when a token may lie under several experts, so that owners must agree which copy counts.
  [[nodiscard]] bool several_copies() const { return placement_.layout == Layout::expert && top_k_ > 1; }
  /// Routed queries read the first surviving copy of a token, so pages know by expert which of their slots an earlier copy blocks.
  [[nodiscard]] bool blocks_by_expert() const {
    return several_copies() && spec_->read.scope == ReadScope::routed && spec_->read.copies == CopyRule::surviving;
  }
  [[nodiscard]] bool compressed() const { return compressed_; }
  /// Tables of sealed pages are the run's (offline or loaded), not a sequence's.
  [[nodiscard]] bool tables_of_run() const { return tables_of_run_; }
  /// Sealing looks at queries too: tables are fitted to them, or they give pages their class.
  [[nodiscard]] bool fits_queries() const { return fits_queries_; }
  [[nodiscard]] bool needs_mass() const { return needs_mass_; }
  /// Whether queries of a layer, of prompt or output tokens, choose among pages.
  [[nodiscard]] bool selects_at(const ReplayLayer& layer, bool of_prompt) const {
    return moekv::selects_at(spec_->read.select, layer.layer.value, of_prompt);
  }
  /// Entries have state of the eviction rule.
  [[nodiscard]] bool keeps_state() const { return needs_mass_ || needs_payload_ || needs_error_; }
  /// The eviction rule scores an entry by its key and value when it is stored.
  [[nodiscard]] bool scores_payload() const { return needs_payload_; }
  /// The eviction rule asks how far compression moved an entry.
  [[nodiscard]] bool scores_error() const { return needs_error_; }
  /// What the eviction rule reads of the store and of recent queries to score the entries of a group.
  [[nodiscard]] const evict::GroupReads& group_reads() const { return group_reads_; }
  /// Evictions are decided and executed between admit and attend.
  [[nodiscard]] bool evicts_before_attend() const { return spec_->step_order == StepOrder::pikv; }
  [[nodiscard]] EvictUnit unit() const { return unit_; }
  /// Head groups of a rank: KV heads [first, first + count) relative to the rank's slice.
  [[nodiscard]] std::uint32_t n_head_groups(Rank rank) const;
  [[nodiscard]] std::uint32_t head_group_width(Rank rank, std::uint32_t group) const;
  [[nodiscard]] std::uint32_t heads_per_group() const { return heads_per_group_; }
  [[nodiscard]] BlockFormat raw_format(std::uint32_t n_kv_heads) const;
  /// Of a page class of the codecs.
  [[nodiscard]] BlockFormat sealed_format(std::uint32_t n_kv_heads, std::uint32_t page_class) const;
  /// Bytes of one KV head of a page: raw, or sealed in a class.
  [[nodiscard]] std::uint64_t head_bytes(bool sealed, std::uint32_t page_class) const {
    return sealed ? sealed_head_bytes_[page_class] : raw_head_bytes_;
  }
  /// Ways in which pages are sealed, 1 for most codecs; the last is the largest.
  [[nodiscard]] std::uint32_t n_classes() const { return static_cast<std::uint32_t>(sealed_.size()); }
  [[nodiscard]] std::uint32_t largest_class() const { return n_classes() - 1; }
  /// What gives a page its class.
  [[nodiscard]] const ClassChoice& class_choice() const { return class_choice_; }
  /// Bytes of one entry of `n_kv_heads` heads in payload type.
  [[nodiscard]] std::uint32_t entry_bytes(std::uint32_t n_kv_heads) const { return n_kv_heads * values_ * payload_bytes_; }
  [[nodiscard]] std::uint32_t payload_bytes() const { return payload_bytes_; }
  [[nodiscard]] float softmax_scale() const { return softmax_scale_; }

  /// Shadowed experts of a layer.
  [[nodiscard]] std::uint32_t n_shadowed(const ReplayLayer& layer) const { return n_shadowed_.empty() ? 0 : n_shadowed_[layer.layer.value]; }
  /// Equal share of one (request, layer, shard, head group) under eviction scope request, in budget units of BudgetKind (fraction -> tokens). `home`
  /// is the request's home shard, which shadowed experts count for.
  [[nodiscard]] std::uint64_t request_budget(const ReplayLayer& layer, ShardId shard, std::uint32_t request_tokens, ShardId home) const {
    return shard_share(layer, shard, request_total(request_tokens), home);
  }
  /// The equal share of a layer and head group before it is divided over shards.
  [[nodiscard]] std::uint64_t request_total(std::uint32_t request_tokens) const;
  /// What a shard gets of `total` units of a layer and head group.
  [[nodiscard]] std::uint64_t shard_share(const ReplayLayer& layer, ShardId shard, std::uint64_t total, ShardId home) const;
  /// When the allocator makes capacities.
  [[nodiscard]] allocate::When allocated() const { return allocated_; }
  /// Whether layers and head groups have other capacities than equal shares from the start.
  [[nodiscard]] bool starts_unequal() const { return allocated_ == allocate::When::start && !std::holds_alternative<allocate::Uniform>(allocator()); }
  /// Those of a request before they are divided over shards: [replayed layers][head groups of the model]. They sum to the equal shares' sum.
  [[nodiscard]] allocate::Shares first_capacities(std::uint32_t request_tokens) const;
  [[nodiscard]] std::uint32_t n_model_head_groups() const { return (spec_->model.n_kv_heads + heads_per_group_ - 1) / heads_per_group_; }
  /// Index of a rank's head group among those of the model.
  [[nodiscard]] std::uint32_t model_head_group(Rank rank, std::uint32_t group) const { return slice(rank).kv_begin / heads_per_group_ + group; }
  /// Sinks and recent tokens of a head group of the model that are never victims.
  [[nodiscard]] ProtectSpec protection(std::uint32_t layer, std::uint32_t model_group) const;
  /// Query positions at the end of a prompt whose attention the allocator looks at; 0 for allocators that do not.
  [[nodiscard]] std::uint32_t window_queries() const { return window_queries_; }

  [[nodiscard]] const RunSpec& spec() const { return *spec_; }

 private:
  void choose_layers(const TraceInfo& trace);
  void choose_formats();
  void weigh_shards();
  void read_allocator();
  [[nodiscard]] const Allocator& allocator() const { return spec_->eviction.allocator; }

  const RunSpec* spec_;
  Placement placement_;
  std::vector<ReplayLayer> layers_;
  std::shared_ptr<const ExpertPlan> plan_;
  std::vector<std::uint32_t> n_shadowed_;                 // [model layers], empty where nothing is
  std::vector<std::vector<std::uint64_t>> shard_weight_;  // layout expert: shard_experts of each model layer under eplb, of any layer for other maps
  BlockFormat raw_;
  std::vector<BlockFormat> sealed_;  // by class
  std::uint64_t raw_head_bytes_ = 0;
  std::vector<std::uint64_t> sealed_head_bytes_;  // by class
  ClassChoice class_choice_;
  std::uint32_t top_k_ = 0;
  std::uint32_t page_slots_ = 64;
  std::uint32_t heads_per_group_ = 1;
  std::uint32_t values_ = 0;
  std::uint32_t payload_bytes_ = 2;
  float softmax_scale_ = 1.0F;
  EvictUnit unit_ = EvictUnit::page;
  bool pages_by_expert_ = false, needs_experts_ = false, compressed_ = false, needs_mass_ = false, needs_payload_ = false;
  bool needs_error_ = false, tables_of_run_ = false, fits_queries_ = false;
  evict::GroupReads group_reads_;
  allocate::When allocated_ = allocate::When::start;
  std::uint32_t window_queries_ = 0;
  std::vector<double> shares_;  // [replayed layers][head groups]: share of file, 1 or 0 (retrieves, streams) of duo; empty for the others
};

/// Divides `total` over `n` equal parts by largest remainder: part i.
[[nodiscard]] constexpr std::uint64_t equal_share(std::uint64_t total, std::uint64_t n, std::uint64_t i) {
  return total / n + (i < total % n ? 1 : 0);
}

/// Divides `total` in proportion to `weights` by largest remainder, ties to the lower index: part i. The parts sum to `total`.
[[nodiscard]] std::uint64_t weighted_share(std::uint64_t total, const std::vector<std::uint64_t>& weights, std::size_t i);

}  // namespace moekv
