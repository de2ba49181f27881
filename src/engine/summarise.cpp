// Totals, cache behaviour, memory and traffic of a run.
#include "engine/summarise.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/summary_list.hpp"

namespace moekv {
namespace {

using S = StepRecord;
using enum ClaimClass;

/// Fields that describe a moment (the end of the window), so that their largest value over windows is reported and not their sum.
bool is_level(std::int64_t S::*field) {
  constexpr std::int64_t S::*levels[] = {&S::resident_entries,  &S::resident_distinct, &S::sealed_entries, &S::allocated_pages,
                                         &S::used_slots,        &S::kv_bytes_raw,      &S::kv_bytes_codes, &S::codec_table_bytes,
                                         &S::kv_bytes_stored,   &S::kv_peak_bytes,     &S::metadata_bytes, &S::buffer_bytes,
                                         &S::bounds_bytes,      &S::host_entries,      &S::host_bytes,     &S::written_distinct,
                                         &S::evictable_entries, &S::free_block_bytes,  &S::free_run_bytes, &S::comm_buffer_bytes};
  return std::find(std::begin(levels), std::end(levels), field) != std::end(levels);
}

/// Rows of the windows that begin at or after `first_step`; rows are in the order of windows.
template <class Record>
std::span<const Record> warm_rows(const std::vector<Record>& rows, std::int64_t first_step) {
  return {std::find_if(rows.begin(), rows.end(), [&](const Record& row) { return row.first_step >= first_step; }), rows.end()};
}

/// Number of entities of each kind that have rows: highest index + 1.
std::array<std::int64_t, 4> count_entities(const std::vector<LoadRecord>& loads) {
  std::array<std::int64_t, 4> n{};
  for (const LoadRecord& load : loads) {
    std::int64_t& most = n.at(static_cast<std::size_t>(load.entity));
    most = std::max(most, load.index + 1);
  }
  return n;
}

}  // namespace

void add_totals(std::span<const StepRecord> steps, SummaryList& list) {
  list.add("n_windows", {"1", counted, "windows of steps that count"}, static_cast<double>(steps.size()));
  list.add("n_steps", {"1", counted, "steps that count"}, total(steps, &S::n_steps));
  for_each_field(S::metrics, [&](const auto& m) {
    if (m.combine == Combine::key) return;
    if (is_level(m.member)) {
      list.add(std::string(m.name), {m.unit, m.claim, std::string(m.definition) + "; largest over windows"}, largest(steps, m.member));
    } else {
      list.add(std::string(m.name), {m.unit, m.claim, std::string(m.definition) + "; sum over windows"}, total(steps, m.member));
    }
  });
}

void add_cache(std::span<const StepRecord> steps, std::string_view suffix, SummaryList& list) {
  const auto ratio = [&](const std::string& name, std::string definition, std::int64_t S::*top, std::int64_t S::*bottom) {
    list.add_ratio(name + std::string(suffix), {"1", counted, std::move(definition)}, total(steps, top), total(steps, bottom));
  };
  ratio("hit_ratio", "n_hit / n_req", &S::n_hit, &S::n_req);
  ratio("miss_ratio", "n_miss / n_req", &S::n_miss, &S::n_req);
  ratio("byte_miss_ratio", "missed_bytes / requested_bytes", &S::missed_bytes, &S::requested_bytes);
  const double tokens = total(steps, &S::requested_entries);
  list.add_ratio("token_hit_rate" + std::string(suffix),
                 {"1", counted, "1 - missed_entries / requested_entries: tokens served over tokens asked for"},
                 tokens - total(steps, &S::missed_entries), tokens);
  ratio("first_lookup_ratio", "first_lookups / n_req: lookups of pages without an earlier one", &S::first_lookups, &S::n_req);
  ratio("local_hit_ratio", "hit_local / n_req: hits on the home rank of the request", &S::hit_local, &S::n_req);
  ratio("node_hit_ratio", "hit_node / n_req: hits on another rank of the home rank's node", &S::hit_node, &S::n_req);
  ratio("remote_hit_ratio", "hit_remote / n_req: hits on a rank of another node", &S::hit_remote, &S::n_req);
  ratio("host_hit_ratio", "hit_host / n_req: misses that the host tier serves", &S::hit_host, &S::n_req);
  ratio("premature_eviction_ratio", "premature_evictions / demoted_pages", &S::premature_evictions, &S::demoted_pages);
  list.add_ratio("write_ratio" + std::string(suffix),
                 {"1", counted, "(missed_bytes + demoted_bytes, which the host tier writes again) / requested_bytes"},
                 total(steps, &S::missed_bytes) + total(steps, &S::demoted_bytes), total(steps, &S::requested_bytes));
  ratio("read_amplification", "entries_scanned / entries_wanted", &S::entries_scanned, &S::entries_wanted);
  if (total(steps, &S::pages_considered) > 0)
    ratio("select_ratio", "pages_selected / pages_considered: share of its pages that a query reads", &S::pages_selected, &S::pages_considered);
  ratio("churn", "evictions / insertions", &S::evictions, &S::insertions);
  ratio("empty_read_ratio", "empty_reads / queries", &S::empty_reads, &S::queries);
  ratio("masked_copy_ratio", "masked_copies / entries_wanted", &S::masked_copies, &S::entries_wanted);
  list.add_ratio("cross_shard_switch_rate" + std::string(suffix), {"1", counted, "cross_shard_switches per 1000 shard_reads"},
                 1000 * total(steps, &S::cross_shard_switches), total(steps, &S::shard_reads));
}

void add_memory(std::span<const StepRecord> steps, std::int64_t page_slots, std::int64_t payload_bytes, std::int64_t capacity_bytes,
                SummaryList& list) {
  const double raw = total(steps, &S::kv_bytes_raw), pages = total(steps, &S::kv_bytes_stored), metadata = total(steps, &S::metadata_bytes);
  const double resident = total(steps, &S::resident_entries), slots = total(steps, &S::allocated_pages) * static_cast<double>(page_slots);
  const std::string windows = ", summed over the ends of windows";
  list.add_ratio("sealed_fraction", {"1", counted, "sealed_entries / resident_entries" + windows}, total(steps, &S::sealed_entries), resident);
  list.add_ratio("evictable_fraction", {"1", counted, "evictable_entries / resident_entries" + windows}, total(steps, &S::evictable_entries),
                 resident);
  const double written = total(steps, &S::written_distinct);
  list.add_ratio("token_keep_fraction", {"1", counted, "resident_distinct / written_distinct" + windows},
                 written > 0 ? total(steps, &S::resident_distinct) : 0, written);
  const double distinct = total(steps, &S::resident_distinct), entries = resident + total(steps, &S::host_entries);
  const bool known = distinct > 0 || entries == 0;  // not under read.copies paper
  list.add_ratio("pages_replicated",
                 {"1", counted, "resident copies of entries beyond the first of each, in pages of page.slots, mean over the ends of windows"},
                 known ? (entries - distinct) / static_cast<double>(page_slots) : 0, known ? static_cast<double>(steps.size()) : 0);
  const double free_bytes = total(steps, &S::free_block_bytes);
  list.add_ratio("external_frag", {"1", counted, "1 - free_run_bytes / free_block_bytes" + windows}, free_bytes - total(steps, &S::free_run_bytes),
                 free_bytes);
  list.add_ratio("replication_factor", {"1", counted, "(resident_entries + host_entries) / resident_distinct" + windows}, entries, distinct);
  list.add_ratio("compression_factor", {"1", counted, "kv_bytes_raw / (kv_bytes_stored + metadata_bytes)" + windows}, raw,
                 raw > 0 ? pages + metadata : 0);
  list.add_ratio("code_compression_factor", {"1", counted, "kv_bytes_raw / kv_bytes_codes" + windows}, raw, total(steps, &S::kv_bytes_codes));
  list.add_ratio("page_compression_factor", {"1", counted, "kv_bytes_raw / kv_bytes_stored, page blocks only" + windows}, raw, pages);
  list.add_ratio("removed_fraction", {"1", counted, "1 - kv_bytes_stored / kv_bytes_raw" + windows}, raw - pages, raw);
  list.add_ratio("bits_per_element", {"bit", counted, "8 kv_bytes_stored / values of the live entries" + windows}, 8 * pages,
                 raw / static_cast<double>(payload_bytes));
  list.add_ratio("internal_frag", {"1", counted, "1 - used_slots / slots of allocated pages" + windows}, slots - total(steps, &S::used_slots), slots);
  list.add_ratio("metadata_per_entry", {"byte", counted, "metadata_bytes / resident_entries" + windows}, metadata, resident);
  if (capacity_bytes > 0) {
    list.add("kv_capacity_bytes", {"byte", counted, "memory.shard_bytes of all shards"}, static_cast<double>(capacity_bytes));
    list.add_ratio("kv_usage", {"1", counted, "kv_peak_bytes / kv_capacity_bytes"}, largest(steps, &S::kv_peak_bytes),
                   static_cast<double>(capacity_bytes));
  }
}

// NOLINTNEXTLINE(readability-function-size): a table
void add_traffic(std::span<const StepRecord> steps, std::span<const TrafficRecord> traffic, std::int64_t ranks, SummaryList& list) {
  double wire = 0;
  for (const StepRecord& s : steps) wire += static_cast<double>(wire_bytes(s));
  list.add("bytes_wire", {"byte", counted, "bytes between different ranks: kv + q + partial + lse + notices + headers + pages"}, wire);
  list.add_ratio("bytes_wire_per_token", {"byte", counted, "bytes_wire / tokens"}, wire, total(steps, &S::tokens));
  list.add_ratio("wire_over_hidden_state", {"1", ClaimClass::modelled, "bytes_wire / hidden_state_bytes of expert parallelism"}, wire,
                 total(steps, &S::hidden_state_bytes));
  list.add_ratio("fanout", {"1", counted, "query_ranks / queries: ranks touched per (query, layer)"}, total(steps, &S::query_ranks),
                 total(steps, &S::queries));
  list.add_ratio("node_fanout", {"1", counted, "query_nodes / queries: nodes touched per (query, layer)"}, total(steps, &S::query_nodes),
                 total(steps, &S::queries));
  list.add_ratio("ranks_per_token", {"1", counted, "store_ranks / distinct_insertions: ranks that a token's copies go to, per (token, layer)"},
                 total(steps, &S::store_ranks), total(steps, &S::distinct_insertions));
  list.add_ratio("nodes_per_token", {"1", counted, "store_nodes / distinct_insertions: nodes that a token's copies go to, per (token, layer)"},
                 total(steps, &S::store_nodes), total(steps, &S::distinct_insertions));
  list.add_ratio("dedup_factor", {"1", counted, "chosen_experts / stored_copies: (token, expert) choices per stored copy"},
                 total(steps, &S::chosen_experts), total(steps, &S::stored_copies));
  if (total(steps, &S::routed_pairs) > 0) {
    const double pairs = total(steps, &S::routed_pairs);
    list.add_ratio("routing_change_rate", {"1", counted, "(token, MoE layer) pairs whose expert set differs from the recorded one / all"},
                   total(steps, &S::routed_changed), pairs);
    list.add_ratio("expert_jaccard", {"1", counted, "experts in both the recorded and the new set / experts in either"},
                   total(steps, &S::experts_kept), total(steps, &S::experts_either));
    list.add_ratio("gate_mass_dropped", {"1", counted, "recorded gate weight of dropped experts per (token, MoE layer) pair"},
                   total(steps, &S::gate_mass_lost_ppm) * 1e-6, pairs);
    list.add_ratio("gate_mass_lost", {"1", counted, "gate_mass_dropped less the weight that the recorded gate would give the gained experts"},
                   (total(steps, &S::gate_mass_lost_ppm) - total(steps, &S::gate_mass_gained_ppm)) * 1e-6, pairs);
    list.add_ratio("store_traffic_change", {"1", counted, "copies stored on other ranks than home / the same had the recorded choice been followed"},
                   total(steps, &S::copies_far), total(steps, &S::copies_far_recorded));
  }
  if (traffic.empty() || ranks < 2) return;
  const auto n = static_cast<std::size_t>(ranks);
  std::vector<double> sent(n), received(n);
  std::vector<double> pairs(n * n);
  for (const TrafficRecord& t : traffic) {
    if (t.source == t.destination) continue;
    const auto bytes = static_cast<double>(all_bytes(t));
    sent[static_cast<std::size_t>(t.source)] += bytes;
    received[static_cast<std::size_t>(t.destination)] += bytes;
    pairs[static_cast<std::size_t>(t.source) * n + static_cast<std::size_t>(t.destination)] += bytes;
  }
  const double most_sent = *std::max_element(sent.begin(), sent.end()), most_received = *std::max_element(received.begin(), received.end());
  list.add("bytes_sent_max", {"byte", counted, "largest number of bytes that one rank sent to others"}, most_sent);
  list.add("bytes_recv_max", {"byte", counted, "largest number of bytes that one rank received from others"}, most_received);
  const double exchange_ns = total(steps, &S::t_dispatch) + total(steps, &S::t_combine), busiest = std::max(most_sent, most_received);
  const std::string algbw = "max over ranks of max(sent, received) / host time of dispatch and combine, packing included";
  list.add_ratio("algbw", {"GB s-1", derived, algbw}, busiest, exchange_ns);
  list.add_ratio("busbw", {"GB s-1", derived, "algbw (n - 1) / n"}, busiest * static_cast<double>(ranks - 1),
                 exchange_ns * static_cast<double>(ranks));
  const double mean_pair = wire > 0 ? wire / static_cast<double>(ranks * (ranks - 1)) : 0;
  list.add("doubly_stochastic_distance",
           {"1", counted, "mean absolute difference from 1 of the row and column sums of the off-diagonal bytes, scaled to sum n"},
           stochastic_distance(pairs, n));
  list.add_ratio("pair_imbalance", {"1", counted, "largest over mean of the off-diagonal (source, destination) bytes"},
                 *std::max_element(pairs.begin(), pairs.end()), mean_pair);
}

std::uint32_t page_slots_of(const RunSpec& spec) {
  if (spec.page.slots > 0) return spec.page.slots;
  const bool by_expert = spec.page.key == PageKey::expert ||
                         (spec.page.key == PageKey::automatic && spec.placement.layout == Layout::expert && spec.placement.dedup == Dedup::none);
  return by_expert ? 16 : 64;
}

std::vector<Summary> summarise(const RunSpec& spec, const RunOutcome& outcome) {
  const auto warmup = static_cast<std::int64_t>(spec.metrics.warmup_steps);
  const auto steps = warm_rows(outcome.steps, warmup);
  const auto loads = warm_rows(outcome.loads, warmup);
  const auto traffic = warm_rows(outcome.traffic, warmup);
  const auto counts = count_entities(outcome.loads);
  const auto n_of = [&](Entity entity) { return counts[static_cast<std::size_t>(entity)]; };
  const std::int64_t capacity = static_cast<std::int64_t>(spec.memory.shard_bytes) * n_of(Entity::shard);
  SummaryList list;
  add_totals(steps, list);
  if (warmup > 0) {
    const double cold = total(std::span(outcome.steps), &S::n_req) - total(steps, &S::n_req);
    list.add("n_warmup_req", {"1", counted, "lookups of the windows that begin before metrics.warmup_steps, left out of all but the *_cold numbers"},
             cold);
    add_cache(outcome.steps, "_cold", list);
  }
  add_cache(steps, "", list);
  add_memory(steps, page_slots_of(spec), element_bits(spec.payload.element) / 8, capacity, list);
  add_codec(spec, warm_rows(outcome.codecs, warmup), list);
  add_traffic(steps, traffic, n_of(Entity::rank), list);
  add_times(steps, outcome.wall_ns, list);
  add_rates(spec, steps, n_of(Entity::rank), outcome.n_processes, list);
  add_waits(loads, total(steps, &S::n_steps), list);
  add_reuse(warm_rows(outcome.histograms, warmup), list);
  const auto t_step = static_cast<std::int64_t>(total(std::span<const StepRecord>(outcome.steps), &S::t_step));
  add_requests(outcome.requests, t_step, list);
  add_slo(spec.metrics, outcome.requests, t_step, list);
  list.add_samples("kv_itl", {"ns", measured, "gap between consecutive output tokens of a request, monotonic clock; KV path only"}, outcome.kv_itl);
  list.add_samples("kv_itl_model", {"ns", ClaimClass::modelled, "gap between consecutive output tokens of a request, virtual clock; KV path only"},
                   outcome.kv_itl_model);
  for (const Entity entity : {Entity::expert, Entity::shard, Entity::rank, Entity::node}) {
    add_balance(loads, entity, list);
    add_layer_balance(outcome.layer_loads, entity, static_cast<std::size_t>(n_of(entity)), list);
  }
  add_skew(spec, outcome.layer_loads, static_cast<std::size_t>(n_of(Entity::expert)), list);
  add_replans(steps, loads, list);
  add_fidelity(outcome.probes, list);
  add_score(spec, outcome, list);
  return list.take();
}

}  // namespace moekv
