// The home side of a layer step: plan, pack the dispatch, merge the partial results.
#include "engine/home.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moekv {
Home::Home(const Geometry& geometry, Backend& backend, Transport& transport, Counters& counters, std::span<const int> process_of_rank, Rank first,
           Rank end)
    : geometry_(&geometry),
      transport_(&transport),
      counters_(&counters),
      process_of_rank_(process_of_rank),
      first_(first),
      end_(end),
      rank_words_((geometry.n_ranks() + 63) / 64),
      payload_(backend.has_payload()),
      pair_(end.value - first.value),
      place_of_rank_(geometry.n_ranks(), no_place) {}

Home::RequestState& Home::state_of(RequestId request) {
  const auto [it, added] = written_.try_emplace(request.value);
  if (added) {
    it->second.ranks.resize(geometry_->layers().size() * rank_words_);
    if (geometry_->placement().layout != Layout::expert) return it->second;
    for (auto* last : {&it->second.last_shard, &it->second.last_read}) last->assign(geometry_->layers().size() * geometry_->n_experts(), no_shard);
  }
  return it->second;
}

void Home::store_at(const LayerInput& input, std::uint32_t token, ShardId shard, std::uint8_t copy, RequestState& state) {
  const Rank rank = geometry_->placement().owner(shard);
  stores_.push_back({rank.value, token, shard, copy});
  state.ranks[input.layer * rank_words_ + rank.value / 64] |= 1ULL << (rank.value % 64);
}

void Home::moved(std::span<const RankMove> moves) {
  const auto word = [&](const RankMove& m, std::uint32_t rank) -> std::uint64_t& {
    return state_of(RequestId(m.request)).ranks[m.layer * rank_words_ + rank / 64];
  };
  for (const RankMove& m : moves) {
    if (m.emptied != no_rank) word(m, m.emptied) &= ~(1ULL << (m.emptied % 64));
  }
  for (const RankMove& m : moves) word(m, m.target) |= 1ULL << (m.target % 64);
}

void Home::count_stores(const LayerInput& input, const HomeToken& token, std::size_t first, const CopySet& copies) {
  store_ranks_.clear();
  for (std::size_t i = first; i < stores_.size(); ++i) store_ranks_.push_back(stores_[i].rank);
  std::sort(store_ranks_.begin(), store_ranks_.end());
  store_ranks_.erase(std::unique(store_ranks_.begin(), store_ranks_.end()), store_ranks_.end());
  counters_->step.store_ranks += static_cast<std::int64_t>(store_ranks_.size());
  counters_->step.store_nodes += count_nodes(store_ranks_);
  const Placement& placement = geometry_->placement();
  const std::uint32_t layer = geometry_->layers()[input.layer].layer.value;
  for (std::uint8_t c = 0; placement.shadowed != nullptr && c < copies.n_copies; ++c) {
    if (!placement.is_shadowed(layer, copies.expert[c])) continue;
    counters_->step.shadow_stores += 1;
    const Rank replica = placement.owner(placement.expert_shard(layer, token.request, token.position, copies.expert[c]));
    if (replica != token.home) counters_->step.shadow_saved_bytes += geometry_->entry_bytes(geometry_->spec().model.n_kv_heads);
  }
}

std::int64_t Home::count_nodes(std::span<const std::uint32_t> ranks) const {
  const std::uint32_t per_node = geometry_->spec().cluster.network.ranks_per_node;
  std::int64_t nodes = 0;
  for (std::size_t i = 0; i < ranks.size(); ++i) nodes += i == 0 || ranks[i] / per_node != ranks[i - 1] / per_node ? 1 : 0;
  return nodes;
}

void Home::plan_stores(const LayerInput& input, std::uint32_t token, RequestState& state) {
  const HomeToken& t = input.tokens[token];
  const Placement& placement = geometry_->placement();
  const ReplayLayer& layer = geometry_->layers()[input.layer];
  StepRecord& count = counters_->step;
  count.distinct_insertions += 1;
  const std::size_t first = stores_.size();
  CopySet copies;
  switch (geometry_->layout(layer)) {
    case Layout::local: {
      store_at(input, token, placement.home_shard(t.home, t.request), 0, state);
      if (placement.layout == Layout::expert) count.stored_home += 1;
      break;
    }
    case Layout::token:
      store_at(input, token, placement.token_shard(t.request, t.position), 0, state);
      break;
    case Layout::head:
    case Layout::replicated:
      for (std::uint32_t g = 0; g < placement.n_ranks; ++g) {
        if (geometry_->slice(Rank(g)).q_count > 0) store_at(input, token, placement.home_shard(Rank(g), t.request), 0, state);
      }
      break;
    case Layout::expert: {
      const auto experts = experts_of(input, token);
      copies = plan_copies(placement, t.home, t.request, layer.layer.value, t.position, experts);
      for (std::uint8_t c = 0; c < copies.n_copies; ++c) store_at(input, token, copies.shard[c], c, state);
      if (copies.n_copies == 0) {
        store_at(input, token, placement.home_shard(t.home, t.request), 0, state);
        count.stored_home += 1;
      }
      count.chosen_experts += copies.n_chosen;
      count.stored_copies += copies.n_copies;
      count.dedup_merged += copies.n_chosen - copies.n_copies;
      for (std::size_t i = 0; i < experts.size(); ++i) {
        if (experts[i] == ExpertId::invalid) continue;
        std::uint32_t& last = state.last_shard[std::size_t{input.layer} * geometry_->n_experts() + experts[i]];
        const std::uint32_t shard = copies.shard[copies.copy_of[i]].value;
        if (last != no_shard && last != shard) count.cross_shard_stores += 1;
        last = shard;
      }
    }
  }
  count_stores(input, t, first, copies);
}

std::span<const std::uint32_t> Home::shards_of(const HomeToken& t, const ReplayLayer& layer, ExpertId e) {
  const Placement& placement = geometry_->placement();
  std::vector<std::uint32_t>& shards = read_shards_;
  shards.clear();
  if (placement.is_shadowed(layer.layer.value, e)) {
    shards.push_back(placement.home_shard(t.home, t.request).value);
  } else if (placement.map != ShardMap::pikv_xor) {
    geometry_->for_each_home_of(layer, e, [&](ShardId s) { shards.push_back(s.value); });
  } else {
    const std::uint32_t residues = std::min(placement.n_tok, t.position + 1);  // an expert's entries lie on one shard per residue
    for (std::uint32_t c = 0; c < residues; ++c) shards.push_back(placement.expert_shard(0, t.request, c, e).value);
  }
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  return shards;
}

void Home::plan_reads(const LayerInput& input, std::uint32_t token, std::uint32_t query, RequestState& state) {
  const HomeToken& t = input.tokens[token];
  const Placement& placement = geometry_->placement();
  const ReplayLayer& layer = geometry_->layers()[input.layer];
  const Layout layout = geometry_->layout(layer);
  const std::uint64_t* written = &state.ranks[input.layer * rank_words_];
  const auto holds = [&](std::uint32_t r) { return (written[r / 64] >> (r % 64) & 1U) != 0; };
  std::vector<std::uint32_t>& ranks = offsets_;  // scratch
  ranks.clear();
  if (layout == Layout::local || layout == Layout::replicated) {
    ranks.push_back(t.home.value);
  } else if (layout == Layout::expert && geometry_->spec().read.scope == ReadScope::routed) {
    for (const std::uint16_t e : experts_of(input, token)) {
      if (e == ExpertId::invalid) continue;
      counters_->step.expert_reads += 1;
      std::uint32_t& last = state.last_read[std::size_t{input.layer} * geometry_->n_experts() + e];
      for (const std::uint32_t s : shards_of(t, layer, ExpertId(e))) {
        const std::uint32_t rank = placement.owner(ShardId(s)).value;
        ranks.push_back(rank);
        if (!holds(rank)) continue;
        counters_->step.shard_reads += 1;
        counters_->step.cross_shard_switches += last != no_shard && last != s ? 1 : 0;
        last = s;
      }
    }
    std::sort(ranks.begin(), ranks.end());
    ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  } else {
    for (std::uint32_t r = 0; r < placement.n_ranks; ++r) ranks.push_back(r);
  }
  std::erase_if(ranks, [&](std::uint32_t r) { return !holds(r); });
  for (const std::uint32_t r : ranks) reads_.push_back({r, token, query});
  counters_->step.query_nodes += count_nodes(ranks);
}

void Home::plan(const LayerInput& input) {
  stores_.clear();
  reads_.clear();
  std::uint32_t query = 0;
  for (std::uint32_t i = 0; i < input.tokens.size(); ++i) {
    RequestState& state = state_of(input.tokens[i].request);
    plan_stores(input, i, state);
    if (input.tokens[i].query) plan_reads(input, i, query++, state);
  }
  counters_->step.queries += query;
  counters_->layers[input.layer].queries += query;
  counters_->step.query_ranks += static_cast<std::int64_t>(reads_.size());
}

void Home::add_notice(Rank source, Rank destination, std::uint64_t notice) { notices_.push_back({destination.value, source, notice}); }

std::int64_t Home::buffer_bytes() const {
  const auto bytes = [](const auto& v) { return static_cast<std::int64_t>(v.capacity() * sizeof(v[0])); };
  return bytes(links_) + bytes(parts_) + bytes(part_o_) + bytes(last_lse_) + bytes(stores_) + bytes(sorted_stores_) + bytes(reads_) +
         bytes(sorted_reads_);
}

}  // namespace moekv
