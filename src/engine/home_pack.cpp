// Home, phase dispatch: entries, queries, log-sum-exps and notices packed into one segment per destination rank, and counted.
#include <algorithm>
#include <cstring>
#include <utility>

#include "core/error.hpp"
#include "engine/home.hpp"

namespace moekv {
namespace {

/// Items in stable order of their destination ranks, a counting sort. Of r-th destination: [begin[r], begin[r + 1]).
template <class Item>
struct ByDestination {
  ByDestination(const std::vector<Item>& in, std::vector<Item>& out, std::span<const std::uint32_t> place_of_rank, std::size_t n_destinations)
      : items(out), begin(n_destinations + 2, 0) {
    for (const Item& item : in) begin[place_of_rank[item.rank] + 2] += 1;
    for (std::size_t r = 2; r < begin.size(); ++r) begin[r] += begin[r - 1];
    out.resize(in.size());
    for (const Item& item : in) out[begin[place_of_rank[item.rank] + 1]++] = item;  // ends where the next destination begins
  }
  [[nodiscard]] std::span<const Item> operator[](std::size_t r) const { return {items.data() + begin[r], begin[r + 1] - begin[r]}; }

  const std::vector<Item>& items;
  std::vector<std::uint32_t> begin;
};

}  // namespace

void Home::account(Rank source, ByteClass kind, std::int64_t bytes) {
  ByteCounts& counts = pair_[source.value - first_.value];
  counts[static_cast<std::size_t>(kind)] += bytes;
  if (touched_.empty() || touched_.back() != source.value - first_.value) touched_.push_back(source.value - first_.value);
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

template <class Item>
void Home::pack_experts(const LayerInput& input, std::span<const Item> items, std::size_t k, WireWriter& out) const {
  auto* experts = out.room<std::uint16_t>(items.size() * k);
  for (const Item& item : items) {
    const auto own = experts_of(input, item.token);
    std::fill(std::copy_n(own.begin(), std::min(own.size(), k), experts), experts + k, ExpertId::invalid);
    experts += k;
  }
}

void Home::pack_entries(const LayerInput& input, Rank rank, std::span<const Store> stores, WireWriter& out) {
  const HeadSlice slice = geometry_->slice(rank);
  const ModelShape& model = geometry_->spec().model;
  const std::size_t k = geometry_->needs_experts() ? geometry_->top_k() : 0;
  const std::int64_t payload = geometry_->entry_bytes(slice.kv_count);
  const auto header = static_cast<std::int64_t>(sizeof(EntryHeader) + 2 * k);
  auto* headers = out.room<EntryHeader>(stores.size());
  for (const Store& store : stores) {
    const HomeToken& t = input.tokens[store.token];
    *headers++ = {t.request.value, t.position, store.shard.value, store.copy};
    account(t.home, ByteClass::kv, payload);
    account(t.home, ByteClass::headers, header);
  }
  pack_experts(input, stores, k, out);
  if (!payload_) return;
  const std::size_t pb = geometry_->payload_bytes();
  const std::size_t k_row = std::size_t{model.n_kv_heads} * model.d_k * pb, k_part = std::size_t{slice.kv_count} * model.d_k * pb;
  const std::size_t v_row = std::size_t{model.n_kv_heads} * model.d_v * pb, v_part = model.mla() ? 0 : std::size_t{slice.kv_count} * model.d_v * pb;
  MOEKV_EXPECT(stores.empty() || input.k != nullptr);
  for (const Store& store : stores) {
    out.add(input.k + store.token * k_row + slice.kv_begin * model.d_k * pb, k_part);
    if (v_part > 0) out.add(input.v + store.token * v_row + slice.kv_begin * model.d_v * pb, v_part);
  }
  out.pad();
}

void Home::pack_queries(const LayerInput& input, Rank rank, std::span<const Read> reads, WireWriter& out) {
  const HeadSlice slice = geometry_->slice(rank);
  const ModelShape& model = geometry_->spec().model;
  const std::size_t k = geometry_->needs_experts() ? geometry_->top_k() : 0;
  const std::size_t pb = geometry_->payload_bytes();
  const std::size_t q_row = std::size_t{model.n_heads} * model.d_k * pb, q_part = std::size_t{slice.q_count} * model.d_k * pb;
  auto* headers = out.room<QueryHeader>(reads.size());
  for (const Read& read : reads) {
    const HomeToken& t = input.tokens[read.token];
    *headers++ = {t.request.value, t.position, read.query, static_cast<std::uint16_t>(t.probe ? 1 : 0),
                  static_cast<std::uint16_t>(t.observed ? 1 : 0)};
    account(t.home, ByteClass::q, static_cast<std::int64_t>(q_part));
    account(t.home, ByteClass::headers, static_cast<std::int64_t>(sizeof(QueryHeader) + 2 * k));
  }
  pack_experts(input, reads, k, out);
  if (!payload_) return;
  MOEKV_EXPECT(reads.empty() || input.q != nullptr);
  for (const Read& read : reads) out.add(input.q + read.query * q_row + slice.q_begin * model.d_k * pb, q_part);
  out.pad();
}

void Home::pack_rank(const LayerInput& input, Rank rank, std::span<const Store> stores, std::span<const Read> reads, std::span<const Waiting> waiting,
                     std::span<const PendingNotice> notices) {
  const HeadSlice slice = geometry_->slice(rank);
  const std::uint32_t n_heads = geometry_->spec().model.n_heads;
  WireWriter out(transport_->outbox(process_of_rank_[rank.value]));
  const DispatchSegment segment{rank.value,
                                static_cast<std::uint32_t>(stores.size()),
                                static_cast<std::uint32_t>(reads.size()),
                                static_cast<std::uint32_t>(waiting.size() * slice.q_count),
                                static_cast<std::uint32_t>(notices.size()),
                                {}};
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
  auto* bits = out.room<std::uint64_t>(notices.size());
  for (const PendingNotice& n : notices) *bits++ = n.bits;
  auto* sources = out.room<std::uint32_t>(notices.size());
  for (const PendingNotice& n : notices) {
    *sources++ = n.source.value;
    account(n.source, ByteClass::notices, 8);
    account(n.source, ByteClass::headers, 4);
  }
  close_rank(rank, input.layer);
}

void Home::pack_all(const LayerInput& input) {
  destinations_.clear();
  const auto note = [&](const auto&... lists) {
    const auto one = [&](std::uint32_t rank) {
      if (std::exchange(place_of_rank_[rank], 0) == no_place) destinations_.push_back(rank);
    };
    (std::for_each(lists.begin(), lists.end(), [&](const auto& item) { one(item.rank); }), ...);
  };
  note(stores_, reads_, lse_waiting_, notices_);
  std::sort(destinations_.begin(), destinations_.end());
  const std::size_t n = destinations_.size();
  for (std::uint32_t r = 0; r < n; ++r) place_of_rank_[destinations_[r]] = r;
  const ByDestination stores(stores_, sorted_stores_, place_of_rank_, n);
  const ByDestination reads(reads_, sorted_reads_, place_of_rank_, n);
  const ByDestination waiting(lse_waiting_, sorted_waiting_, place_of_rank_, n);
  const ByDestination notices(notices_, sorted_notices_, place_of_rank_, n);
  for (std::size_t r = 0; r < n; ++r) pack_rank(input, Rank(destinations_[r]), stores[r], reads[r], waiting[r], notices[r]);
  for (const std::uint32_t rank : destinations_) place_of_rank_[rank] = no_place;
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
