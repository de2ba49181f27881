// Works out layers, head slices, page sizes and budgets from a RunSpec, once.
#include "engine/geometry.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"

namespace moekv {

Geometry::Geometry(const RunSpec& spec, const TraceInfo& trace, std::uint32_t ranks, std::shared_ptr<const ExpertPlan> plan)
    : spec_(&spec),
      plan_(std::move(plan)),
      top_k_(trace.top_k > 0 ? trace.top_k : spec.model.gate.top_k),
      pages_by_expert_(spec.page.key == PageKey::expert ||
                       (spec.page.key == PageKey::automatic && spec.placement.layout == Layout::expert && spec.placement.dedup == Dedup::none)) {
  placement_.layout = spec.placement.layout;
  placement_.map = spec.placement.map;
  placement_.dedup = spec.placement.dedup;
  placement_.fold = spec.placement.fold;
  placement_.n_ranks = ranks;
  placement_.n_shards = ranks * spec.cluster.shards_per_rank;
  placement_.n_experts = std::max<std::uint32_t>(1, trace.n_experts > 0 ? trace.n_experts : spec.model.gate.n_experts);
  placement_.n_tok = spec.placement.n_tok > 0 ? spec.placement.n_tok : placement_.n_shards;
  placement_.n_exp = spec.placement.n_exp > 0 ? spec.placement.n_exp : placement_.n_shards;
  placement_.seed = spec.seed;
  page_slots_ = spec.page.slots > 0 ? spec.page.slots : (pages_by_expert_ ? 16 : 64);
  placement_.block_tokens = page_slots_;
  const bool routed = spec.read.scope == ReadScope::routed || spec.eviction.access == AccessSource::routed;
  needs_experts_ = placement_.layout == Layout::expert || pages_by_expert_ || routed;

  const evict::Traits& rule = traits_of(spec.eviction.rule);
  needs_payload_ = rule.needs_payload;
  needs_error_ = rule.needs_error;
  group_reads_ = reads_of(spec.eviction.rule);
  const bool tokens = rule.default_unit == evict::Unit::token;
  needs_mass_ = rule.needs_mass || spec.eviction.access == AccessSource::mass;
  const bool whole_pages = spec.eviction.budget.kind == BudgetKind::pages || spec.eviction.budget.kind == BudgetKind::bytes;
  const bool demotes = spec.eviction.action == EvictAction::demote;
  unit_ = spec.eviction.unit != EvictUnit::automatic ? spec.eviction.unit : (tokens && !whole_pages && !demotes ? EvictUnit::token : EvictUnit::page);

  choose_formats();
  choose_layers(trace);
  adopt(plan_);
}

void Geometry::adopt(std::shared_ptr<const ExpertPlan> plan) {
  plan_ = std::move(plan);
  n_shadowed_.clear();
  if (plan_ != nullptr) {
    placement_.replica_first = plan_->first.data();
    placement_.replica_shard = plan_->shard.data();
    placement_.shadowed = plan_->shadowed.empty() ? nullptr : plan_->shadowed.data();
    for (std::size_t i = 0; i < plan_->shadowed.size(); i += placement_.n_experts) {
      const auto first = plan_->shadowed.begin() + static_cast<std::ptrdiff_t>(i);
      n_shadowed_.push_back(static_cast<std::uint32_t>(std::count(first, first + placement_.n_experts, 1)));
    }
  }
  weigh_shards();
  read_allocator();
}

std::vector<std::uint64_t> Geometry::shard_experts(const ReplayLayer& layer) const {
  const bool alike = placement_.layout != Layout::expert || placement_.map == ShardMap::pikv_xor;
  const bool unplanned = placement_.map == ShardMap::eplb && (plan_ == nullptr || layer.key_row < 0);
  std::vector<std::uint64_t> weight(placement_.n_shards, alike || unplanned ? 1 : 0);
  if (alike || unplanned) return weight;
  for (std::uint32_t e = 0; e < placement_.n_experts; ++e) {
    if (placement_.is_shadowed(layer.layer.value, ExpertId(static_cast<std::uint16_t>(e)))) continue;
    std::uint64_t homes = 0;
    for_each_home_of(layer, ExpertId(static_cast<std::uint16_t>(e)), [&](ShardId) { homes += 1; });
    for_each_home_of(layer, ExpertId(static_cast<std::uint16_t>(e)), [&](ShardId s) { weight[s.value] += expert_unit / homes; });
  }
  return weight;
}

void Geometry::weigh_shards() {
  // A shard that no expert maps to can hold nothing under layout expert, so it takes no part of a budget either.
  shard_weight_.assign(placement_.map == ShardMap::eplb ? spec_->model.n_layers() : 1, {});
  for (const ReplayLayer& layer : layers_) {
    std::vector<std::uint64_t>& weight = shard_weight_[placement_.map == ShardMap::eplb ? layer.layer.value : 0];
    if (weight.empty()) weight = shard_experts(layer);
  }
}

std::uint64_t weighted_share(std::uint64_t total, const std::vector<std::uint64_t>& weights, std::size_t i) {
  std::uint64_t sum = 0, given = 0;
  for (const std::uint64_t w : weights) sum += w;
  if (sum == 0) return 0;
  std::size_t before = 0;  // parts with a larger remainder than part i, or an equal one and a lower index
  const std::uint64_t remainder = total * weights[i] % sum;
  for (std::size_t j = 0; j < weights.size(); ++j) {
    given += total * weights[j] / sum;
    const std::uint64_t r = total * weights[j] % sum;
    if (r > remainder || (r == remainder && j < i)) before += 1;
  }
  return total * weights[i] / sum + (before < total - given ? 1 : 0);
}

void Geometry::choose_formats() {
  const ModelShape& model = spec_->model;
  heads_per_group_ = std::max<std::uint32_t>(1, model.n_kv_heads / std::max<std::uint32_t>(1, spec_->page.head_groups));
  values_ = model.values_per_entry_head();
  payload_bytes_ = element_bits(spec_->payload.element) / 8;
  raw_ = {PlaneFormat{spec_->payload.element},
          PlaneFormat{spec_->payload.element},
          page_slots_,
          1,
          model.d_k,
          model.d_v,
          model.mla(),
          needs_bounds(spec_->read.select),
          spec_->payload.element};
  raw_head_bytes_ = raw_.head_bytes();
  const Codec &of_k = spec_->compression.k, &of_v = spec_->compression.v;
  class_choice_ = classes_of(of_k) > 1 || model.mla() ? choice_of(of_k) : choice_of(of_v);
  const std::uint32_t n = std::max(classes_of(of_k), model.mla() ? 1 : classes_of(of_v));
  fits_queries_ = class_choice_.by == ChooseBy::importance;
  for (std::uint32_t c = 0; c < n; ++c) {
    BlockFormat sealed = raw_;
    const PlaneFormat k = plane_of(of_k, Role::k, model.d_k, c), v = plane_of(of_v, Role::v, model.d_v, c);
    if (!k.raw()) sealed.k = k;  // a plane that a codec leaves raw keeps the payload's type
    if (!v.raw()) sealed.v = v;
    for (const PlaneFormat& plane : {sealed.k, sealed.v}) {
      const bool shared = plane.has_table() && plane.scope != TableScope::page;
      tables_of_run_ = tables_of_run_ || (shared && plane.scope == TableScope::run);
      fits_queries_ =
          fits_queries_ || (shared && plane.scope == TableScope::sequence && (plane.fit == TableFit::think || plane.fit == TableFit::kq_svd));
    }
    compressed_ = compressed_ || !sealed.k.raw() || (!model.mla() && !sealed.v.raw());
    sealed_.push_back(sealed);
    sealed_head_bytes_.push_back(sealed.head_bytes());
  }
  softmax_scale_ = model.softmax_scale > 0 ? static_cast<float>(model.softmax_scale) : 1.0F / std::sqrt(static_cast<float>(model.d_k));
}

namespace {

/// A recording of another model would be replayed with its own experts, whatever the configuration says.
void require_same_gate(const TraceInfo& trace, const ModelShape& model) {
  std::vector<Problem> problems;
  const auto compare = [&](const char* what, std::uint32_t found, std::uint32_t wanted) {
    if (found == 0 || wanted == 0 || found == wanted) return;
    problems.push_back({trace.path, std::string("has ") + std::to_string(found) + what + ", model '" + model.name + "' has " + std::to_string(wanted),
                        "use the model the trace was recorded with, or give model.gate its numbers"});
  };
  compare(" experts", trace.n_experts, model.gate.n_experts);
  compare(" chosen experts per token", trace.top_k, model.gate.top_k);
  if (!problems.empty()) throw UserError(std::move(problems));
}

}  // namespace

void Geometry::choose_layers(const TraceInfo& trace) {
  const ModelShape& model = spec_->model;
  require_same_gate(trace, model);
  const auto& wanted = spec_->trace.layers;
  const auto row_of = [&](std::uint16_t layer) {
    const auto it = std::lower_bound(trace.moe_layers.begin(), trace.moe_layers.end(), layer);
    return it != trace.moe_layers.end() && *it == layer ? static_cast<int>(it - trace.moe_layers.begin()) : -1;
  };
  for (std::uint32_t l = 0; l < model.n_layers(); ++l) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), l) == wanted.end()) continue;
    if (model.layers[l].attention == AttentionKind::none) continue;
    ReplayLayer layer{LayerId(static_cast<std::uint16_t>(l)), model.layers[l], row_of(static_cast<std::uint16_t>(l)), -1, false};
    if (model.layers[l].moe && layer.row < 0 && !trace.moe_layers.empty() && needs_experts_) {
      throw UserError(trace.path, "no routing row for MoE layer " + std::to_string(l) + " of model '" + model.name + "'",
                      "restrict trace.layers to the trace's layers, or use the model the trace was recorded with");
    }
    if (layer.row >= 0) {
      const bool first = layer.row == 0;
      const bool same_row = spec_->routing.key != RoutingKey::previous_layer || first;
      layer.key_row = same_row ? layer.row : layer.row - 1;
      layer.key_is_previous_token = spec_->routing.key == RoutingKey::previous_token || (spec_->routing.key == RoutingKey::previous_layer && first);
    }
    layers_.push_back(layer);
  }
  if (layers_.empty()) throw UserError(trace.path, "no layer is left to replay", "check trace.layers against the model's layers");
}

bool Geometry::holds_first(Rank rank) const {
  const Layout layout = placement_.layout;
  if (rank == Rank(0) || (layout != Layout::head && layout != Layout::replicated)) return true;
  return layout == Layout::head && slice(rank).kv_begin != slice(Rank(rank.value - 1)).kv_begin;
}

std::int64_t Geometry::distinct_parts() const {
  if (placement_.layout != Layout::head) return n_head_groups(Rank(0));
  std::int64_t n = 0;
  for (std::uint32_t g = 0; g < n_ranks(); ++g) n += holds_first(Rank(g)) ? n_head_groups(Rank(g)) : 0;
  return n;
}

HeadSlice Geometry::slice(Rank rank) const {
  const ModelShape& model = spec_->model;
  if (placement_.layout != Layout::head) return {0, model.n_kv_heads, 0, model.n_heads};
  const std::uint32_t g = rank.value;
  const std::uint32_t n = placement_.n_ranks;
  if (n <= model.n_kv_heads) {
    const std::uint32_t base = model.n_kv_heads / n;
    const std::uint32_t extra = model.n_kv_heads % n;
    const std::uint32_t begin = g * base + std::min(g, extra);
    const std::uint32_t count = base + (g < extra ? 1 : 0);
    return {begin, count, begin * model.group_size(), count * model.group_size()};
  }
  // More ranks than KV heads: the ranks of one KV head share its query heads and each holds a replica.
  const auto head = static_cast<std::uint32_t>(std::uint64_t{g} * model.n_kv_heads / n);
  const auto first = static_cast<std::uint32_t>((std::uint64_t{head} * n + model.n_kv_heads - 1) / model.n_kv_heads);
  const auto next = static_cast<std::uint32_t>((std::uint64_t{head + 1} * n + model.n_kv_heads - 1) / model.n_kv_heads);
  const std::uint32_t replicas = next - first;
  const std::uint32_t index = g - first;
  const auto count = static_cast<std::uint32_t>(equal_share(model.group_size(), replicas, index));
  const std::uint32_t begin = index * (model.group_size() / replicas) + std::min(index, model.group_size() % replicas);
  return {head, count > 0 ? 1U : 0U, head * model.group_size() + begin, count};
}

std::uint32_t Geometry::n_head_groups(Rank rank) const { return (slice(rank).kv_count + heads_per_group_ - 1) / heads_per_group_; }

std::uint32_t Geometry::head_group_width(Rank rank, std::uint32_t group) const {
  return std::min(heads_per_group_, slice(rank).kv_count - group * heads_per_group_);
}

BlockFormat Geometry::raw_format(std::uint32_t n_kv_heads) const {
  BlockFormat format = raw_;
  format.n_kv_heads = n_kv_heads;
  return format;
}

BlockFormat Geometry::sealed_format(std::uint32_t n_kv_heads, std::uint32_t page_class) const {
  BlockFormat format = sealed_[page_class];
  format.n_kv_heads = n_kv_heads;
  return format;
}

}  // namespace moekv
