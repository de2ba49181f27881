// Home, phase dispatch: entries, queries, log-sum-exps and notices packed into one segment per destination rank, and counted.
#include <algorithm>
#include <cstring>

#include "core/error.hpp"
#include "engine/home.hpp"

namespace moekv {
namespace {

/// Stable counting sort by destination rank: O(items + ranks).
template <class Item>
void sort_by_rank(const std::vector<Item>& in, std::vector<Item>& out, std::uint32_t n_ranks, std::vector<std::uint32_t>& begin) {
  begin.assign(n_ranks + 1, 0);
  for (const Item& item : in) begin[item.rank + 1] += 1;
  for (std::uint32_t r = 0; r < n_ranks; ++r) begin[r + 1] += begin[r];
  out.resize(in.size());
  for (const Item& item : in) out[begin[item.rank]++] = item;  // shifts `begin` by one, restored below
  for (std::uint32_t r = n_ranks; r > 0; --r) begin[r] = begin[r - 1];
  begin[0] = 0;
}

template <class Item>
std::span<const Item> of_rank(const std::vector<Item>& sorted, const std::vector<std::uint32_t>& begin, std::uint32_t r) {
  return {sorted.data() + begin[r], begin[r + 1] - begin[r]};
}

}  // namespace

void Home::account(Rank source, ByteClass kind, std::int64_t bytes) {
  ByteCounts& counts = pair_[source.value - first_.value];
  counts[static_cast<std::size_t>(kind)] += bytes;
  touched_.push_back(source.value - first_.value);
}

std::span<const std::uint32_t> Home::touched_sources() {
  std::sort(touched_.begin(), touched_.end());
  touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
  return touched_;
}

void Home::close_rank(Rank destination, std::uint32_t layer) {
  for (const std::uint32_t s : touched_sources()) {
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
  MOEKV_EXPECT(stores.empty() || input.k != nullptr);
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
    headers[i] = {t.request.value, t.position, reads[i].query, static_cast<std::uint16_t>(t.probe ? 1 : 0), static_cast<std::uint16_t>(t.observed ? 1 : 0)};
    const auto own = experts_of(input, reads[i].token);
    if (k > 0) std::copy(own.begin(), own.end(), &experts[i * k]);
    account(t.home, ByteClass::q, static_cast<std::int64_t>(q_part));
    account(t.home, ByteClass::headers, static_cast<std::int64_t>(sizeof(QueryHeader) + 2 * k));
  }
  out.put(headers.data(), headers.size());
  out.put(experts.data(), experts.size());
  if (!payload_) return;
  MOEKV_EXPECT(reads.empty() || input.q != nullptr);
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

}  // namespace moekv
