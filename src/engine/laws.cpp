// The laws, each a pair of sums that must be equal or ordered, per window.
#include "engine/laws.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "engine/summarise.hpp"
#include "engine/summary_list.hpp"

namespace moekv {
namespace {

using S = StepRecord;

enum class Relation : std::uint8_t { equal, at_most };

class Violations {
 public:
  void expect(Relation relation, std::int64_t first_step, std::string_view left_text, std::int64_t left, std::string_view right_text,
              std::int64_t right) {
    if (relation == Relation::equal ? left == right : left <= right) return;
    if (++count_ > most_violations) return;
    const char* sign = relation == Relation::equal ? "=" : "<=";
    texts_.push_back(
        fmt::format("window of step {}: law {} {} {} does not hold: {} against {}", first_step, left_text, sign, right_text, left, right));
  }
  std::vector<std::string> take() {
    if (count_ > most_violations) texts_.push_back(fmt::format("... and {} more", count_ - most_violations));
    return std::move(texts_);
  }

 private:
  std::vector<std::string> texts_;
  std::size_t count_ = 0;
};

/// Laws of one window's counters, and between it and the window before.
void check_step(const S& s, const S& before, EvictAction action, Violations& v) {
  const auto equal = [&](const char* a, std::int64_t x, const char* b, std::int64_t y) { v.expect(Relation::equal, s.first_step, a, x, b, y); };
  const auto at_most = [&](const char* a, std::int64_t x, const char* b, std::int64_t y) { v.expect(Relation::at_most, s.first_step, a, x, b, y); };
  equal("n_req", s.n_req, "n_hit + n_miss", s.n_hit + s.n_miss);
  equal("n_hit", s.n_hit, "hit_local + hit_node + hit_remote", s.hit_local + s.hit_node + s.hit_remote);
  equal("tokens", s.tokens, "prefill_tokens + decode_tokens", s.prefill_tokens + s.decode_tokens);
  equal("resident_entries before + insertions + recalls", before.resident_entries + s.insertions + s.recalls,
        "resident_entries + evictions + finished_entries - host_finished_entries",
        s.resident_entries + s.evictions + s.finished_entries - s.host_finished_entries);
  equal("host_entries before + demotions", before.host_entries + s.demotions, "host_entries + recalls + host_finished_entries",
        s.host_entries + s.recalls + s.host_finished_entries);
  equal("demotions", s.demotions, "evictions under action demote", action == EvictAction::demote ? s.evictions : 0);
  equal("hit_host", s.hit_host, "n_miss under action demote", action == EvictAction::demote ? s.n_miss : 0);
  equal("chosen_experts", s.chosen_experts, "stored_copies + dedup_merged", s.stored_copies + s.dedup_merged);
  equal("bytes_logical", s.bytes_logical, "bytes_received", s.bytes_received);
  equal("bytes_logical", s.bytes_logical, "bytes_self + wire bytes", s.bytes_self + wire_bytes(s));
  equal("wire_intra + wire_inter", s.wire_intra + s.wire_inter, "wire bytes", wire_bytes(s));
  equal("budget_excess", s.budget_excess, "0", 0);
  equal("allocation_error", s.allocation_error, "0", 0);
  equal("pages_moved", s.pages_moved, "pages_landed", s.pages_landed);
  equal("entries_moved", s.entries_moved, "entries_landed", s.entries_landed);
  at_most("wire_pages", s.wire_pages, "bytes_moved", s.bytes_moved);
  at_most("replan_evictions", s.replan_evictions, "evictions", s.evictions);
  at_most("cold_misses", s.cold_misses, "n_miss", s.n_miss);
  at_most("missed_bytes", s.missed_bytes, "requested_bytes", s.requested_bytes);
  at_most("entries_wanted", s.entries_wanted, "entries_scanned", s.entries_scanned);
  at_most("pages_selected", s.pages_selected, "pages_considered", s.pages_considered);
  at_most("bounds_bytes", s.bounds_bytes, "metadata_bytes", s.metadata_bytes);
  at_most("empty_reads", s.empty_reads, "queries", s.queries);
  at_most("distinct_insertions", s.distinct_insertions, "insertions", s.insertions);
  at_most("resident_distinct", s.resident_distinct, "resident_entries + host_entries", s.resident_entries + s.host_entries);
  at_most("recalled_pages", s.recalled_pages, "recalls", s.recalls);
  at_most("demoted_pages", s.demoted_pages, "demotions", s.demotions);
  at_most("premature_evictions", s.premature_evictions, "hit_host", s.hit_host);
  at_most("first_lookups", s.first_lookups, "n_req", s.n_req);
  at_most("missed_entries", s.missed_entries, "requested_entries", s.requested_entries);
  at_most("evictable_entries", s.evictable_entries, "resident_entries", s.resident_entries);
  at_most("cross_shard_switches", s.cross_shard_switches, "shard_reads", s.shard_reads);
  at_most("free_run_bytes", s.free_run_bytes, "free_block_bytes", s.free_block_bytes);
  if (s.written_distinct > 0) at_most("resident_distinct", s.resident_distinct, "written_distinct", s.written_distinct);
  at_most("sealed_entries", s.sealed_entries, "resident_entries", s.resident_entries);
  at_most("kv_bytes_stored", s.kv_bytes_stored, "kv_peak_bytes", s.kv_peak_bytes);
}

/// Sum of one field over the rows of another record in each window of `steps`. All rows are in the order of windows.
template <class Record, class F>
std::vector<std::int64_t> sum_per_window(const std::vector<S>& steps, const std::vector<Record>& rows, F&& value) {
  std::vector<std::int64_t> sums;
  sums.reserve(steps.size());
  auto row = rows.begin();
  for (const S& s : steps) {
    while (row != rows.end() && row->first_step < s.first_step) ++row;
    std::int64_t sum = 0;
    for (; row != rows.end() && row->first_step == s.first_step; ++row) sum += value(*row);
    sums.push_back(sum);
  }
  return sums;
}

/// The rows of another record must add up to the job's row of the same window, where that record has rows.
template <class Record>
void check_parts(const std::vector<S>& steps, const std::vector<Record>& rows, std::string_view text, auto whole, auto part, Violations& v) {
  if (rows.empty()) return;
  const std::vector<std::int64_t> sums = sum_per_window(steps, rows, part);
  const std::string sum_text = fmt::format("sum of {}", text);
  for (std::size_t w = 0; w < steps.size(); ++w)
    v.expect(Relation::equal, steps[w].first_step, sum_text, sums[w], "the job's count", whole(steps[w]));
}

void check_layers(const RunOutcome& out, Violations& v) {
  const auto same = [&](const char* text, std::int64_t S::*whole, std::int64_t LayerRecord::*part) {
    check_parts(
        out.steps, out.layers, text, [=](const S& s) { return s.*whole; }, [=](const LayerRecord& l) { return l.*part; }, v);
  };
  same("queries over layers", &S::queries, &LayerRecord::queries);
  same("n_req over layers", &S::n_req, &LayerRecord::n_req);
  same("n_hit over layers", &S::n_hit, &LayerRecord::n_hit);
  same("entries_scanned over layers", &S::entries_scanned, &LayerRecord::entries_scanned);
  same("entries_wanted over layers", &S::entries_wanted, &LayerRecord::entries_wanted);
  same("insertions over layers", &S::insertions, &LayerRecord::insertions);
  same("evictions over layers", &S::evictions, &LayerRecord::evictions);
  check_parts(
      out.steps, out.layers, "wire_bytes over layers", wire_bytes, [](const LayerRecord& l) { return l.wire_bytes; }, v);
  check_parts(
      out.steps, out.allocations, "resident_total over layers and head groups", [](const S& s) { return s.resident_entries; },
      [](const AllocationRecord& a) { return a.resident_total; }, v);
}

/// A lookup is the first of its page or counts in both histograms of reuse.
void check_reuse(const RunOutcome& out, Violations& v) {
  if (out.histograms.empty()) return;
  for (const HistogramOf h : {HistogramOf::reuse_distance, HistogramOf::reuse_time}) {
    const auto counts = sum_per_window(out.steps, out.histograms,
                                       [&](const HistogramRecord& r) { return r.histogram == static_cast<std::int64_t>(h) ? r.count : 0; });
    const std::string text = fmt::format("first_lookups + {} counts", to_string(h));
    for (std::size_t w = 0; w < out.steps.size(); ++w)
      v.expect(Relation::equal, out.steps[w].first_step, text, out.steps[w].first_lookups + counts[w], "n_req", out.steps[w].n_req);
  }
}

/// Loads of the layers over the run are those of its windows.
void check_layer_loads(const RunSpec& spec, const RunOutcome& out, Violations& v) {
  if (out.layer_loads.empty()) return;
  std::map<std::int64_t, std::pair<std::int64_t, std::int64_t>> sums;  // by entity: over layers, over windows that count
  for (const LayerLoadRecord& l : out.layer_loads) sums[l.entity].first += l.load;
  for (const LoadRecord& l : out.loads) sums[l.entity].second += l.first_step >= std::int64_t{spec.metrics.warmup_steps} ? l.load : 0;
  for (const auto& [entity, pair] : sums) {
    const bool known = std::any_of(out.layer_loads.begin(), out.layer_loads.end(), [e = entity](const LayerLoadRecord& l) { return l.entity == e; });
    if (known)
      v.expect(Relation::equal, 0, fmt::format("load over layers of {}s", to_string(static_cast<Entity>(entity))), pair.first, "over windows",
               pair.second);
  }
}

void check_codecs(const RunOutcome& out, Violations& v) {
  check_parts(
      out.steps, out.codecs, "entries over page classes", [](const S& s) { return s.sealed_entries; }, [](const CodecRecord& c) { return c.entries; },
      v);
  const auto bytes = sum_per_window(out.steps, out.codecs, [](const CodecRecord& c) { return c.page_bytes; });
  for (std::size_t w = 0; w < out.steps.size(); ++w)
    v.expect(Relation::at_most, out.steps[w].first_step, "page_bytes over page classes", bytes[w], "kv_bytes_stored", out.steps[w].kv_bytes_stored);
  for (const CodecRecord& c : out.codecs) v.expect(Relation::at_most, c.first_step, "sampled_pages", c.sampled_pages, "sealed_pages", c.sealed_pages);
}

void check_traffic(const RunOutcome& out, Violations& v) {
  const auto between = [&](const char* text, std::int64_t S::*whole, std::int64_t TrafficRecord::*part) {
    check_parts(
        out.steps, out.traffic, text, [=](const S& s) { return s.*whole; },
        [=](const TrafficRecord& t) { return t.source != t.destination ? t.*part : 0; }, v);
  };
  between("kv over pairs of ranks", &S::wire_kv, &TrafficRecord::kv);
  between("q over pairs of ranks", &S::wire_q, &TrafficRecord::q);
  between("partial over pairs of ranks", &S::wire_partial, &TrafficRecord::partial);
  between("lse over pairs of ranks", &S::wire_lse, &TrafficRecord::lse);
  between("notices over pairs of ranks", &S::wire_notices, &TrafficRecord::notices);
  between("headers over pairs of ranks", &S::wire_headers, &TrafficRecord::headers);
  between("pages over pairs of ranks", &S::wire_pages, &TrafficRecord::pages);
  between("messages over pairs of ranks", &S::wire_messages, &TrafficRecord::messages);
  check_parts(
      out.steps, out.traffic, "bytes from ranks to themselves", [](const S& s) { return s.bytes_self; },
      [](const TrafficRecord& t) { return t.source == t.destination ? all_bytes(t) : 0; }, v);
}

void check_loads(const RunSpec& spec, const RunOutcome& out, Violations& v) {
  for (const Entity entity : {Entity::shard, Entity::rank, Entity::node}) {
    std::vector<LoadRecord> rows;
    for (const LoadRecord& l : out.loads) {
      if (l.entity == static_cast<std::int64_t>(entity)) rows.push_back(l);
    }
    const auto same = [&](const char* field, std::int64_t S::*whole, std::int64_t LoadRecord::*part) {
      check_parts(
          out.steps, rows, fmt::format("{} over {}s", field, to_string(entity)), [=](const S& s) { return s.*whole; },
          [=](const LoadRecord& l) { return l.*part; }, v);
    };
    same("insertions", &S::insertions, &LoadRecord::insertions);
    same("load", &S::entries_scanned, &LoadRecord::load);
    same("resident_bytes", &S::kv_bytes_stored, &LoadRecord::resident_bytes);
    if (entity != Entity::shard) {
      check_parts(
          out.steps, rows, fmt::format("bytes_sent over {}s", to_string(entity)), wire_bytes, [](const LoadRecord& l) { return l.bytes_sent; }, v);
      check_parts(
          out.steps, rows, fmt::format("bytes_recv over {}s", to_string(entity)), wire_bytes, [](const LoadRecord& l) { return l.bytes_recv; }, v);
      same("bytes_self", &S::bytes_self, &LoadRecord::bytes_self);
    }
    if (entity != Entity::shard || spec.memory.shard_bytes == 0) continue;
    const auto capacity = static_cast<std::int64_t>(spec.memory.shard_bytes);
    const auto excess = sum_per_window(out.steps, rows, [&](const LoadRecord& l) { return std::max<std::int64_t>(0, l.peak_bytes - capacity); });
    for (std::size_t w = 0; w < out.steps.size(); ++w) {
      v.expect(Relation::equal, out.steps[w].first_step, "excess of the shards' peak_bytes over memory.shard_bytes", excess[w],
               "capacity_excess_bytes", out.steps[w].capacity_excess_bytes);
    }
  }
}

}  // namespace

std::vector<std::string> check_laws(const RunSpec& spec, const RunOutcome& outcome) {
  Violations violations;
  const auto slots = static_cast<std::int64_t>(page_slots_of(spec));
  StepRecord before;
  for (const StepRecord& s : outcome.steps) {
    check_step(s, before, spec.eviction.action, violations);
    violations.expect(Relation::at_most, s.first_step, "used_slots", s.used_slots, "allocated_pages x slots", s.allocated_pages * slots);
    before = s;
  }
  check_layers(outcome, violations);
  check_reuse(outcome, violations);
  check_layer_loads(spec, outcome, violations);
  check_codecs(outcome, violations);
  check_traffic(outcome, violations);
  check_loads(spec, outcome, violations);
  return violations.take();
}

}  // namespace moekv
