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
      payload_(backend.has_payload()),
      copies_matter_(geometry.several_copies()) {
  const RunSpec& spec = geometry.spec();
  const std::uint32_t end_shard = geometry.placement().first_shard(end.value);
  const std::uint64_t block = geometry.raw_format(geometry.heads_per_group()).block_bytes();
  // Virtual room only; what is really taken grows with use and is reported.
  const std::uint64_t room = spec.memory.shard_bytes > 0 ? 2 * spec.memory.shard_bytes : std::uint64_t{64} << 30;
  const auto max_pages = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(room / block, 1024, 1U << 30));
  shards_.reserve(end_shard - first_shard_);
  for (std::uint32_t s = first_shard_; s < end_shard; ++s) shards_.emplace_back(geometry, ShardId(s), backend, max_pages);
}

void Owner::receive(std::uint32_t layer, std::uint64_t step) {
  layer_ = layer;
  layer_by_expert_ = geometry_->layout(geometry_->layers()[layer]) == Layout::expert;
  step_ = step;
  entries_.clear();
  queries_.clear();
  const ModelShape& model = geometry_->spec().model;
  const std::size_t k = geometry_->needs_experts() ? geometry_->top_k() : 0;
  std::vector<Received> all;
  for (int p = 0; p < transport_->n_processes(); ++p) {
    WireReader in(transport_->received(p));
    while (!in.done()) {
      Received r;
      r.segment = &in.take<DispatchSegment>(1)[0];
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
      all.push_back(r);
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const Received& a, const Received& b) { return a.segment->rank < b.segment->rank; });

  pending_cursor_ = 0;
  for (const Received& r : all) {
    const Rank rank(r.segment->rank);
    const HeadSlice slice = geometry_->slice(rank);
    const std::size_t first_answered = pending_cursor_;
    apply_lse(r.lse, rank, r.process);
    for (const std::uint64_t bits : r.notices) {
      const Notice n = Notice::unpack(bits);
      const Placement& placement = geometry_->placement();
      for (std::uint32_t s = placement.first_shard(rank.value); s < placement.first_shard(rank.value + 1); ++s) {
        shard(ShardId(s)).forget_copy(n.request, n.layer, n.position, n.copy);
      }
    }
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
      q.experts = r.query_experts.subspan(i * k, k);
      q.q = payload_ ? r.query_payload.data() + i * slice.q_count * model.d_k * pb : nullptr;
      q.rank = rank;
      q.process = r.process;
      queries_.push_back(q);
    }
    receive_sizes(r, std::span(pending_).subspan(first_answered, pending_cursor_ - first_answered));
  }
  finish_mass();
}

void Owner::receive_sizes(const Received& r, std::span<const Pending> answered) {
  const Rank rank(r.segment->rank);
  const HeadSlice slice = geometry_->slice(rank);
  const auto k = static_cast<std::int64_t>(geometry_->needs_experts() ? geometry_->top_k() : 0);
  std::vector<std::pair<Rank, ByteCounts>> pairs;  // sources come in runs, so the newest pairs are looked at first
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

void Owner::admit() {
  const ModelShape& model = geometry_->spec().model;
  const ReplayLayer& replay = geometry_->layers()[layer_];
  const std::size_t pb = geometry_->payload_bytes();
  const bool copies = geometry_->layout(replay) == Layout::expert;
  appends_.clear();
  appended_.clear();
  for (const Entry& e : entries_) {
    const RequestTable::Row& row = (*requests_)[RequestId(e.header->request)];
    Shard& s = shard(ShardId(e.header->shard));
    EntryMeta meta;
    meta.request = RequestId(e.header->request);
    meta.position = e.header->position;
    meta.home = row.home;
    meta.experts = e.experts;
    std::array<std::uint8_t, max_top_k> whole{};
    meta.copy_of = {whole.data(), e.experts.size()};
    CopySet set;
    if (copies) {
      set = plan_copies(geometry_->placement(), meta.request, replay.layer.value, meta.position, e.experts);
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
    for (std::uint32_t hg = 0; hg < geometry_->n_head_groups(s.rank()); ++hg) {
      Group& group = s.find_or_add(meta.request, layer_, hg, row.home, row.total_tokens);
      const Shard::Stored stored = s.append(group, meta, step_);
      counters_->digest.add(
          {step_, replay.layer.value, Decision::admit, meta.request.value, meta.position, meta.expert.value, s.id().value << 8 | hg, meta.copy});
      appended_.emplace_back(s.id().value - first_shard_, stored.page);
      if (!payload_) continue;
      const std::size_t head = std::size_t{hg} * geometry_->heads_per_group();
      appends_.push_back({stored.block, stored.slot, e.k + head * model.d_k * pb, e.v != nullptr ? e.v + head * model.d_v * pb : nullptr});
    }
    const auto stored = static_cast<std::int64_t>(geometry_->n_head_groups(s.rank()));
    counters_->step.insertions += stored;
    counters_->layers[layer_].insertions += stored;
    counters_->shard_load[s.id().value - first_shard_].insertions += stored;
    counters_->rank_load[s.rank().value - first_.value].insertions += stored;
  }
  if (payload_ && !appends_.empty()) backend_->append(appends_);
}

bool Owner::slot_is_read(const Shard& shard, std::size_t i, std::span<const std::uint64_t> wanted) {
  const CopyRule rule = geometry_->spec().read.copies;
  const bool copies = copies_matter_ && layer_by_expert_;
  if (copies && !wanted.empty() && rule == CopyRule::surviving && geometry_->chains_are_exact()) {
    const auto blockers = shard.blockers(i);  // the chain was chosen by an expert that the query wants
    std::uint64_t any = 0;
    for (std::size_t w = 0; w < blockers.size(); ++w) any |= blockers[w] & wanted[w];
    return any == 0;
  }
  std::uint32_t read = wanted.empty() ? ~0U : 0U;
  if (!wanted.empty()) {
    const auto experts = shard.experts(i);
    const auto copy_of = shard.copy_of(i);
    for (std::size_t j = 0; j < experts.size(); ++j) {
      if (experts[j] != ExpertId::invalid && (wanted[experts[j] / 64] >> (experts[j] % 64) & 1U) != 0) read |= 1U << (copies ? copy_of[j] : 0);
    }
    if (!copies) return read != 0;
    if ((read >> shard.copy(i) & 1U) == 0) return false;
  }
  if (!copies || rule == CopyRule::paper) return true;
  const std::uint32_t before = shard.smaller_copies(i) & read;
  if (rule == CopyRule::surviving) return (before & shard.alive_copies(i)) == 0;
  if (before != 0 && (before & shard.alive_copies(i)) == 0) counters_->step.masked_copies += 1;
  return before == 0;
}

std::uint32_t Owner::read_page(const Query& query, Shard& shard, std::uint32_t index, std::span<const std::uint64_t> wanted) {
  Page& page = shard.pages()[index];
  const LayerShape& shape = geometry_->layers()[layer_].shape;
  const std::uint32_t high = query.header->position;
  const std::uint32_t low = shape.attention == AttentionKind::window && high + 1 > shape.window_tokens ? high + 1 - shape.window_tokens : 0;
  if (page.min_position > high || page.max_position < low) return 0;
  page.read_step = step_;
  counters_->step.entries_scanned += page.live;
  counters_->layers[layer_].entries_scanned += page.live;
  counters_->shard_load[shard.id().value - first_shard_].load += page.live;
  counters_->rank_load[shard.rank().value - first_.value].load += page.live;
  const bool in_range = page.min_position >= low && page.max_position <= high;
  const bool all_copies = !copies_matter_ || !layer_by_expert_;
  std::uint32_t read = 0;
  PageRead entry{page.block, page.used, PageRead::all_slots};
  if (in_range && all_copies && wanted.empty() && page.live == page.used && query.header->probe == 0) {
    read = page.used;
  } else {
    const bool by_slot = !wanted.empty() || (!all_copies && geometry_->spec().read.copies == CopyRule::hash);
    const std::size_t first_word = masks_.size();
    const std::uint32_t n_words = (page.used + 63U) / 64;
    for (std::uint32_t w = 0; w < n_words; ++w) {
      std::uint64_t bits = shard.live_words(index)[w];
      if (!all_copies && !by_slot) bits &= shard.primary_words(index)[w];
      for (std::uint64_t rest = bits; rest != 0 && (by_slot || !in_range || query.header->probe != 0); rest &= rest - 1) {
        const auto slot = static_cast<std::uint32_t>(w * 64 + static_cast<std::uint32_t>(std::countr_zero(rest)));
        const std::size_t i = shard.at(index, slot);
        const bool keep = shard.position(i) >= low && shard.position(i) <= high && (!by_slot || slot_is_read(shard, i, wanted));
        if (!keep) bits &= ~(1ULL << (slot % 64));
        if (keep && query.header->probe != 0) probe_positions_.push_back(shard.position(i));
      }
      masks_.push_back(bits);
      read += static_cast<std::uint32_t>(std::popcount(bits));
    }
    if (read == 0) {
      masks_.resize(first_word);
      return 0;
    }
    entry.mask = static_cast<std::uint32_t>(first_word);
    if (read == page.used) {
      masks_.resize(first_word);
      entry.mask = PageRead::all_slots;
    }
  }
  counters_->page_bytes_read(shard.rank(), static_cast<std::int64_t>(geometry_->raw_format(1).head_bytes()) * page.used / geometry_->page_slots());
  if (payload_) {
    reads_.push_back(entry);
    task_pages_.push_back(index);
  }
  return read;
}

void Owner::build_group(Query& query, std::uint32_t shard_index, Group& group, std::uint32_t base_row) {
  Shard& s = shards_[shard_index];
  const HeadSlice slice = geometry_->slice(query.rank);
  const bool routed = geometry_->spec().read.scope == ReadScope::routed && geometry_->layers()[layer_].key_row >= 0;
  const std::size_t first_read = reads_.size();
  const std::size_t first_probe = probe_positions_.size();
  std::uint32_t read = 0;
  std::span<const std::uint64_t> wanted = routed ? std::span<const std::uint64_t>(query_words_) : std::span<const std::uint64_t>();
  for (const std::uint32_t c : group.order) {
    const Chain& chain = group.chains[c];
    if (routed && geometry_->chains_are_exact() &&
        (!chain.expert.valid() || (query_words_[chain.expert.value / 64] >> (chain.expert.value % 64) & 1U) == 0))
      continue;
    for (const std::uint32_t p : chain.pages) read += read_page(query, s, p, wanted);
  }
  if (group.head_group > 0) probe_positions_.resize(first_probe);  // every head group holds the same tokens unless evicted apart: one list is enough
  s.mark_queried(group, step_, query.experts);
  counters_->step.entries_wanted += read;
  counters_->layers[layer_].entries_wanted += read;
  query.n_read += read;
  if (!payload_) return;
  AttendTask task;
  task.first_page = static_cast<std::uint32_t>(first_read);
  task.n_pages = static_cast<std::uint32_t>(reads_.size() - first_read);
  task.query = static_cast<std::uint32_t>(&query - queries_.data());
  task.n_kv_heads = geometry_->head_group_width(query.rank, group.head_group);
  task.group = slice.group();
  task.q_head = group.head_group * geometry_->heads_per_group() * task.group;
  task.out = base_row + task.q_head;
  task.logits = n_logits_;
  std::uint64_t slots = 0;
  for (std::size_t i = first_read; i < reads_.size(); ++i) slots += reads_[i].n_slots;
  if (geometry_->needs_mass()) n_logits_ += slots * task.n_kv_heads * task.group;
  tasks_.push_back(task);
  task_shard_.push_back(shard_index);
}

void Owner::build_query(Query& query) {
  const Placement& placement = geometry_->placement();
  query_words_.assign((geometry_->n_experts() + 63) / 64, 0);
  for (const std::uint16_t e : query.experts) {
    if (e != ExpertId::invalid) query_words_[e / 64] |= 1ULL << (e % 64);
  }
  query.first_task = static_cast<std::uint32_t>(tasks_.size());
  query.first_probe = static_cast<std::uint32_t>(probe_positions_.size());
  query.first_part = static_cast<std::uint32_t>(part_rows_.size());
  const std::uint32_t heads = geometry_->slice(query.rank).q_count;
  for (std::uint32_t s = placement.first_shard(query.rank.value); s < placement.first_shard(query.rank.value + 1); ++s) {
    Shard& owner = shard(ShardId(s));
    bool any = false;
    for (std::uint32_t hg = 0; hg < geometry_->n_head_groups(query.rank); ++hg) {
      Group* group = owner.find(RequestId(query.header->request), layer_, hg);
      if (group == nullptr) continue;
      build_group(query, s - first_shard_, *group, n_rows_);
      any = true;
    }
    if (!any) continue;
    part_rows_.push_back(n_rows_);
    n_rows_ += heads;
  }
  query.n_parts = static_cast<std::uint32_t>(part_rows_.size()) - query.first_part;
  query.n_tasks = static_cast<std::uint32_t>(tasks_.size()) - query.first_task;
  query.n_probe = static_cast<std::uint32_t>(probe_positions_.size()) - query.first_probe;
  counters_->digest.add({step_, geometry_->layers()[layer_].layer.value, Decision::read, query.header->request, query.header->position, 0,
                         query.rank.value, query.n_read});
}

void Owner::attend() {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  tasks_.clear();
  task_shard_.clear();
  reads_.clear();
  task_pages_.clear();
  probe_positions_.clear();
  masks_.clear();
  part_rows_.clear();
  n_rows_ = 0;
  n_logits_ = 0;
  for (Query& query : queries_) build_query(query);
  const auto listed = Clock::now();
  select_ns += (listed - start).count();
  if (payload_) {
    run_kernel();
    merge_shards();
  }
  decode_ns += (Clock::now() - listed).count();
}

void Owner::run_kernel() {
  const ModelShape& model = geometry_->spec().model;
  const std::size_t pb = geometry_->payload_bytes();
  std::uint32_t q_row_heads = 0;
  for (const Query& query : queries_) q_row_heads = std::max(q_row_heads, geometry_->slice(query.rank).q_count);
  q_rows_.resize(queries_.size() * q_row_heads * model.d_k * pb);
  for (std::size_t i = 0; i < queries_.size(); ++i) {
    std::memcpy(q_rows_.data() + i * q_row_heads * model.d_k * pb, queries_[i].q, std::size_t{geometry_->slice(queries_[i].rank).q_count} * model.d_k * pb);
  }
  // Rows of head groups that a shard does not hold stay empty partials.
  m_.assign(n_rows_, -std::numeric_limits<float>::infinity());
  l_.assign(n_rows_, 0.0F);
  o_.assign(std::size_t{n_rows_} * model.d_v, 0.0F);
  logits_.resize(n_logits_);
  AttendBatch batch{tasks_, reads_, masks_, q_rows_.data(), geometry_->spec().payload.element, q_row_heads, model.d_k, model.d_v,
                    geometry_->softmax_scale(), m_.data(), l_.data(), o_.data(), geometry_->needs_mass() ? logits_.data() : nullptr};
  backend_->attend(batch);
  backend_->sync();
}

void Owner::merge_shards() {
  const ModelShape& model = geometry_->spec().model;
  for (Query& query : queries_) query.first_row = query.n_parts > 0 ? part_rows_[query.first_part] : no_index;
  if (std::none_of(queries_.begin(), queries_.end(), [](const Query& q) { return q.n_parts > 1; })) return;
  merge_offsets_.assign(1, 0);
  merge_parts_.clear();
  for (Query& query : queries_) {
    if (query.n_parts == 0) continue;
    query.first_row = static_cast<std::uint32_t>(merge_offsets_.size() - 1);
    for (std::uint32_t h = 0; h < geometry_->slice(query.rank).q_count; ++h) {
      for (std::uint32_t i = 0; i < query.n_parts; ++i) merge_parts_.push_back(part_rows_[query.first_part + i] + h);
      merge_offsets_.push_back(static_cast<std::uint32_t>(merge_parts_.size()));
    }
  }
  const std::size_t rows = merge_offsets_.size() - 1;
  merged_m_.resize(rows);
  merged_l_.resize(rows);
  merged_o_.resize(rows * model.d_v);
  backend_->merge({merge_offsets_, merge_parts_, m_.data(), l_.data(), o_.data(), model.d_v, nullptr, merged_m_.data(), merged_l_.data(), merged_o_.data()});
  backend_->sync();
  m_.swap(merged_m_);
  l_.swap(merged_l_);
  o_.swap(merged_o_);
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
      if (q.n_probe > 0) {
        probe.push_back(q.header->query);
        probe.push_back(q.n_probe);
        probe.insert(probe.end(), &probe_positions_[q.first_probe], &probe_positions_[q.first_probe] + q.n_probe);
      }
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
  const std::size_t d_v = geometry_->spec().model.d_v;
  std::vector<float> m, l;
  for (const std::uint32_t row : rows) {
    m.insert(m.end(), &m_[row], &m_[row] + heads);
    l.insert(l.end(), &l_[row], &l_[row] + heads);
  }
  out.put(m.data(), m.size());
  out.put(l.data(), l.size());
  const std::size_t n = heads * d_v;
  std::byte* to = out.reserve(rows.size() * n * (half ? 2 : 4));
  for (const std::uint32_t row : rows) {
    const float* from = &o_[std::size_t{row} * d_v];
    if (!half) {
      std::memcpy(to, from, n * 4);
      to += n * 4;
      continue;
    }
    for (std::size_t i = 0; i < n; ++i, to += 2) {
      const std::uint32_t bits = bits_of(from[i]);
      const auto rounded = static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);  // to nearest, ties to even
      std::memcpy(to, &rounded, 2);
    }
  }
}

void Owner::keep_pending() {
  pending_.clear();
  if (!geometry_->needs_mass()) return;
  for (const Query& q : queries_) {
    if (q.n_read > 0) pending_.push_back({q.rank, (*requests_)[RequestId(q.header->request)].home, q.process, q.first_task, q.n_tasks});
  }
  pending_tasks_.swap(tasks_);
  pending_shards_.swap(task_shard_);
  pending_reads_.swap(reads_);
  pending_pages_.swap(task_pages_);
  pending_logits_.swap(logits_);
}

void Owner::apply_lse(std::span<const float> lse, Rank rank, int process) {
  const std::uint32_t heads = geometry_->slice(rank).q_count;
  for (std::size_t at = 0; at < lse.size(); at += heads) {
    const Pending& pending = pending_[pending_cursor_++];
    MOEKV_EXPECT(pending.rank == rank && pending.process == process);
    (void)process;
    add_mass(pending, lse.subspan(at, heads));
  }
}

void Owner::add_mass(const Pending& pending, std::span<const float> lse) {
  const Reducer reducer = geometry_->spec().eviction.head_reducer;
  for (std::uint32_t t = pending.first_task; t < pending.first_task + pending.n_tasks; ++t) {
    const AttendTask& task = pending_tasks_[t];
    Shard& s = shards_[pending_shards_[t]];
    const std::uint32_t heads = task.n_kv_heads * task.group;
    std::uint64_t slots = 0;
    for (std::uint32_t p = 0; p < task.n_pages; ++p) slots += pending_reads_[task.first_page + p].n_slots;
    std::uint64_t column = 0;
    for (std::uint32_t p = 0; p < task.n_pages; ++p) {
      const PageRead& read = pending_reads_[task.first_page + p];
      const std::uint32_t page = pending_pages_[task.first_page + p];
      mass_pages_.emplace_back(pending_shards_[t], page);
      for (std::uint32_t slot = 0; slot < read.n_slots; ++slot, ++column) {
        float sum = 0, most = 0;
        for (std::uint32_t h = 0; h < heads; ++h) {
          const float a = exp_fixed(pending_logits_[task.logits + h * slots + column] - lse[task.q_head + h]);
          sum += a;
          most = a > most ? a : most;
        }
        s.step_mass(s.at(page, slot)) += reducer == Reducer::max ? most : reducer == Reducer::sum ? sum : sum / static_cast<float>(heads);
      }
    }
  }
}

void Owner::finish_mass() {
  std::sort(mass_pages_.begin(), mass_pages_.end());
  mass_pages_.erase(std::unique(mass_pages_.begin(), mass_pages_.end()), mass_pages_.end());
  for (const auto& [shard_index, page] : mass_pages_) {
    Shard& s = shards_[shard_index];
    for (std::uint32_t slot = 0; slot < s.pages()[page].used; ++slot) {
      const std::size_t i = s.at(page, slot);
      const float a = std::exchange(s.step_mass(i), 0.0F);
      if (!s.live(page, slot)) continue;
      s.pages()[page].mass += a;
      s.state(i) = std::visit([&](const auto& rule) -> float {
        if constexpr (requires { rule.mass(0.0F, a); }) return rule.mass(s.state(i), a);
        return 0.0F;
      }, geometry_->spec().eviction.rule);
    }
  }
  mass_pages_.clear();
  pending_.clear();
}

void Owner::seal() {
  if (!geometry_->compressed()) return;
  const auto start = std::chrono::steady_clock::now();
  for (const auto& page : appended_) unsealed_.push_back(page);
  std::sort(unsealed_.begin(), unsealed_.end());
  unsealed_.erase(std::unique(unsealed_.begin(), unsealed_.end()), unsealed_.end());
  std::vector<SealOp> ops;
  const std::uint32_t window = geometry_->spec().compression.raw_window_tokens;
  std::erase_if(unsealed_, [&](const auto& item) {
    Shard& s = shards_[item.first];
    const Page& page = s.pages()[item.second];
    if (page.group == no_index || page.sealed) return true;
    const Group& group = s.groups()[page.group];
    if (group.chains[page.chain].side) return true;
    if (group.layer != layer_) return false;
    const RequestTable::Row& row = (*requests_)[group.request];
    const bool prompt_ends = row.step == step_ && row.length == row.prompt_tokens;
    const bool full = page.used == geometry_->page_slots() || (prompt_ends && page.used >= min_sealed_entries);
    if (!full || page.max_position + window >= row.length) return false;
    ops.push_back(s.seal(item.second));
    return true;
  });
  if (payload_ && !ops.empty()) {
    backend_->seal(ops);
    backend_->sync();
  }
  encode_ns += (std::chrono::steady_clock::now() - start).count();
}

std::int64_t Owner::buffer_bytes() const {
  const auto bytes = [](const auto& v) { return static_cast<std::int64_t>(v.capacity() * sizeof(v[0])); };
  return bytes(q_rows_) + bytes(m_) + bytes(l_) + bytes(o_) + bytes(logits_) + bytes(pending_logits_) + bytes(merged_m_) + bytes(merged_l_) + bytes(merged_o_) +
         bytes(tasks_) + bytes(reads_) + bytes(masks_);
}

}  // namespace moekv
