// The home side of a layer step: plan, pack the dispatch, merge the partial results.
#include "engine/home.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moekv {
namespace {

/// Stable counting sort by destination rank: O(items + ranks).
template <class Item>
void sort_by_rank(const std::vector<Item>& in, std::vector<Item>& out, std::uint32_t n_ranks, std::vector<std::uint32_t>& begin) {
  begin.assign(n_ranks + 1, 0);
  for (const Item& item : in) begin[item.rank + 1] += 1;
  for (std::uint32_t r = 0; r < n_ranks; ++r) begin[r + 1] += begin[r];
  out.resize(in.size());
  std::vector<std::uint32_t>& cursor = begin;  // shifted by one while filling, restored below
  for (const Item& item : in) out[cursor[item.rank]++] = item;
  for (std::uint32_t r = n_ranks; r > 0; --r) begin[r] = begin[r - 1];
  begin[0] = 0;
}

template <class Item>
std::span<const Item> of_rank(const std::vector<Item>& sorted, const std::vector<std::uint32_t>& begin, std::uint32_t r) {
  return {sorted.data() + begin[r], begin[r + 1] - begin[r]};
}

}  // namespace

Home::Home(const Geometry& geometry, Backend& backend, Transport& transport, Counters& counters, std::span<const int> process_of_rank, Rank first, Rank end)
    : geometry_(&geometry),
      backend_(&backend),
      transport_(&transport),
      counters_(&counters),
      process_of_rank_(process_of_rank),
      first_(first),
      end_(end),
      rank_words_((geometry.n_ranks() + 63) / 64),
      payload_(backend.has_payload()),
      pair_(end.value - first.value) {}

Home::RequestState& Home::state_of(RequestId request) {
  const auto [it, added] = written_.try_emplace(request.value);
  if (added) {
    it->second.ranks.resize(geometry_->layers().size() * rank_words_);
    if (geometry_->placement().layout == Layout::expert) it->second.last_shard.assign(geometry_->layers().size() * geometry_->n_experts(), no_shard);
  }
  return it->second;
}

void Home::store_at(const LayerInput& input, std::uint32_t token, ShardId shard, std::uint8_t copy, RequestState& state) {
  const Rank rank = geometry_->placement().owner(shard);
  stores_.push_back({rank.value, token, shard, copy});
  state.ranks[input.layer * rank_words_ + rank.value / 64] |= 1ULL << (rank.value % 64);
}

void Home::plan_stores(const LayerInput& input, std::uint32_t token, RequestState& state) {
  const HomeToken& t = input.tokens[token];
  const Placement& placement = geometry_->placement();
  const ReplayLayer& layer = geometry_->layers()[input.layer];
  StepRecord& count = counters_->step;
  count.distinct_insertions += 1;
  switch (geometry_->layout(layer)) {
    case Layout::local: {
      store_at(input, token, placement.home_shard(t.home, t.request), 0, state);
      if (placement.layout == Layout::expert) count.stored_home += 1;
      break;
    }
    case Layout::token: store_at(input, token, placement.token_shard(t.request, t.position), 0, state); break;
    case Layout::head:
    case Layout::replicated:
      for (std::uint32_t g = 0; g < placement.n_ranks; ++g) {
        if (geometry_->slice(Rank(g)).q_count > 0) store_at(input, token, placement.home_shard(Rank(g), t.request), 0, state);
      }
      break;
    case Layout::expert: {
      const auto experts = experts_of(input, token);
      const CopySet copies = plan_copies(placement, t.request, layer.layer.value, t.position, experts);
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
        if (last != no_shard && last != shard) count.cross_shard_switches += 1;
        last = shard;
      }
    }
  }
}

void Home::plan_reads(const LayerInput& input, std::uint32_t token, std::uint32_t query, const RequestState& state) {
  const HomeToken& t = input.tokens[token];
  const Placement& placement = geometry_->placement();
  const Layout layout = geometry_->layout(geometry_->layers()[input.layer]);
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
      if (placement.map != ShardMap::pikv_xor) {
        ranks.push_back(placement.owner(placement.expert_shard(0, ExpertId(e))).value);
        continue;
      }
      const std::uint32_t residues = std::min(placement.n_tok, t.position + 1);  // an expert's entries lie on one shard per residue
      for (std::uint32_t c = 0; c < residues; ++c) ranks.push_back(placement.owner(placement.expert_shard(c, ExpertId(e))).value);
    }
    std::sort(ranks.begin(), ranks.end());
    ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  } else {
    for (std::uint32_t r = 0; r < placement.n_ranks; ++r) ranks.push_back(r);
  }
  for (const std::uint32_t r : ranks) {
    if (holds(r)) reads_.push_back({r, token, query});
  }
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

void Home::account(Rank source, ByteClass kind, std::int64_t bytes) {
  ByteCounts& counts = pair_[source.value - first_.value];
  counts[static_cast<std::size_t>(kind)] += bytes;
  touched_.push_back(source.value - first_.value);
}

void Home::close_rank(Rank destination, std::uint32_t layer) {
  std::sort(touched_.begin(), touched_.end());
  touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
  for (const std::uint32_t s : touched_) {
    counters_->sent(Rank(first_.value + s), destination, pair_[s], layer);
    pair_[s] = ByteCounts{};
  }
  touched_.clear();
}

void Home::pack_entries(const LayerInput& input, Rank rank, std::span<const Store> stores, WireWriter& out) {
  const HeadSlice slice = geometry_->slice(rank);
  const ModelShape& model = geometry_->spec().model;
  const std::size_t k = geometry_->needs_experts() ? geometry_->top_k() : 0;
  std::vector<EntryHeader> headers(stores.size());
  std::vector<std::uint16_t> experts(stores.size() * k, ExpertId::invalid);
  const std::int64_t payload = geometry_->entry_bytes(slice.kv_count);
  const auto header = static_cast<std::int64_t>(sizeof(EntryHeader) + 2 * k);
  for (std::size_t i = 0; i < stores.size(); ++i) {
    const HomeToken& t = input.tokens[stores[i].token];
    headers[i] = {t.request.value, t.position, stores[i].shard.value, stores[i].copy};
    const auto own = experts_of(input, stores[i].token);
    if (k > 0) std::copy(own.begin(), own.end(), &experts[i * k]);
    account(t.home, ByteClass::kv, payload);
    account(t.home, ByteClass::headers, header);
  }
  out.put(headers.data(), headers.size());
  out.put(experts.data(), experts.size());
  if (!payload_) return;
  const std::size_t pb = geometry_->payload_bytes();
  const std::size_t k_row = std::size_t{model.n_kv_heads} * model.d_k * pb, k_part = std::size_t{slice.kv_count} * model.d_k * pb;
  const std::size_t v_row = std::size_t{model.n_kv_heads} * model.d_v * pb, v_part = model.mla() ? 0 : std::size_t{slice.kv_count} * model.d_v * pb;
  std::byte* to = out.reserve(stores.size() * (k_part + v_part));
  for (const Store& store : stores) {
    std::memcpy(to, input.k + store.token * k_row + slice.kv_begin * model.d_k * pb, k_part);
    if (v_part > 0) std::memcpy(to + k_part, input.v + store.token * v_row + slice.kv_begin * model.d_v * pb, v_part);
    to += k_part + v_part;
  }
}

void Home::pack_queries(const LayerInput& input, Rank rank, std::span<const Read> reads, WireWriter& out) {
  const HeadSlice slice = geometry_->slice(rank);
  const ModelShape& model = geometry_->spec().model;
  const std::size_t k = geometry_->needs_experts() ? geometry_->top_k() : 0;
  std::vector<QueryHeader> headers(reads.size());
  std::vector<std::uint16_t> experts(reads.size() * k, ExpertId::invalid);
  const std::size_t pb = geometry_->payload_bytes();
  const std::size_t q_row = std::size_t{model.n_heads} * model.d_k * pb, q_part = std::size_t{slice.q_count} * model.d_k * pb;
  for (std::size_t i = 0; i < reads.size(); ++i) {
    const HomeToken& t = input.tokens[reads[i].token];
    headers[i] = {t.request.value, t.position, reads[i].query, t.probe ? 1U : 0U};
    const auto own = experts_of(input, reads[i].token);
    if (k > 0) std::copy(own.begin(), own.end(), &experts[i * k]);
    account(t.home, ByteClass::q, static_cast<std::int64_t>(q_part));
    account(t.home, ByteClass::headers, static_cast<std::int64_t>(sizeof(QueryHeader) + 2 * k));
  }
  out.put(headers.data(), headers.size());
  out.put(experts.data(), experts.size());
  if (!payload_) return;
  std::byte* to = out.reserve(reads.size() * q_part);
  for (const Read& read : reads) {
    std::memcpy(to, input.q + read.query * q_row + slice.q_begin * model.d_k * pb, q_part);
    to += q_part;
  }
}

void Home::pack_rank(const LayerInput& input, Rank rank, std::span<const Store> stores, std::span<const Read> reads, std::span<const Waiting> waiting,
                     std::span<const PendingNotice> notices) {
  if (stores.empty() && reads.empty() && waiting.empty() && notices.empty()) return;
  const HeadSlice slice = geometry_->slice(rank);
  const std::uint32_t n_heads = geometry_->spec().model.n_heads;
  WireWriter out(transport_->outbox(process_of_rank_[rank.value]));
  const DispatchSegment segment{rank.value, static_cast<std::uint32_t>(stores.size()), static_cast<std::uint32_t>(reads.size()),
                                static_cast<std::uint32_t>(waiting.size() * slice.q_count), static_cast<std::uint32_t>(notices.size()), {}};
  out.put(&segment, 1);
  pack_entries(input, rank, stores, out);
  pack_queries(input, rank, reads, out);
  std::vector<float> lse;
  for (const Waiting& w : waiting) {
    const float* row = &last_lse_[std::size_t{w.query} * n_heads + slice.q_begin];
    lse.insert(lse.end(), row, row + slice.q_count);
    account(w.home, ByteClass::lse, std::int64_t{4} * slice.q_count);
  }
  out.put(lse.data(), lse.size());
  std::vector<std::uint64_t> bits;
  std::vector<std::uint32_t> sources;
  for (const PendingNotice& n : notices) {
    bits.push_back(n.bits);
    sources.push_back(n.source.value);
    account(n.source, ByteClass::notices, 8);
    account(n.source, ByteClass::headers, 4);
  }
  out.put(bits.data(), bits.size());
  out.put(sources.data(), sources.size());
  close_rank(rank, input.layer);
}

void Home::pack_all(const LayerInput& input) {
  const std::uint32_t n = geometry_->n_ranks();
  std::vector<std::uint32_t> store_begin, read_begin, wait_begin, notice_begin;
  sort_by_rank(stores_, sorted_stores_, n, store_begin);
  sort_by_rank(reads_, sorted_reads_, n, read_begin);
  sort_by_rank(lse_waiting_, sorted_waiting_, n, wait_begin);
  sort_by_rank(notices_, sorted_notices_, n, notice_begin);
  for (std::uint32_t r = 0; r < n; ++r) {
    pack_rank(input, Rank(r), of_rank(sorted_stores_, store_begin, r), of_rank(sorted_reads_, read_begin, r), of_rank(sorted_waiting_, wait_begin, r),
              of_rank(sorted_notices_, notice_begin, r));
  }
  lse_waiting_.clear();
  notices_.clear();
}

void Home::pack(const LayerInput& input) { pack_all(input); }

void Home::pack_tail() {
  stores_.clear();
  reads_.clear();
  LayerInput none;
  none.layer = static_cast<std::uint32_t>(geometry_->layers().size() - 1);
  pack_all(none);
}

void Home::add_notice(Rank source, Rank destination, std::uint64_t notice) { notices_.push_back({destination.value, source, notice}); }

void Home::merge(const LayerInput& input, LayerOutput& out) {
  const ModelShape& model = geometry_->spec().model;
  const bool half = geometry_->spec().combine == CombineType::bf16;
  const std::size_t n_queries = static_cast<std::size_t>(std::count_if(input.tokens.begin(), input.tokens.end(), [](const HomeToken& t) { return t.query; }));
  std::vector<Rank> home_of;
  home_of.reserve(n_queries);
  for (const HomeToken& t : input.tokens) {
    if (t.query) home_of.push_back(t.home);
  }
  const std::size_t rows = n_queries * model.n_heads;
  out.o.assign(payload_ ? rows * model.d_v : 0, 0.0F);
  out.lse.assign(payload_ ? rows : 0, -std::numeric_limits<float>::infinity());
  out.probe_positions.assign(n_queries, {});
  part_m_.clear();
  part_l_.clear();
  part_o_.clear();
  std::vector<std::pair<std::uint32_t, std::uint32_t>> links;  // (output row, partial row), ascending rank within an output row
  std::vector<std::uint8_t> answered(n_queries, 0);
  for (int p = 0; p < transport_->n_processes(); ++p) {
    WireReader in(transport_->received(p));
    while (!in.done()) {
      const CombineSegment segment = in.take<CombineSegment>(1)[0];
      const HeadSlice slice = geometry_->slice(Rank(segment.rank));
      const auto headers = in.take<PartialHeader>(segment.n_partials);
      std::size_t at = part_m_.size();
      if (payload_) {
        const std::size_t n = std::size_t{segment.n_partials} * slice.q_count;
        const auto m = in.take<float>(n);
        const auto l = in.take<float>(n);
        part_m_.insert(part_m_.end(), m.begin(), m.end());
        part_l_.insert(part_l_.end(), l.begin(), l.end());
        if (half) {
          for (const std::uint16_t bits : in.take<std::uint16_t>(n * model.d_v)) part_o_.push_back(float_from_bits(std::uint32_t{bits} << 16));
        } else {
          const auto o = in.take<float>(n * model.d_v);
          part_o_.insert(part_o_.end(), o.begin(), o.end());
        }
      }
      const std::int64_t bytes = std::int64_t{slice.q_count} * (8 + std::int64_t{model.d_v} * (half ? 2 : 4));
      for (const PartialHeader& header : headers) {
        answered[header.query] = 1;
        if (geometry_->needs_mass()) lse_waiting_.push_back({segment.rank, home_of[header.query], header.query});
        if (payload_) {
          for (std::uint32_t h = 0; h < slice.q_count; ++h) {
            links.emplace_back(static_cast<std::uint32_t>(header.query * model.n_heads + slice.q_begin + h), static_cast<std::uint32_t>(at++));
          }
        }
        ++pair_[header.home - first_.value][static_cast<std::size_t>(ByteClass::partial)];
        touched_.push_back(header.home - first_.value);
      }
      std::sort(touched_.begin(), touched_.end());
      touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
      for (const std::uint32_t s : touched_) {
        const std::int64_t n = pair_[s][static_cast<std::size_t>(ByteClass::partial)];
        ByteCounts counts{};
        counts[static_cast<std::size_t>(ByteClass::partial)] = n * bytes;
        counts[static_cast<std::size_t>(ByteClass::headers)] = n * static_cast<std::int64_t>(sizeof(PartialHeader));
        counters_->received(Rank(segment.rank), Rank(first_.value + s), counts);
        pair_[s] = ByteCounts{};
      }
      touched_.clear();
      const auto probe = in.take<std::uint32_t>(segment.n_probe_words);
      for (std::size_t i = 0; i < probe.size(); i += 2 + probe[i + 1]) {
        auto& positions = out.probe_positions[probe[i]];
        positions.insert(positions.end(), &probe[i + 2], &probe[i + 2] + probe[i + 1]);
      }
    }
  }
  counters_->step.empty_reads += std::count(answered.begin(), answered.end(), 0);
  if (!payload_) return;

  std::stable_sort(links.begin(), links.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  offsets_.assign(rows + 1, 0);
  parts_.resize(links.size());
  for (std::size_t i = 0; i < links.size(); ++i) {
    offsets_[links[i].first + 1] += 1;
    parts_[i] = links[i].second;
  }
  for (std::size_t r = 0; r < rows; ++r) offsets_[r + 1] += offsets_[r];
  m_out_.resize(rows);
  l_out_.resize(rows);
  sink_rows_.clear();
  if (input.sinks != nullptr) {
    for (std::size_t q = 0; q < n_queries; ++q) sink_rows_.insert(sink_rows_.end(), input.sinks, input.sinks + model.n_heads);
  }
  backend_->merge({offsets_, parts_, part_m_.data(), part_l_.data(), part_o_.data(), model.d_v, sink_rows_.empty() ? nullptr : sink_rows_.data(), m_out_.data(),
                   l_out_.data(), out.o.data()});
  backend_->sync();
  for (std::size_t r = 0; r < rows; ++r) {
    if (!(l_out_[r] > 0)) continue;
    out.lse[r] = m_out_[r] + log_fixed(l_out_[r]);
    for (std::uint32_t d = 0; d < model.d_v; ++d) out.o[r * model.d_v + d] /= l_out_[r];
  }
  last_lse_ = out.lse;
}

std::int64_t Home::buffer_bytes() const {
  const auto bytes = [](const auto& v) { return static_cast<std::int64_t>(v.capacity() * sizeof(v[0])); };
  return bytes(part_m_) + bytes(part_l_) + bytes(part_o_) + bytes(last_lse_) + bytes(stores_) + bytes(sorted_stores_) + bytes(reads_) + bytes(sorted_reads_);
}

}  // namespace moekv
