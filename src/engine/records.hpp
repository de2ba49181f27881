// Records: flat rows of measurements. A metric is one field of one record, declared once with name, unit, definition, scope and claim class.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/field.hpp"
#include "engine/bound_records.hpp"
#include "engine/statistics.hpp"

namespace moekv {

/// The nine phases of MODEL section 7, in order.
enum class Phase : std::uint8_t { read, route, place, dispatch, admit, attend, combine, touch, record };
inline constexpr std::size_t n_phases = 9;
[[nodiscard]] constexpr std::string_view to_string(Phase p) {
  constexpr std::string_view names[] = {"read", "route", "place", "dispatch", "admit", "attend", "combine", "touch", "record"};
  return names[static_cast<std::size_t>(p)];
}

/// One window of steps, whole job. `first_step` is the key; counts are sums over ranks, times maxima over processes.
struct StepRecord {
  std::int64_t first_step = 0;
  std::int64_t n_steps = 0;
  std::int64_t tokens = 0, prefill_tokens = 0, decode_tokens = 0, queries = 0;
  std::int64_t n_req = 0, n_hit = 0, n_miss = 0, first_lookups = 0, hit_local = 0, hit_node = 0, hit_remote = 0, hit_host = 0;
  std::int64_t requested_bytes = 0, missed_bytes = 0, requested_entries = 0, missed_entries = 0;
  std::int64_t entries_scanned = 0, entries_wanted = 0, masked_copies = 0, empty_reads = 0, attended_bytes = 0, scoring_bytes = 0;
  std::int64_t pages_considered = 0, pages_selected = 0, bounds_bytes_read = 0, bounds_bytes = 0;
  std::int64_t insertions = 0, distinct_insertions = 0, evictions = 0, finished_entries = 0;
  std::int64_t demotions = 0, recalls = 0, demoted_pages = 0, recalled_pages = 0, demoted_bytes = 0, recalled_bytes = 0;
  std::int64_t premature_evictions = 0, host_finished_entries = 0, host_entries = 0, host_bytes = 0;
  std::int64_t overcommit = 0, budget_excess = 0, steps_under_pressure = 0, close_choices = 0, allocations = 0, allocation_error = 0;
  std::int64_t chosen_experts = 0, stored_copies = 0, dedup_merged = 0, stored_home = 0;
  std::int64_t query_ranks = 0, query_nodes = 0, store_ranks = 0, store_nodes = 0;
  std::int64_t expert_reads = 0, shard_reads = 0, cross_shard_switches = 0, cross_shard_stores = 0;
  std::int64_t replans = 0, pages_moved = 0, pages_landed = 0, entries_moved = 0, entries_landed = 0, bytes_moved = 0, replan_evictions = 0, cold_misses = 0;
  std::int64_t plan_load_max_before = 0, plan_load_max_after = 0, plan_load_mean = 0;
  std::int64_t shadow_plans = 0, shadow_weight_bytes = 0, shadow_stores = 0, shadow_saved_bytes = 0;
  std::int64_t resident_entries = 0, resident_distinct = 0, written_distinct = 0, evictable_entries = 0, sealed_entries = 0, allocated_pages = 0,
               used_slots = 0, free_block_bytes = 0, free_run_bytes = 0, sealed_raw_bytes = 0;
  std::int64_t kv_bytes_raw = 0, kv_bytes_codes = 0, kv_bytes_stored = 0, codec_table_bytes = 0, kv_peak_bytes = 0, metadata_bytes = 0, buffer_bytes = 0,
               comm_buffer_bytes = 0;
  std::int64_t capacity_excess_bytes = 0;
  std::int64_t routed_pairs = 0, routed_changed = 0, experts_kept = 0, experts_either = 0, gate_mass_lost_ppm = 0, gate_mass_gained_ppm = 0;
  std::int64_t copies_far = 0, copies_far_recorded = 0;
  std::int64_t bytes_logical = 0, bytes_received = 0, bytes_self = 0;
  std::int64_t wire_kv = 0, wire_q = 0, wire_partial = 0, wire_lse = 0, wire_notices = 0, wire_headers = 0, wire_pages = 0;
  std::int64_t wire_intra = 0, wire_inter = 0, wire_messages = 0, hidden_state_bytes = 0;
  std::int64_t graph_launches = 0, graph_captures = 0, plain_batches = 0;
  std::int64_t t_read = 0, t_route = 0, t_place = 0, t_dispatch = 0, t_admit = 0, t_attend = 0, t_combine = 0, t_touch = 0, t_record = 0;
  std::int64_t t_admit_evict = 0, t_admit_encode = 0, t_attend_select = 0, t_attend_decode = 0, t_demote = 0, t_recall = 0, t_generate = 0, t_model = 0;
  std::int64_t comm_total = 0, comm_exposed = 0, t_step = 0, t_network_model = 0, t_memory_model = 0, t_host_model = 0, t_replan = 0, t_replan_model = 0;

  static constexpr auto metrics = std::array{
      Metric{"first_step", &StepRecord::first_step, "1", "index of the first step of the window", Scope::global, ClaimClass::counted, Combine::key},
      Metric{"n_steps", &StepRecord::n_steps, "1", "steps in the window", Scope::global, ClaimClass::counted, Combine::key},
      Metric{"tokens", &StepRecord::tokens, "1", "tokens that entered the caches (each once, all layers together)", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"prefill_tokens", &StepRecord::prefill_tokens, "1", "tokens of prompt chunks", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"decode_tokens", &StepRecord::decode_tokens, "1", "tokens of decode steps", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"queries", &StepRecord::queries, "1", "(token, layer) pairs that attended", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"n_req", &StepRecord::n_req, "1", "lookups: (page, step) pairs of the access source over all pages written and not finished", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"n_hit", &StepRecord::n_hit, "1", "lookups whose page was resident (at least one live entry) on its owner", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"n_miss", &StepRecord::n_miss, "1", "lookups whose page was not resident", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"first_lookups", &StepRecord::first_lookups, "1", "lookups of pages that were not looked up before; n_req is these and those that /record/histogram counts", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"hit_local", &StepRecord::hit_local, "1", "hits on the home rank of the request", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"hit_node", &StepRecord::hit_node, "1", "hits on another rank of the home rank's node", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"hit_remote", &StepRecord::hit_remote, "1", "hits on a rank of another node", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"hit_host", &StepRecord::hit_host, "1", "lookups whose page lay in the host tier: the misses that a recall serves", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"requested_bytes", &StepRecord::requested_bytes, "byte", "uncompressed bytes of the entries of all looked-up pages", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"missed_bytes", &StepRecord::missed_bytes, "byte", "uncompressed bytes of those entries that were not resident", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"requested_entries", &StepRecord::requested_entries, "1", "entries of all looked-up pages: (token, layer, head group) copies", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"missed_entries", &StepRecord::missed_entries, "1", "those that were not resident", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"entries_scanned", &StepRecord::entries_scanned, "1", "live entries in the pages that queries read", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"entries_wanted", &StepRecord::entries_wanted, "1", "entries that entered a query's softmax", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"masked_copies", &StepRecord::masked_copies, "1", "tokens a query could not read because its chosen copy was evicted while another copy lived (copies: hash)", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"empty_reads", &StepRecord::empty_reads, "1", "queries that found nothing to read", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"pages_considered", &StepRecord::pages_considered, "1", "(query, page) pairs among which queries that select chose: pages with an entry that the query may read", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"pages_selected", &StepRecord::pages_selected, "1", "those that were read", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"bounds_bytes_read", &StepRecord::bounds_bytes_read, "byte", "key bounds read to score pages (none where all of a choice are read)", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"bounds_bytes", &StepRecord::bounds_bytes, "byte", "key bounds of allocated pages, part of metadata_bytes, at the end of the window", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"attended_bytes", &StepRecord::attended_bytes, "byte", "stored bytes (codes and metadata of used slots, all heads) of the pages that attention read, once a query", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"scoring_bytes", &StepRecord::scoring_bytes, "byte", "stored bytes of keys and values that the eviction rule read back to score entries", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"insertions", &StepRecord::insertions, "1", "entries stored (copies)", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"distinct_insertions", &StepRecord::distinct_insertions, "1", "distinct (request, layer, position) stored", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"evictions", &StepRecord::evictions, "1", "entries evicted: dropped, or moved to the host tier", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"demotions", &StepRecord::demotions, "1", "entries moved to the host tier", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"recalls", &StepRecord::recalls, "1", "entries moved back from the host tier, to be read, appended to or sealed", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"demoted_pages", &StepRecord::demoted_pages, "1", "pages moved to the host tier", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"recalled_pages", &StepRecord::recalled_pages, "1", "pages moved back from the host tier", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"demoted_bytes", &StepRecord::demoted_bytes, "byte", "page blocks copied to the host tier", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"recalled_bytes", &StepRecord::recalled_bytes, "byte", "page blocks copied back from the host tier", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"premature_evictions", &StepRecord::premature_evictions, "1", "looked-up pages that went to the host tier at most as many lookups of their budget's pages ago as the budget holds pages", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"host_entries", &StepRecord::host_entries, "1", "entries in the host tier at the end of the window", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"host_bytes", &StepRecord::host_bytes, "byte", "page blocks in the host tier at the end of the window", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"host_finished_entries", &StepRecord::host_finished_entries, "1", "part of finished_entries that lay in the host tier", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"finished_entries", &StepRecord::finished_entries, "1", "live entries freed because their request finished", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"overcommit", &StepRecord::overcommit, "1", "budget units above the budget that protection or pins kept, or that one step read, summed over steps", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"budget_excess", &StepRecord::budget_excess, "1", "budget units that groups held above budget + admitted in the step + overcommit after due evictions, summed over steps; 0 by law", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"steps_under_pressure", &StepRecord::steps_under_pressure, "1", "(group, step) pairs over budget before eviction", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"close_choices", &StepRecord::close_choices, "1", "choices of victims by attention mass where the last victim's score was within 1e-3 of the next one's, relative: another backend may choose otherwise", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"allocations", &StepRecord::allocations, "1", "times that the allocator made the capacities of lists that share a budget during the run (ada, pooled, cake)", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"allocation_error", &StepRecord::allocation_error, "1", "budget units by which capacities do not sum to the equal shares that they replace; 0 by law", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"chosen_experts", &StepRecord::chosen_experts, "1", "(token, layer, expert) choices of the storing key", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"stored_copies", &StepRecord::stored_copies, "1", "copies stored for those choices", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"dedup_merged", &StepRecord::dedup_merged, "1", "choices merged into a copy at the same destination", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"stored_home", &StepRecord::stored_home, "1", "entries stored at home for want of an expert, or of a layer without experts", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"query_ranks", &StepRecord::query_ranks, "1", "ranks touched, summed over queries; fanout = query_ranks / queries", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"query_nodes", &StepRecord::query_nodes, "1", "nodes touched, summed over queries; node_fanout = query_nodes / queries", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"store_ranks", &StepRecord::store_ranks, "1", "ranks that the copies of a token go to, summed over (token, layer)", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"store_nodes", &StepRecord::store_nodes, "1", "nodes of those ranks, summed over (token, layer)", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"replans", &StepRecord::replans, "1", "new plans of experts after the first", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"pages_moved", &StepRecord::pages_moved, "1", "pages that left their shard because it holds no replica of their expert any more", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"pages_landed", &StepRecord::pages_landed, "1", "the same pages, counted where they arrived", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"entries_moved", &StepRecord::entries_moved, "1", "live entries in those pages", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"entries_landed", &StepRecord::entries_landed, "1", "the same entries, counted where they arrived", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"bytes_moved", &StepRecord::bytes_moved, "byte", "blocks of those pages and tables that they share, to other shards of the same rank included", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"replan_evictions", &StepRecord::replan_evictions, "1", "entries evicted by a replan itself: what moved in, or a smaller budget, left no room for them (part of evictions)", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"cold_misses", &StepRecord::cold_misses, "1", "lookups of pages whose last entries a replan evicted (part of n_miss)", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"plan_load_max_before", &StepRecord::plan_load_max_before, "1", "choices on the busiest shard in the window of a replan had the old plan served them, summed over layers and replans", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"plan_load_max_after", &StepRecord::plan_load_max_after, "1", "the same under the new plan", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"plan_load_mean", &StepRecord::plan_load_mean, "1", "choices on a shard in those windows, mean over shards, summed likewise", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"shadow_plans", &StepRecord::shadow_plans, "1", "shadowed (layer, expert) pairs, summed over plans", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"shadow_weight_bytes", &StepRecord::shadow_weight_bytes, "byte", "parameters of newly shadowed experts, copied to every other rank as the cost rule counts them", Scope::global, ClaimClass::modelled, Combine::sum},
      Metric{"shadow_stores", &StepRecord::shadow_stores, "1", "copies stored on the home rank because their expert is shadowed", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"shadow_saved_bytes", &StepRecord::shadow_saved_bytes, "byte", "K and V of those that a replica on another rank would have taken", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"expert_reads", &StepRecord::expert_reads, "1", "(query, expert) pairs of routed reads", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"shard_reads", &StepRecord::shard_reads, "1", "those pairs once for each shard that may hold entries of the expert and whose rank holds some of the request and layer", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"cross_shard_switches", &StepRecord::cross_shard_switches, "1", "successive shard_reads of one request, layer and expert that change shard", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"cross_shard_stores", &StepRecord::cross_shard_stores, "1", "successive stores of one request, layer and expert that change shard", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"resident_distinct", &StepRecord::resident_distinct, "1", "distinct (request, layer, position, head group or a rank's part of it) with a live entry, in either tier, at the end of the window, as owners know it: they are told of other copies that the window's last step evicted in the next; 0 under read.copies paper", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"written_distinct", &StepRecord::written_distinct, "1", "distinct (request, layer, position, head group or part) written and not finished, at the end of the window; 0 under read.copies paper", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"resident_entries", &StepRecord::resident_entries, "1", "live entries at the end of the window", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"evictable_entries", &StepRecord::evictable_entries, "1", "live entries that the eviction policy may take (in page units: of pages without a protected or pinned entry) at the end of the window", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"sealed_entries", &StepRecord::sealed_entries, "1", "live entries in sealed pages at the end of the window", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"allocated_pages", &StepRecord::allocated_pages, "1", "page blocks allocated at the end of the window", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"used_slots", &StepRecord::used_slots, "1", "slots of allocated pages that hold a live entry at the end of the window", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"free_block_bytes", &StepRecord::free_block_bytes, "byte", "free blocks between used ones of the page pools at the end of the window", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"free_run_bytes", &StepRecord::free_run_bytes, "byte", "longest run of neighbouring free blocks of a shard, summed over shards, at the end of the window", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"kv_bytes_raw", &StepRecord::kv_bytes_raw, "byte", "payload-type size of the live entries at the end of the window", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"kv_bytes_codes", &StepRecord::kv_bytes_codes, "byte", "codes of the live entries at the end of the window, without scales, tables and padding", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"codec_table_bytes", &StepRecord::codec_table_bytes, "byte", "centres, channel lists and bases that sealed pages share, part of metadata_bytes, at the end of the window", Scope::global, ClaimClass::measured, Combine::sum},
      Metric{"kv_bytes_stored", &StepRecord::kv_bytes_stored, "byte", "bytes of allocated page blocks at the end of the window", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"sealed_raw_bytes", &StepRecord::sealed_raw_bytes, "byte", "payload-type size of the entries of pages as they were sealed", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"kv_peak_bytes", &StepRecord::kv_peak_bytes, "byte", "largest kv_bytes_stored of a rank in the window, summed over ranks", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"capacity_excess_bytes", &StepRecord::capacity_excess_bytes, "byte", "largest excess of a shard's page blocks over memory.shard_bytes in the window, summed over shards", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"routed_pairs", &StepRecord::routed_pairs, "1", "(token, MoE layer) pairs routed by a rule other than the recorded choice", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"routed_changed", &StepRecord::routed_changed, "1", "those whose expert set differs from the recorded one", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"experts_kept", &StepRecord::experts_kept, "1", "experts in both the recorded and the new set, summed over those pairs", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"experts_either", &StepRecord::experts_either, "1", "experts in the recorded or the new set, summed over those pairs", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"gate_mass_lost_ppm", &StepRecord::gate_mass_lost_ppm, "1e-6", "recorded gate weight of experts that the new choice dropped, in millionths, summed over those pairs", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"gate_mass_gained_ppm", &StepRecord::gate_mass_gained_ppm, "1e-6", "weight that the recorded gate would give experts of the new choice that it did not choose, in millionths, summed over those pairs (0 for routers without logits)", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"copies_far", &StepRecord::copies_far, "1", "copies that a router other than the recorded choice stores on other ranks than home (layout expert; where the previous token's experts are the key, counted at that token)", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"copies_far_recorded", &StepRecord::copies_far_recorded, "1", "the same had the recorded choice been followed", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"metadata_bytes", &StepRecord::metadata_bytes, "byte", "page tables, slot maps, policy state, key bounds and shared codec tables at the end of the window", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"buffer_bytes", &StepRecord::buffer_bytes, "byte", "exchange buffers and kept attention weights at the end of the window", Scope::global, ClaimClass::measured, Combine::sum},
      Metric{"comm_buffer_bytes", &StepRecord::comm_buffer_bytes, "byte", "part of buffer_bytes that the transport holds", Scope::global, ClaimClass::measured, Combine::sum},
      Metric{"bytes_logical", &StepRecord::bytes_logical, "byte", "bytes handed between ranks, the own rank included", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"bytes_received", &StepRecord::bytes_received, "byte", "the same bytes, counted by the ranks that received them", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"bytes_self", &StepRecord::bytes_self, "byte", "the part whose destination was the own rank", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"wire_kv", &StepRecord::wire_kv, "byte", "bytes of K and V between different ranks", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"wire_q", &StepRecord::wire_q, "byte", "bytes of queries between different ranks", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"wire_partial", &StepRecord::wire_partial, "byte", "bytes of partial attention results between different ranks", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"wire_lse", &StepRecord::wire_lse, "byte", "bytes of merged log-sum-exps between different ranks", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"wire_notices", &StepRecord::wire_notices, "byte", "bytes of eviction notices between different ranks", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"wire_headers", &StepRecord::wire_headers, "byte", "bytes of record headers between different ranks", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"wire_pages", &StepRecord::wire_pages, "byte", "bytes of pages that a replan moved between different ranks", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"wire_intra", &StepRecord::wire_intra, "byte", "bytes between different ranks of one node", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"wire_inter", &StepRecord::wire_inter, "byte", "bytes between ranks of different nodes", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"wire_messages", &StepRecord::wire_messages, "1", "non-empty (source, destination) pairs between different ranks, summed over exchanges", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"hidden_state_bytes", &StepRecord::hidden_state_bytes, "byte", "expert-parallel hidden states (dispatch and combine, 2 bytes a value) that the same routing would move, for scale", Scope::global, ClaimClass::modelled, Combine::sum},
      Metric{"graph_launches", &StepRecord::graph_launches, "1", "batches of device work launched as a CUDA graph", Scope::global, ClaimClass::measured, Combine::sum},
      Metric{"graph_captures", &StepRecord::graph_captures, "1", "CUDA graphs made for that", Scope::global, ClaimClass::measured, Combine::sum},
      Metric{"plain_batches", &StepRecord::plain_batches, "1", "batches of device work launched kernel by kernel: seen for the first time, or graphs are off", Scope::global, ClaimClass::measured, Combine::sum},
      Metric{"t_read", &StepRecord::t_read, "ns", "host time of phase read", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_route", &StepRecord::t_route, "ns", "host time of phase route", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_place", &StepRecord::t_place, "ns", "host time of phase place", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_dispatch", &StepRecord::t_dispatch, "ns", "host time of phase dispatch", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_admit", &StepRecord::t_admit, "ns", "host time of phase admit", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_attend", &StepRecord::t_attend, "ns", "host time of phase attend", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_combine", &StepRecord::t_combine, "ns", "host time of phase combine", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_touch", &StepRecord::t_touch, "ns", "host time of phase touch", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_record", &StepRecord::t_record, "ns", "host time of phase record", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_admit_evict", &StepRecord::t_admit_evict, "ns", "part of admit that executes evictions", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_admit_encode", &StepRecord::t_admit_encode, "ns", "time of sealing (encoding) pages", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_attend_select", &StepRecord::t_attend_select, "ns", "part of attend that builds read lists and masks", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_attend_decode", &StepRecord::t_attend_decode, "ns", "part of attend inside the attention kernel", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_replan", &StepRecord::t_replan, "ns", "host time of replans, part of t_step: the stall before the step", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_replan_model", &StepRecord::t_replan_model, "ns", "alpha-beta time of moving pages, part of t_network_model: the stall on the configured cluster", Scope::global, ClaimClass::modelled, Combine::sum},
      Metric{"t_demote", &StepRecord::t_demote, "ns", "part of admit that copies pages to the host tier", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_recall", &StepRecord::t_recall, "ns", "time of copying pages back from the host tier: part of attend, for pages that are appended to of admit, sealed of touch", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_model", &StepRecord::t_model, "ns", "forward pass of the model in the loop outside attention, and the whole reference; never part of a step", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_generate", &StepRecord::t_generate, "ns", "time spent making q, k, v; never part of a step", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"comm_total", &StepRecord::comm_total, "ns", "host time inside exchanges, which never overlap each other: transfer and waiting for other processes, without packing", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"comm_exposed", &StepRecord::comm_exposed, "ns", "the part of comm_total that no compute covers: all of it, for a step waits for each exchange", Scope::rank, ClaimClass::measured, Combine::max},
      Metric{"t_step", &StepRecord::t_step, "ns", "host time of the steps of the window, generation and probes excluded", Scope::global, ClaimClass::measured, Combine::max},
      Metric{"t_network_model", &StepRecord::t_network_model, "ns", "alpha-beta time of the exchanges on the configured cluster", Scope::global, ClaimClass::modelled, Combine::sum},
      Metric{"t_memory_model", &StepRecord::t_memory_model, "ns", "page bytes that the busiest rank read (to attend, select, score and seal) and wrote (to store and seal) over the configured memory bandwidth", Scope::global, ClaimClass::modelled, Combine::sum},
      Metric{"t_host_model", &StepRecord::t_host_model, "ns", "alpha-beta time of demotions and recalls on the busiest rank's host link", Scope::global, ClaimClass::modelled, Combine::sum}};
};

/// Totals of one attention layer over a window.
struct LayerRecord {
  std::int64_t first_step = 0;
  std::int64_t layer = 0;
  std::int64_t queries = 0, n_req = 0, n_hit = 0, entries_scanned = 0, entries_wanted = 0, insertions = 0, evictions = 0;
  std::int64_t wire_bytes = 0, t_attend = 0;

  static constexpr auto metrics = std::array{
      Metric{"first_step", &LayerRecord::first_step, "1", "index of the first step of the window", Scope::layer, ClaimClass::counted, Combine::key},
      Metric{"layer", &LayerRecord::layer, "1", "model layer", Scope::layer, ClaimClass::counted, Combine::key},
      Metric{"queries", &LayerRecord::queries, "1", "tokens that attended at this layer", Scope::layer, ClaimClass::counted, Combine::sum},
      Metric{"n_req", &LayerRecord::n_req, "1", "lookups", Scope::layer, ClaimClass::counted, Combine::sum},
      Metric{"n_hit", &LayerRecord::n_hit, "1", "lookups that hit", Scope::layer, ClaimClass::counted, Combine::sum},
      Metric{"entries_scanned", &LayerRecord::entries_scanned, "1", "live entries in the pages that queries read", Scope::layer, ClaimClass::counted, Combine::sum},
      Metric{"entries_wanted", &LayerRecord::entries_wanted, "1", "entries that entered a softmax", Scope::layer, ClaimClass::counted, Combine::sum},
      Metric{"insertions", &LayerRecord::insertions, "1", "entries stored (copies)", Scope::layer, ClaimClass::counted, Combine::sum},
      Metric{"evictions", &LayerRecord::evictions, "1", "entries evicted", Scope::layer, ClaimClass::counted, Combine::sum},
      Metric{"wire_bytes", &LayerRecord::wire_bytes, "byte", "bytes between different ranks, all classes", Scope::layer, ClaimClass::counted, Combine::sum},
      Metric{"t_attend", &LayerRecord::t_attend, "ns", "host time of phase attend", Scope::layer, ClaimClass::measured, Combine::max}};
};

/// What a load is counted over.
enum class Entity : std::uint8_t { expert, shard, rank, node };

/// Load of one entity over a window. Experts: choices of the router; shards, ranks, nodes: see the fields.
struct LoadRecord {
  std::int64_t first_step = 0;
  std::int64_t entity = 0;  // Entity
  std::int64_t index = 0;
  std::int64_t load = 0;             // experts: choices; others: entries read by queries
  std::int64_t recorded_load = 0;    // experts, under a router other than recorded
  std::int64_t insertions = 0, resident_bytes = 0, peak_bytes = 0, busy_ns = 0;
  std::int64_t bytes_sent = 0, bytes_recv = 0, bytes_self = 0, exchange_ns = 0, wait_ns = 0;

  static constexpr auto metrics = std::array{
      Metric{"first_step", &LoadRecord::first_step, "1", "index of the first step of the window", Scope::shard, ClaimClass::counted, Combine::key},
      Metric{"entity", &LoadRecord::entity, "1", "0 expert, 1 shard, 2 rank, 3 node", Scope::shard, ClaimClass::counted, Combine::key},
      Metric{"index", &LoadRecord::index, "1", "id of the expert, shard, rank or node", Scope::shard, ClaimClass::counted, Combine::key},
      Metric{"load", &LoadRecord::load, "1", "experts: (token, layer) pairs routed to it; shard, rank, node: entries scanned for queries", Scope::shard, ClaimClass::counted, Combine::sum},
      Metric{"recorded_load", &LoadRecord::recorded_load, "1", "experts: (token, layer) pairs that the recorded choice routes to it, counted where another router chose", Scope::shard, ClaimClass::counted, Combine::sum},
      Metric{"insertions", &LoadRecord::insertions, "1", "entries stored", Scope::shard, ClaimClass::counted, Combine::sum},
      Metric{"resident_bytes", &LoadRecord::resident_bytes, "byte", "bytes of allocated page blocks at the end of the window", Scope::shard, ClaimClass::counted, Combine::sum},
      Metric{"peak_bytes", &LoadRecord::peak_bytes, "byte", "largest value of resident_bytes in the window (taken after admit)", Scope::shard, ClaimClass::counted, Combine::max},
      Metric{"busy_ns", &LoadRecord::busy_ns, "ns", "host time of admit, attend and touch where a process hosts this rank alone, else 0", Scope::rank, ClaimClass::measured, Combine::sum},
      Metric{"bytes_sent", &LoadRecord::bytes_sent, "byte", "rank, node: bytes that its ranks sent to other ranks", Scope::rank, ClaimClass::counted, Combine::sum},
      Metric{"bytes_recv", &LoadRecord::bytes_recv, "byte", "rank, node: bytes that its ranks received from other ranks", Scope::rank, ClaimClass::counted, Combine::sum},
      Metric{"bytes_self", &LoadRecord::bytes_self, "byte", "rank, node: bytes that its ranks handed to themselves", Scope::rank, ClaimClass::counted, Combine::sum},
      Metric{"exchange_ns", &LoadRecord::exchange_ns, "ns", "host time inside exchanges where a process hosts this rank alone, else 0", Scope::rank, ClaimClass::measured, Combine::sum},
      Metric{"wait_ns", &LoadRecord::wait_ns, "ns", "exchange_ns less the least of any rank in the window, which is the rank that the others wait for", Scope::rank, ClaimClass::measured, Combine::sum}};
};

/// Load of one entity in one attention layer over all windows that count. An entity without a row had none.
struct LayerLoadRecord {
  std::int64_t layer = 0;
  std::int64_t entity = 0;  // Entity
  std::int64_t index = 0;
  std::int64_t load = 0;

  static constexpr auto metrics = std::array{
      Metric{"layer", &LayerLoadRecord::layer, "1", "model layer", Scope::layer, ClaimClass::counted, Combine::key},
      Metric{"entity", &LayerLoadRecord::entity, "1", "0 expert, 1 shard, 2 rank, 3 node", Scope::shard, ClaimClass::counted, Combine::key},
      Metric{"index", &LayerLoadRecord::index, "1", "id of the expert, shard, rank or node", Scope::shard, ClaimClass::counted, Combine::key},
      Metric{"load", &LayerLoadRecord::load, "1", "experts: tokens of the layer routed to it; shard, rank, node: entries scanned for queries of the layer; over the run", Scope::layer, ClaimClass::counted, Combine::sum}};
};

/// What a histogram counts: of pages, and of their lookups. A clock runs for each budget of pages: it counts lookups of the pages that share it.
enum class HistogramOf : std::uint8_t { eviction_age, reuse_distance, reuse_time };
inline constexpr std::size_t n_histograms = 3;
[[nodiscard]] constexpr std::string_view to_string(HistogramOf h) {
  constexpr std::string_view names[] = {"eviction_age", "reuse_distance", "reuse_time"};
  return names[static_cast<std::size_t>(h)];
}

/// One log2 bin of a histogram over a window; empty bins have no row.
struct HistogramRecord {
  std::int64_t first_step = 0;
  std::int64_t histogram = 0;  // HistogramOf
  std::int64_t low = 0, high = 0;
  std::int64_t count = 0, total = 0;

  static constexpr auto metrics = std::array{
      Metric{"first_step", &HistogramRecord::first_step, "1", "index of the first step of the window", Scope::global, ClaimClass::counted, Combine::key},
      Metric{"histogram", &HistogramRecord::histogram, "1", "0 eviction_age: lookups from a page's first entry, or its return, to its eviction; 1 reuse_distance: distinct other pages looked up since a page's last lookup; 2 reuse_time: lookups since then; all of pages that share its budget. Pages of finished requests, and dropped ones under access mass and selected, are in no distance; a page that a replan moved starts anew", Scope::global, ClaimClass::counted, Combine::key},
      Metric{"low", &HistogramRecord::low, "1", "smallest value of the bin: lookups, or pages", Scope::global, ClaimClass::counted, Combine::key},
      Metric{"high", &HistogramRecord::high, "1", "largest value of the bin", Scope::global, ClaimClass::counted, Combine::key},
      Metric{"count", &HistogramRecord::count, "1", "evicted pages, or lookups of pages that were looked up before, in the bin", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"total", &HistogramRecord::total, "1", "sum of their values", Scope::global, ClaimClass::counted, Combine::sum}};
};

/// One log2 bin of the gaps between consecutive output tokens of a request, over the run.
struct GapRecord {
  std::int64_t low_ns = 0, high_ns = 0;
  std::int64_t kv_itl = 0, kv_itl_model = 0;

  static constexpr auto metrics = std::array{
      Metric{"low_ns", &GapRecord::low_ns, "ns", "smallest gap of the bin", Scope::global, ClaimClass::derived, Combine::key},
      Metric{"high_ns", &GapRecord::high_ns, "ns", "largest gap of the bin", Scope::global, ClaimClass::derived, Combine::key},
      Metric{"kv_itl", &GapRecord::kv_itl, "1", "gaps in the bin, monotonic clock; KV path only", Scope::global, ClaimClass::measured, Combine::sum},
      Metric{"kv_itl_model", &GapRecord::kv_itl_model, "1", "gaps in the bin, virtual clock; KV path only", Scope::global, ClaimClass::modelled, Combine::sum}};
};

/// What the codec did in one page class over a window. Codecs that store every page alike have class 0 only. Errors and entropy are of a sample of
/// the pages, in millionths and bits so that sums are exact.
struct CodecRecord {
  std::int64_t first_step = 0;
  std::int64_t page_class = 0;
  std::int64_t sealed_pages = 0, entries = 0, page_bytes = 0;
  std::int64_t sampled_pages = 0, k_err_ppm = 0, v_err_ppm = 0, asked_pages = 0, logit_err_ppm = 0, attention_err_ppm = 0;
  std::int64_t code_bits = 0, entropy_bits = 0;

  static constexpr auto metrics = std::array{
      Metric{"first_step", &CodecRecord::first_step, "1", "index of the first step of the window", Scope::global, ClaimClass::counted, Combine::key},
      Metric{"page_class", &CodecRecord::page_class, "1", "class of the codec, smallest first; 0 where it has one", Scope::global, ClaimClass::counted, Combine::key},
      Metric{"sealed_pages", &CodecRecord::sealed_pages, "1", "pages sealed", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"entries", &CodecRecord::entries, "1", "live entries in sealed pages of the class at the end of the window", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"page_bytes", &CodecRecord::page_bytes, "byte", "bytes of the blocks of sealed pages of the class at the end of the window", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"sampled_pages", &CodecRecord::sampled_pages, "1", "sealed pages that were compared with their raw entries", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"k_err_ppm", &CodecRecord::k_err_ppm, "1e-6", "norm(K stored - K) / norm(K) in millionths, summed over sampled pages", Scope::global, ClaimClass::measured, Combine::sum},
      Metric{"v_err_ppm", &CodecRecord::v_err_ppm, "1e-6", "the same of V (0 for MLA)", Scope::global, ClaimClass::measured, Combine::sum},
      Metric{"asked_pages", &CodecRecord::asked_pages, "1", "sampled pages whose request had queries in the step that sealed them", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"logit_err_ppm", &CodecRecord::logit_err_ppm, "1e-6", "error of the newest query's logits over the page, less its mean, over their deviation, in millionths, summed over asked pages", Scope::global, ClaimClass::measured, Combine::sum},
      Metric{"attention_err_ppm", &CodecRecord::attention_err_ppm, "1e-6", "relative error of the newest query's softmax over the page in millionths, summed over asked pages", Scope::global, ClaimClass::measured, Combine::sum},
      Metric{"code_bits", &CodecRecord::code_bits, "bit", "codes of less than 16 bits in sampled pages", Scope::global, ClaimClass::counted, Combine::sum},
      Metric{"entropy_bits", &CodecRecord::entropy_bits, "bit", "their empirical entropy, head by head and plane by plane", Scope::global, ClaimClass::measured, Combine::sum}};
};

/// Bytes and messages from one logical rank to another over a window; the own rank included.
struct TrafficRecord {
  std::int64_t first_step = 0;
  std::int64_t source = 0, destination = 0;
  std::int64_t kv = 0, q = 0, partial = 0, lse = 0, notices = 0, headers = 0, pages = 0, messages = 0;

  static constexpr auto metrics = std::array{
      Metric{"first_step", &TrafficRecord::first_step, "1", "index of the first step of the window", Scope::rank, ClaimClass::counted, Combine::key},
      Metric{"source", &TrafficRecord::source, "1", "sending logical rank", Scope::rank, ClaimClass::counted, Combine::key},
      Metric{"destination", &TrafficRecord::destination, "1", "receiving logical rank", Scope::rank, ClaimClass::counted, Combine::key},
      Metric{"kv", &TrafficRecord::kv, "byte", "K and V", Scope::rank, ClaimClass::counted, Combine::sum},
      Metric{"q", &TrafficRecord::q, "byte", "queries", Scope::rank, ClaimClass::counted, Combine::sum},
      Metric{"partial", &TrafficRecord::partial, "byte", "partial attention results", Scope::rank, ClaimClass::counted, Combine::sum},
      Metric{"lse", &TrafficRecord::lse, "byte", "merged log-sum-exps", Scope::rank, ClaimClass::counted, Combine::sum},
      Metric{"notices", &TrafficRecord::notices, "byte", "eviction notices, 8 bytes each", Scope::rank, ClaimClass::counted, Combine::sum},
      Metric{"headers", &TrafficRecord::headers, "byte", "record headers", Scope::rank, ClaimClass::counted, Combine::sum},
      Metric{"pages", &TrafficRecord::pages, "byte", "pages that a replan moved", Scope::rank, ClaimClass::counted, Combine::sum},
      Metric{"messages", &TrafficRecord::messages, "1", "exchanges in which at least one byte went this way", Scope::rank, ClaimClass::counted, Combine::sum}};
};

/// Capacities and residents of the lists of one layer and head group at the end of a window; a list is of one (request, shard).
struct AllocationRecord {
  std::int64_t first_step = 0;
  std::int64_t layer = 0, head_group = 0;
  std::int64_t lists = 0;
  std::int64_t budget_min = 0, budget_total = 0, budget_max = 0, resident_min = 0, resident_total = 0, resident_max = 0;

  static constexpr auto metrics = std::array{
      Metric{"first_step", &AllocationRecord::first_step, "1", "index of the first step of the window", Scope::layer, ClaimClass::counted, Combine::key},
      Metric{"layer", &AllocationRecord::layer, "1", "model layer", Scope::layer, ClaimClass::counted, Combine::key},
      Metric{"head_group", &AllocationRecord::head_group, "1", "head group of the model", Scope::layer, ClaimClass::counted, Combine::key},
      Metric{"lists", &AllocationRecord::lists, "1", "lists of active requests: one a shard that holds a part of the request", Scope::layer, ClaimClass::counted, Combine::sum},
      Metric{"budget_min", &AllocationRecord::budget_min, "1", "smallest capacity of a list, in units of eviction.budget", Scope::layer, ClaimClass::counted, Combine::min},
      Metric{"budget_total", &AllocationRecord::budget_total, "1", "sum of the capacities; over lists their mean", Scope::layer, ClaimClass::counted, Combine::sum},
      Metric{"budget_max", &AllocationRecord::budget_max, "1", "largest capacity of a list", Scope::layer, ClaimClass::counted, Combine::max},
      Metric{"resident_min", &AllocationRecord::resident_min, "1", "fewest live entries of a list", Scope::layer, ClaimClass::counted, Combine::min},
      Metric{"resident_total", &AllocationRecord::resident_total, "1", "live entries of the lists; over lists their mean", Scope::layer, ClaimClass::counted, Combine::sum},
      Metric{"resident_max", &AllocationRecord::resident_max, "1", "most live entries of a list", Scope::layer, ClaimClass::counted, Combine::max}};
};

/// One request's life. Times are on the virtual clock (modelled) and on the monotonic clock (measured), -1 where not reached.
struct RequestRecord {
  std::int64_t request = 0;
  std::int64_t home = 0, prompt_tokens = 0, output_tokens = 0, arrival_ns = 0;
  std::int64_t first_step = 0, last_step = 0;
  std::int64_t kv_ttft_model_ns = -1, e2e_model_ns = -1, queue_delay_model_ns = -1;
  std::int64_t kv_ttft_ns = -1, e2e_ns = -1;
  std::int64_t ttst_model_ns = -1, ttst_ns = -1;

  static constexpr auto metrics = std::array{
      Metric{"request", &RequestRecord::request, "1", "index in the trace", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"home", &RequestRecord::home, "1", "home rank", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"prompt_tokens", &RequestRecord::prompt_tokens, "1", "prompt length replayed", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"output_tokens", &RequestRecord::output_tokens, "1", "output length replayed", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"arrival_ns", &RequestRecord::arrival_ns, "ns", "arrival on the virtual clock", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"first_step", &RequestRecord::first_step, "1", "first step it took part in", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"last_step", &RequestRecord::last_step, "1", "last step it took part in", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"kv_ttft_model_ns", &RequestRecord::kv_ttft_model_ns, "ns", "arrival to the KV path of the first output token, virtual clock; KV path only", Scope::request, ClaimClass::modelled, Combine::key},
      Metric{"e2e_model_ns", &RequestRecord::e2e_model_ns, "ns", "arrival to the last token, virtual clock; KV path only", Scope::request, ClaimClass::modelled, Combine::key},
      Metric{"queue_delay_model_ns", &RequestRecord::queue_delay_model_ns, "ns", "arrival to the start of the first step, virtual clock", Scope::request, ClaimClass::modelled, Combine::key},
      Metric{"kv_ttft_ns", &RequestRecord::kv_ttft_ns, "ns", "start of the first step to the KV path of the first output token; KV path only", Scope::request, ClaimClass::measured, Combine::key},
      Metric{"e2e_ns", &RequestRecord::e2e_ns, "ns", "start of the first step to the end of the last; KV path only", Scope::request, ClaimClass::measured, Combine::key},
      Metric{"ttst_model_ns", &RequestRecord::ttst_model_ns, "ns", "arrival to the KV path of the second output token, virtual clock; KV path only", Scope::request, ClaimClass::modelled, Combine::key},
      Metric{"ttst_ns", &RequestRecord::ttst_ns, "ns", "start of the first step to the KV path of the second output token; KV path only", Scope::request, ClaimClass::measured, Combine::key}};
};

/// Fidelity of one sampled query against exact attention over its full, uncompressed, unsharded history (MODEL section 9).
struct ProbeRecord {
  std::int64_t request = 0, layer = 0, position = 0, history_tokens = 0, read_tokens = 0;
  double attn_out_err = 0, attn_cosine = 0, attn_mass_kept = 0, attn_kl = 0, topk_recall = 0, max_abs_err = 0;

  static constexpr auto metrics = std::tuple{
      Metric{"request", &ProbeRecord::request, "1", "request sampled", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"layer", &ProbeRecord::layer, "1", "model layer sampled", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"position", &ProbeRecord::position, "1", "query position sampled", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"history_tokens", &ProbeRecord::history_tokens, "1", "keys of the exact attention (the layer's own window)", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"read_tokens", &ProbeRecord::read_tokens, "1", "distinct tokens the replay read", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"attn_out_err", &ProbeRecord::attn_out_err, "1", "norm(o - o_exact) / norm(o_exact) over all heads", Scope::request, ClaimClass::measured, Combine::key},
      Metric{"attn_cosine", &ProbeRecord::attn_cosine, "1", "cosine of o and o_exact over all heads", Scope::request, ClaimClass::measured, Combine::key},
      Metric{"attn_mass_kept", &ProbeRecord::attn_mass_kept, "1", "exact softmax mass of the tokens read, mean over heads", Scope::request, ClaimClass::measured, Combine::key},
      Metric{"attn_kl", &ProbeRecord::attn_kl, "nat", "KL(exact attention restricted to what was read and renormalised || exact) = -ln(mass kept), mean over heads", Scope::request, ClaimClass::measured, Combine::key},
      Metric{"topk_recall", &ProbeRecord::topk_recall, "1", "share of the exact top-k keys that were read, mean over heads", Scope::request, ClaimClass::measured, Combine::key},
      Metric{"max_abs_err", &ProbeRecord::max_abs_err, "1", "largest absolute difference of an output value", Scope::request, ClaimClass::measured, Combine::key}};
};

/// The prediction of one token by the model in the loop, beside the reference's: the same model with dense attention. Without one, its fields are NaN.
struct TokenRecord {
  std::int64_t request = 0, position = 0, target = 0;
  double nll = 0, nll_reference = 0, kl = 0, same_top1 = 0;

  static constexpr auto metrics = std::tuple{
      Metric{"request", &TokenRecord::request, "1", "sequence of the token file", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"position", &TokenRecord::position, "1", "position of the token that predicts", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"target", &TokenRecord::target, "1", "token that is predicted", Scope::request, ClaimClass::counted, Combine::key},
      Metric{"nll", &TokenRecord::nll, "nat", "-ln p(target)", Scope::request, ClaimClass::measured, Combine::key},
      Metric{"nll_reference", &TokenRecord::nll_reference, "nat", "the same by the reference", Scope::request, ClaimClass::measured, Combine::key},
      Metric{"kl", &TokenRecord::kl, "nat", "KL(reference || this run) of the next-token distribution", Scope::request, ClaimClass::measured, Combine::key},
      Metric{"same_top1", &TokenRecord::same_top1, "1", "1 where the most likely token is the reference's, else 0", Scope::request, ClaimClass::measured, Combine::key}};
};

/// How far a layer of the model in the loop went from the reference, over all tokens: errors of earlier layers and tokens included.
struct DriftRecord {
  std::int64_t layer = 0, n_tokens = 0;
  double attention_drift = 0, attention_drift_tail = 0, residual_drift = 0, residual_drift_tail = 0;

  static constexpr auto metrics = std::tuple{
      Metric{"layer", &DriftRecord::layer, "1", "model layer", Scope::layer, ClaimClass::counted, Combine::key},
      Metric{"n_tokens", &DriftRecord::n_tokens, "1", "tokens compared", Scope::layer, ClaimClass::counted, Combine::key},
      Metric{"attention_drift", &DriftRecord::attention_drift, "1", "norm(o - o_reference) / norm(o_reference) of the attention outputs of all heads, tokens taken together", Scope::layer, ClaimClass::measured, Combine::key},
      Metric{"attention_drift_tail", &DriftRecord::attention_drift_tail, "1", "the same from score.from_position on", Scope::layer, ClaimClass::measured, Combine::key},
      Metric{"residual_drift", &DriftRecord::residual_drift, "1", "the same of the residual stream after the layer", Scope::layer, ClaimClass::measured, Combine::key},
      Metric{"residual_drift_tail", &DriftRecord::residual_drift_tail, "1", "the same from score.from_position on", Scope::layer, ClaimClass::measured, Combine::key}};
};

/// A number the run reports once: computed by the engine from records, stored as /metric/<name>.
struct Summary {
  std::string name;
  std::string unit;
  std::string definition;
  ClaimClass claim = ClaimClass::derived;
  double value = 0;
  double numerator = 0, denominator = 0;                     // of a ratio; both 0 otherwise
  double model = std::numeric_limits<double>::quiet_NaN();  // what moekv plan predicts for it; NaN where it predicts nothing
};

/// XXH3-128 sums (MODEL section 11): total and per window of 64 steps.
struct Digest128 {
  std::uint64_t high = 0, low = 0;
  friend bool operator==(const Digest128&, const Digest128&) = default;
};
[[nodiscard]] std::string to_hex(const Digest128& digest);

/// Everything a run hands to results/. Complete on process 0; elsewhere only `completed` is set.
struct RunOutcome {
  std::vector<StepRecord> steps;
  std::vector<LayerRecord> layers;
  std::vector<LoadRecord> loads;
  std::vector<LayerLoadRecord> layer_loads;
  std::vector<HistogramRecord> histograms;
  std::vector<CodecRecord> codecs;
  std::vector<TrafficRecord> traffic;
  std::vector<AllocationRecord> allocations;  // under a budget per request
  std::vector<RequestRecord> requests;
  std::vector<GapRecord> gaps;
  SampleSketch kv_itl, kv_itl_model;     // the gaps themselves, ns; not stored
  std::vector<ProbeRecord> probes;
  std::vector<TokenRecord> tokens;            // of a model in the loop, else empty
  std::vector<DriftRecord> drifts;
  std::vector<BoundRecord> bounds;            // of a second pass, else empty
  std::vector<MassBoundRecord> mass_bounds;
  std::vector<Summary> summary;
  Digest128 digest;
  std::vector<Digest128> window_digests;
  std::vector<std::string> labels;       // "acausal", "biased_softmax", "not_exercised", "feedback", ...: what a reader must know
  std::vector<std::string> notes;        // sentences: cut prompts, rows replaced, ...
  std::vector<std::string> violations;   // conservation laws that did not hold; non-empty = the run failed
  std::int64_t wall_ns = 0;
  std::int64_t n_processes = 1;
  bool completed = false;
};

}  // namespace moekv
