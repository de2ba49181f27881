// The owner side of a layer step: unpack, admit, attend, answer, touch.
#include "engine/owner.hpp"

#include <algorithm>
#include <bit>
#include <chrono>
#include <limits>
#include <utility>

#include "core/math.hpp"
#include "engine/copies.hpp"

namespace moekv {

Owner::Owner(const Geometry& geometry, Backend& backend, Transport& transport, Counters& counters, const RequestTable& requests, Rank first, Rank end)
    : geometry_(&geometry),
      backend_(&backend),
      transport_(&transport),
      counters_(&counters),
      requests_(&requests),
      first_(first),
      end_(end),
      first_shard_(geometry.placement().first_shard(first.value)),
      weights_(geometry.spec().eviction.weights_path, geometry.spec().model),
      payload_(backend.has_payload()),
      copies_matter_(geometry.several_copies()),
      demotes_(geometry.spec().eviction.action == EvictAction::demote),
      sums_chains_(!payload_ && !demotes_ && !geometry.compressed() && geometry.spec().eviction.access != AccessSource::selected),
      choice_(geometry.spec().read.select) {
  const RunSpec& spec = geometry.spec();
  const std::uint32_t end_shard = geometry.placement().first_shard(end.value);
  const std::uint64_t block = geometry.raw_format(geometry.heads_per_group()).block_bytes();
  // Virtual room only; what is really taken grows with use and is reported.
  const bool bounded = spec.memory.shard_bytes > 0 && !demotes_;  // a step may recall all that it reads
  const std::uint64_t room = bounded ? 2 * spec.memory.shard_bytes : std::uint64_t{64} << 30;
  const auto max_pages = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(room / block, 1024, 1U << 30));
  shards_.reserve(end_shard - first_shard_);
  for (std::uint32_t s = first_shard_; s < end_shard; ++s) shards_.emplace_back(geometry, ShardId(s), backend, max_pages);
  weighed_.resize(shards_.size());
  std::visit(
      [&](const auto& rule) {
        if constexpr (requires { rule.mass(0.0F, 0.0F); }) forgets_ = geometry.needs_mass() && rule.mass(1.0F, 0.0F) < 1.0F;
      },
      spec.eviction.rule);
  const CodecTables tables(geometry);
  for (Shard& s : shards_) {
    if (payload_ && tables.needed()) s.share_tables(backend, tables);
  }
}

std::span<const Owner::Received> Owner::unpack() {
  const ModelShape& model = geometry_->spec().model;
  const std::size_t k = geometry_->needs_experts() ? geometry_->top_k() : 0;
  segments_.clear();
  for (int p = 0; p < transport_->n_processes(); ++p) {
    WireReader in(transport_->received(p));
    while (!in.done()) {
      Received r;
      r.segment = in.take<DispatchSegment>(1).data();
      r.process = p;
      const HeadSlice slice = geometry_->slice(Rank(r.segment->rank));
      r.entries = in.take<EntryHeader>(r.segment->n_entries);
      r.entry_experts = in.take<std::uint16_t>(r.segment->n_entries * k);
      if (payload_) r.entry_payload = in.take<std::byte>(std::size_t{r.segment->n_entries} * geometry_->entry_bytes(slice.kv_count));
      r.queries = in.take<QueryHeader>(r.segment->n_queries);
      r.query_experts = in.take<std::uint16_t>(r.segment->n_queries * k);
      if (payload_) r.query_payload = in.take<std::byte>(std::size_t{r.segment->n_queries} * slice.q_count * model.d_k * geometry_->payload_bytes());
      r.lse = in.take<float>(r.segment->n_lse);
      r.notices = in.take<std::uint64_t>(r.segment->n_notices);
      r.notice_sources = in.take<std::uint32_t>(r.segment->n_notices);
      segments_.push_back(r);
    }
  }
  const auto before = [](const Received& a, const Received& b) { return a.segment->rank < b.segment->rank; };
  if (!std::is_sorted(segments_.begin(), segments_.end(), before)) std::stable_sort(segments_.begin(), segments_.end(), before);
  return segments_;
}

void Owner::apply_notices(std::span<const std::uint64_t> bits, Rank rank) {
  const Placement& placement = geometry_->placement();
  for (std::size_t begin = 0; begin < bits.size();) {
    notices_.clear();  // of one group, positions ascending: what a page held, as a rule
    for (; begin < bits.size(); ++begin) {
      const Notice n = Notice::unpack(bits[begin]);
      if (!notices_.empty() && !notices_.back().precedes(n)) break;
      notices_.push_back(n);
    }
    for (std::uint32_t s = placement.first_shard(rank.value); s < placement.first_shard(rank.value + 1); ++s) shard(ShardId(s)).forget_copies(notices_);
  }
}

void Owner::take_in(const Received& r) {
  const ModelShape& model = geometry_->spec().model;
  const HeadSlice slice = geometry_->slice(Rank(r.segment->rank));
  const std::size_t k = geometry_->needs_experts() ? geometry_->top_k() : 0;
  const std::size_t pb = geometry_->payload_bytes();
  const std::size_t entry_bytes = geometry_->entry_bytes(slice.kv_count);
  const std::size_t k_part = std::size_t{slice.kv_count} * model.d_k * pb;
  for (std::size_t i = 0; i < r.entries.size(); ++i) {
    const std::byte* at = payload_ ? r.entry_payload.data() + i * entry_bytes : nullptr;
    entries_.push_back({&r.entries[i], r.entry_experts.subspan(i * k, k), at, payload_ && !model.mla() ? at + k_part : nullptr});
  }
  for (std::size_t i = 0; i < r.queries.size(); ++i) {
    Query q;
    q.header = &r.queries[i];
    q.request = RequestId(r.queries[i].request);
    q.experts = r.query_experts.subspan(i * k, k);
    q.q = payload_ ? r.query_payload.data() + i * slice.q_count * model.d_k * pb : nullptr;
    q.rank = Rank(r.segment->rank);
    q.process = r.process;
    queries_.push_back(q);
  }
}

void Owner::receive(std::uint32_t layer, std::uint64_t step) {
  layer_ = layer;
  layer_by_expert_ = geometry_->layout(geometry_->layers()[layer]) == Layout::expert;
  step_ = step;
  entries_.clear();
  queries_.clear();
  pending_cursor_ = 0;
  for (const Received& r : unpack()) {
    const Rank rank(r.segment->rank);
    const std::size_t first_answered = pending_cursor_;
    apply_lse(r.lse, rank, r.process);
    apply_notices(r.notices, rank);
    take_in(r);
    receive_sizes(r, std::span(pending_).subspan(first_answered, pending_cursor_ - first_answered));
  }
  finish_mass();
}

void Owner::receive_sizes(const Received& r, std::span<const Pending> answered) {
  const Rank rank(r.segment->rank);
  const HeadSlice slice = geometry_->slice(rank);
  const auto k = static_cast<std::int64_t>(geometry_->needs_experts() ? geometry_->top_k() : 0);
  auto& pairs = received_;
  pairs.clear();  // sources come in runs, so the newest pairs are looked at first
  const auto add = [&](Rank source, ByteClass kind, std::int64_t bytes) {
    auto it = std::find_if(pairs.rbegin(), pairs.rend(), [&](const auto& p) { return p.first == source; });
    if (it == pairs.rend()) {
      pairs.emplace_back(source, ByteCounts{});
      it = pairs.rbegin();
    }
    it->second[static_cast<std::size_t>(kind)] += bytes;
  };
  const auto home = [&](std::uint32_t request) { return (*requests_)[RequestId(request)].home; };
  for (const EntryHeader& e : r.entries) {
    add(home(e.request), ByteClass::kv, geometry_->entry_bytes(slice.kv_count));
    add(home(e.request), ByteClass::headers, static_cast<std::int64_t>(sizeof(EntryHeader)) + 2 * k);
  }
  for (const QueryHeader& q : r.queries) {
    add(home(q.request), ByteClass::q, std::int64_t{slice.q_count} * geometry_->spec().model.d_k * geometry_->payload_bytes());
    add(home(q.request), ByteClass::headers, static_cast<std::int64_t>(sizeof(QueryHeader)) + 2 * k);
  }
  for (const Pending& p : answered) add(p.home, ByteClass::lse, std::int64_t{4} * slice.q_count);
  for (const std::uint32_t source : r.notice_sources) {
    add(Rank(source), ByteClass::notices, 8);
    add(Rank(source), ByteClass::headers, 4);
  }
  for (const auto& [source, counts] : pairs) counters_->received(source, rank, counts);
}

EntryMeta Owner::describe(const Entry& e, Rank home, CopySet& set) const {
  static constexpr std::array<std::uint8_t, max_top_k> whole{};
  const ReplayLayer& replay = geometry_->layers()[layer_];
  EntryMeta meta;
  meta.request = RequestId(e.header->request);
  meta.position = e.header->position;
  meta.home = home;
  meta.experts = e.experts;
  meta.copy_of = {whole.data(), e.experts.size()};
  if (layer_by_expert_) {
    set = plan_copies(geometry_->placement(), home, meta.request, replay.layer.value, meta.position, e.experts);
    if (set.n_copies > 0) {
      meta.copy = static_cast<std::uint8_t>(e.header->copy);
      meta.n_copies = set.n_copies;
      meta.expert = set.expert[meta.copy];
      meta.smaller_copies = set.smaller[meta.copy];
      meta.copy_of = {set.copy_of.data(), e.experts.size()};
    }
  } else if (geometry_->pages_by_expert() && !e.experts.empty()) {
    meta.expert = ExpertId(e.experts[0]);
  }
  return meta;
}

void Owner::count_insertion(const Shard& s) {
  const auto stored = static_cast<std::int64_t>(geometry_->n_head_groups(s.rank()));
  counters_->page_bytes_moved(s.rank(), geometry_->entry_bytes(geometry_->slice(s.rank()).kv_count));
  counters_->step.insertions += stored;
  counters_->layers[layer_].insertions += stored;
  counters_->shard_load[s.id().value - first_shard_].insertions += stored;
  counters_->rank_load[s.rank().value - first_.value].insertions += stored;
}

void Owner::admit() {
  const ModelShape& model = geometry_->spec().model;
  const ReplayLayer& replay = geometry_->layers()[layer_];
  const std::size_t pb = geometry_->payload_bytes();
  appends_.clear();
  appended_.clear();
  grown_.clear();
  for (const Entry& e : entries_) {
    const RequestTable::Row& row = (*requests_)[RequestId(e.header->request)];
    Shard& s = shard(ShardId(e.header->shard));
    if (grown_.empty() || grown_.back() != s.rank()) grown_.push_back(s.rank());
    CopySet set;
    const EntryMeta meta = describe(e, row.home, set);
    for (std::uint32_t hg = 0; hg < geometry_->n_head_groups(s.rank()); ++hg) {
      Group& group = s.find_or_add(meta.request, layer_, hg, row.home, row.total_tokens);
      const Shard::Stored stored = s.append(group, meta, step_);
      counters_->digest.add(
          {step_, replay.layer.value, Decision::admit, meta.request.value, meta.position, meta.expert.value, s.id().value << 8 | hg, meta.copy});
      appended_.emplace_back(s.id().value - first_shard_, stored.page);
      if (!payload_) continue;
      const std::size_t head = std::size_t{hg} * geometry_->heads_per_group();
      if (geometry_->scores_payload()) score_payload(s, s.at(stored.page, stored.slot), e, hg);
      appends_.push_back({stored.block, stored.slot, e.k + head * model.d_k * pb, e.v != nullptr ? e.v + head * model.d_v * pb : nullptr,
                          stored.fresh});
    }
    count_insertion(s);
  }
  copy_recalled();
  if (payload_ && !appends_.empty()) backend_->append(appends_);
}

void Owner::reply() {
  const ModelShape& model = geometry_->spec().model;
  const bool half = geometry_->spec().combine == CombineType::bf16;
  for (std::size_t begin = 0; begin < queries_.size();) {
    std::size_t end = begin;
    while (end < queries_.size() && queries_[end].rank == queries_[begin].rank && queries_[end].process == queries_[begin].process) ++end;
    const Rank rank = queries_[begin].rank;
    const HeadSlice slice = geometry_->slice(rank);
    std::vector<PartialHeader> headers;
    std::vector<std::uint32_t> rows, probe;
    const std::int64_t bytes = std::int64_t{slice.q_count} * (8 + std::int64_t{model.d_v} * (half ? 2 : 4));
    for (std::size_t i = begin; i < end; ++i) {
      const Query& q = queries_[i];
      if (q.n_probe > 0) probe.insert(probe.end(), &probe_words_[q.first_probe], &probe_words_[q.first_probe] + q.n_probe);
      if (q.n_read == 0) continue;
      headers.push_back({q.header->query, (*requests_)[RequestId(q.header->request)].home.value});
      rows.push_back(q.first_row);
    }
    for (std::size_t i = 0; i < headers.size();) {
      std::size_t j = i;
      while (j < headers.size() && headers[j].home == headers[i].home) ++j;
      ByteCounts counts{};
      counts[static_cast<std::size_t>(ByteClass::partial)] = static_cast<std::int64_t>(j - i) * bytes;
      counts[static_cast<std::size_t>(ByteClass::headers)] = static_cast<std::int64_t>((j - i) * sizeof(PartialHeader));
      counters_->sent(rank, Rank(headers[i].home), counts, layer_);
      i = j;
    }
    const CombineSegment segment{rank.value, static_cast<std::uint32_t>(headers.size()), static_cast<std::uint32_t>(probe.size()), 0};
    WireWriter out(transport_->outbox(queries_[begin].process));
    out.put(&segment, 1);
    out.put(headers.data(), headers.size());
    if (payload_) write_partials(out, rows, slice.q_count, half);
    out.put(probe.data(), probe.size());
    begin = end;
  }
  keep_pending();
}

void Owner::write_partials(WireWriter& out, std::span<const std::uint32_t> rows, std::uint32_t heads, bool half) {
  for (const std::uint32_t row : rows) out.add(&m_[row], heads);
  out.pad();
  for (const std::uint32_t row : rows) out.add(&l_[row], heads);
  out.pad();
  const std::size_t d_v = geometry_->spec().model.d_v, n = heads * d_v;
  std::vector<std::uint16_t> rounded(half ? n : 0);
  for (const std::uint32_t row : rows) {
    const float* from = &o_[row * d_v];
    if (half) {
      std::transform(from, from + n, rounded.begin(), [](float x) {
        const std::uint32_t bits = bits_of(x);
        return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);  // to nearest, ties to even
      });
      out.add(rounded.data(), n);
    } else {
      out.add(from, n);
    }
  }
  out.pad();
}

std::int64_t Owner::buffer_bytes() const {
  const auto bytes = [](const auto& v) { return static_cast<std::int64_t>(v.capacity() * sizeof(v[0])); };
  return bytes(q_rows_) + bytes(m_) + bytes(l_) + bytes(o_) + bytes(logits_) + bytes(pending_logits_) + bytes(tasks_) + bytes(reads_) +
         bytes(masks_) + choice_.buffer_bytes();
}

}  // namespace moekv
