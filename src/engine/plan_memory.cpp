// The same arithmetic as the shards', on counts instead of entries.
#include "engine/plan_memory.hpp"

#include <algorithm>
#include <cmath>

#include "engine/rule_bytes.hpp"
#include "engine/shard.hpp"

namespace moekv {

PlanMemory::PlanMemory(const Geometry& geometry)
    : geometry_(&geometry),
      rule_{geometry.page_slots(), geometry.compressed(), geometry.compressed() ? geometry.spec().compression.sink_tokens : 0,
            geometry.spec().compression.raw_window_tokens},
      expected_(rule_),
      bytes_(geometry.n_ranks()),
      pages_(geometry.n_ranks()),
      groups_(geometry.n_ranks()),
      local_(geometry.n_ranks()) {
  const RunSpec& spec = geometry.spec();
  const Layout layout = geometry.placement().layout;
  if (layout == Layout::expert) shares_ = expert_shares(geometry);
  for (const ReplayLayer& layer : geometry.layers()) {
    const bool placed = geometry.layout(layer) == layout;
    (placed ? placed_layers_ : home_layers_) += 1;
    (placed ? placed_ : at_home_) = &layer;
  }
  for (std::uint32_t g = 0; g < geometry.n_ranks(); ++g) sizes_.push_back(sizes_of(geometry.slice(Rank(g)).kv_count));
  whole_ = sizes_of(spec.model.n_kv_heads);
  evicts_ = spec.eviction.budget.kind != BudgetKind::unlimited && !std::holds_alternative<evict::Full>(spec.eviction.rule);
  const double slots = geometry.page_slots();
  const std::uint32_t words = (geometry.page_slots() + 63) / 64;
  const std::uint32_t top_k = geometry.needs_experts() ? geometry.top_k() : 0;
  const std::uint32_t slot_bytes = 8 + (geometry.keeps_state() ? 8 : 0) + 3 * top_k + (geometry.several_copies() ? 9 : 0);
  const std::uint32_t blocked_bytes = geometry.blocks_by_expert() ? 2 * geometry.n_experts() * ((geometry.page_slots() + 15) / 16) : 0;
  page_metadata_ = static_cast<double>(sizeof(Page)) + slots * slot_bytes + blocked_bytes + 16.0 * words + 8.0 +
                   static_cast<double>(geometry.raw_format(geometry.heads_per_group()).bounds_bytes());  // 8: place in the chain and shadow counts
  const double query_bytes = static_cast<double>(spec.model.n_heads) * spec.model.d_k * geometry.payload_bytes() / spec.page.head_groups + 4.0;
  group_metadata_ = static_cast<double>(sizeof(Group)) + geometry.group_reads().queries * query_bytes;
}

PlanMemory::Sizes PlanMemory::sizes_of(std::uint32_t n_kv_heads) const {
  Sizes sizes;
  for (std::uint32_t first = 0; first < n_kv_heads; first += geometry_->heads_per_group()) {
    const std::uint32_t width = std::min(geometry_->heads_per_group(), n_kv_heads - first);
    sizes.raw += static_cast<double>(geometry_->raw_format(width).block_bytes());
    sizes.sealed += static_cast<double>(geometry_->sealed_format(width, geometry_->largest_class()).block_bytes());
    sizes.groups += 1;
  }
  return sizes;
}

double PlanMemory::budget_tokens(const ReplayLayer& layer, std::uint32_t total) {
  const BudgetKind kind = geometry_->spec().eviction.budget.kind;
  const bool by_expert = geometry_->layout(layer) == Layout::expert;
  const auto [cached, unknown] = budgets_.try_emplace({by_expert, total}, 0);
  if (unknown) {  // shards of the expert layout have unequal shares, so all of them count; elsewhere one stands for all
    const std::uint32_t shards = by_expert ? geometry_->n_shards() : 1;
    for (std::uint32_t s = 0; s < shards; ++s) cached->second += geometry_->request_budget(layer, ShardId(s), total, ShardId(0));
  }
  auto entries = static_cast<double>(cached->second);
  if (kind == BudgetKind::pages) entries *= geometry_->page_slots();
  if (kind == BudgetKind::bytes) {
    const BlockFormat raw = geometry_->raw_format(geometry_->heads_per_group());
    entries *= geometry_->page_slots() / static_cast<double>(raw.block_bytes() + raw.bounds_bytes() + rule_bytes(*geometry_));
  }
  double per_token = 1.0;  // entries of a token in what the budget is for
  if (geometry_->layout(layer) == Layout::token) per_token = 1.0 / geometry_->n_shards();
  if (by_expert) per_token = shares_.copies_per_token;
  const double protect = geometry_->spec().eviction.protect.sinks + geometry_->spec().eviction.protect.recent;
  return std::max(protect, entries / per_token);
}

/// Tokens of the request whose entries a shard may still hold pages for, in this step after admit.
std::uint32_t PlanMemory::kept_tokens(const BatchItem& item, const ReplayLayer& layer) {
  const EvictionSpec& eviction = geometry_->spec().eviction;
  if (!evicts_ || eviction.scope == EvictScope::shard) return item.end;
  const bool chunked = geometry_->spec().prefill.evict == PrefillEvict::chunk;
  if (item.end <= item.prompt_tokens && !chunked) return item.end;
  const std::uint32_t unevicted = chunked ? 0 : item.prompt_tokens;  // stored before the first eviction
  double room = budget_tokens(layer, item.total_tokens) + (item.end - item.begin);
  if (eviction.trigger == Trigger::watermark) room *= eviction.high_watermark;
  if (eviction.trigger == Trigger::every) room += eviction.every_steps;
  if (eviction.trigger == Trigger::prefill_end) room += item.end - std::min(item.end, item.prompt_tokens);
  const double kept = std::min(room, static_cast<double>(item.end));
  // Entries evicted one by one leave their pages allocated until the last of a page goes.
  const double pages_of = geometry_->unit() == EvictUnit::token ? std::max(kept, static_cast<double>(unevicted)) : kept;
  return static_cast<std::uint32_t>(std::ceil(pages_of));
}

void PlanMemory::store_pages(Request& request, std::uint32_t rank, const ChainPages& pages, double chains) {
  request.bytes[rank] += chains * (pages.raw * sizes_[rank].raw + pages.sealed * sizes_[rank].sealed);
  request.pages[rank] += chains * (pages.raw + pages.sealed) * sizes_[rank].groups;
}

void PlanMemory::store_local(const BatchItem& item, Request& request, double n_layers, std::uint32_t tokens, bool by_expert) {
  const ChainPages pages = by_expert ? expected_(tokens, 1.0 / geometry_->n_experts()) : pages_of_all(rule_, tokens, item.prompt_tokens);
  const double chains = by_expert ? geometry_->n_experts() * n_layers : n_layers;
  const Layout layout = geometry_->placement().layout;
  const bool everywhere = layout == Layout::head || layout == Layout::replicated;
  for (std::uint32_t g = everywhere ? 0 : item.home.value; g < (everywhere ? geometry_->n_ranks() : item.home.value + 1); ++g) {
    if (geometry_->slice(Rank(g)).q_count == 0) continue;
    store_pages(request, g, pages, chains);
    request.groups[g] += n_layers * sizes_[g].groups;
  }
}

void PlanMemory::store_token_layout(const BatchItem& item, Request& request, double n_layers, std::uint32_t tokens) {
  const Placement& placement = geometry_->placement();
  request.side.resize(placement.n_shards);
  request.main.resize(placement.n_shards);
  for (std::uint32_t p = item.begin; p < item.end; ++p)
    (p < rule_.sink_tokens ? request.side : request.main)[placement.token_shard(item.request, p).value] += 1;
  const double share = static_cast<double>(tokens) / item.end;
  const double window_share = std::min(1.0, static_cast<double>(rule_.raw_window_tokens) / item.end);
  for (std::uint32_t s = 0; s < placement.n_shards; ++s) {
    if (request.side[s] + request.main[s] == 0) continue;
    const std::uint32_t g = placement.owner(ShardId(s)).value;
    const auto main = static_cast<std::uint32_t>(std::ceil(request.main[s] * share));
    const auto settled = static_cast<std::uint32_t>(main * (1.0 - window_share));
    const bool by_expert = geometry_->pages_by_expert();
    if (by_expert) {
      store_pages(request, g, expected_(main, 1.0 / geometry_->n_experts()), geometry_->n_experts() * n_layers);
    } else {
      store_pages(request, g, pages_of_counts(rule_, request.side[s], main, settled), n_layers);
    }
    request.groups[g] += n_layers * sizes_[g].groups;
  }
}

void PlanMemory::store_expert_layout(Request& request, double n_layers, std::uint32_t tokens) {
  std::vector<ChainPages> pages;
  pages.reserve(shares_.kinds.size());
  for (const ShardKind& kind : shares_.kinds) pages.push_back(expected_(tokens, kind.chain_share, kind.draws_per_token));
  for (std::uint32_t g = 0; g < geometry_->n_ranks(); ++g) {
    for (const auto& [kind, count] : shares_.ranks[g].kinds) {
      store_pages(request, g, pages[kind], count * shares_.kinds[kind].chains * n_layers);
      if (shares_.kinds[kind].n_experts > 0) request.groups[g] += count * n_layers * sizes_[g].groups;
    }
  }
}

void PlanMemory::add(const Request& request, double sign) {
  for (std::uint32_t g = 0; g < geometry_->n_ranks(); ++g) {
    bytes_[g] += sign * request.bytes[g];
    pages_[g] += sign * request.pages[g];
    groups_[g] += sign * request.groups[g];
  }
  local_[request.home.value] += sign * request.local;
  tokens_ += sign > 0 ? request.tokens : -std::uint64_t{request.tokens};
}

void PlanMemory::store(const BatchItem& item, Request& request) {
  for (auto* v : {&request.bytes, &request.pages, &request.groups}) v->assign(geometry_->n_ranks(), 0.0);
  const Layout layout = geometry_->placement().layout;
  if (placed_layers_ > 0) {
    if (layout == Layout::token) {
      store_token_layout(item, request, placed_layers_, request.placed);
    } else if (layout == Layout::expert) {
      store_expert_layout(request, placed_layers_, request.placed);
    } else {
      store_local(item, request, placed_layers_, request.placed, geometry_->pages_by_expert());
    }
  }
  if (home_layers_ > 0) store_local(item, request, home_layers_, request.at_home, false);
}

void PlanMemory::extend(const BatchItem& item) {
  const auto [it, added] = requests_.try_emplace(item.request.value);
  Request& request = it->second;
  if (!added) add(request, -1.0);
  request.home = item.home;
  request.tokens = item.end;
  const std::uint32_t placed = placed_layers_ > 0 ? kept_tokens(item, *placed_) : 0;
  const std::uint32_t at_home = home_layers_ > 0 ? kept_tokens(item, *at_home_) : 0;
  // Under layout token the shards' own counts go on.
  const bool stays = !added && placed == request.placed && at_home == request.at_home && geometry_->placement().layout != Layout::token;
  request.placed = placed;
  request.at_home = at_home;
  if (!stays) store(item, request);
  const ChainPages local = pages_of_all(rule_, item.end, item.prompt_tokens);
  request.local = (placed_layers_ + home_layers_) * (local.raw * whole_.raw + local.sealed * whole_.sealed);
  add(request, 1.0);
}

void PlanMemory::finish(RequestId request) {
  const auto it = requests_.find(request.value);
  if (it == requests_.end()) return;
  add(it->second, -1.0);
  requests_.erase(it);
}

}  // namespace moekv
