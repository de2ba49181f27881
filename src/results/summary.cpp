// Which numbers the table shows, under which words.
#include "results/summary.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/units.hpp"

namespace moekv {
namespace {

enum class Show : std::uint8_t { bytes, time, share, ratio, count, rate };

struct Line {
  std::string_view metric;
  std::string_view label;
  Show show;
};
struct Section {
  std::string_view title;
  std::vector<Line> lines;
};

const std::vector<Section>& sections() {  // NOLINT(readability-function-size): a table
  static const std::vector<Section> all = {{"memory (over all ranks, largest over windows; ratios over all windows)",
                                            {{"kv_peak_bytes", "peak of page blocks", Show::bytes},
                                             {"rank_peak_bytes_max", "peak of the fullest rank", Show::bytes},
                                             {"metadata_bytes", "page tables and policy state", Show::bytes},
                                             {"buffer_bytes", "exchange buffers and kept weights", Show::bytes},
                                             {"resident_entries", "entries resident (copies)", Show::count},
                                             {"resident_distinct", "distinct tokens resident", Show::count},
                                             {"replication_factor", "copies per distinct token", Show::ratio},
                                             {"code_compression_factor", "raw size / codes", Show::ratio},
                                             {"page_compression_factor", "raw size / page blocks", Show::ratio},
                                             {"compression_factor", "raw size / stored with metadata", Show::ratio},
                                             {"bits_per_element", "bits per element in page blocks", Show::ratio},
                                             {"sealed_fraction", "entries in sealed pages", Show::share},
                                             {"class_page_share_0", "sealed pages in the smallest class", Show::share},
                                             {"class_page_share_1", "in the middle class", Show::share},
                                             {"class_page_share_2", "in the largest class", Show::share},
                                             {"internal_frag", "unused slots of allocated pages", Show::share},
                                             {"kv_usage", "peak / capacity", Show::share}}},
                                           {"hits and evictions",
                                            {{"n_req", "lookups (page, step)", Show::count},
                                             {"hit_ratio", "hits", Show::share},
                                             {"local_hit_ratio", "hits on the home rank", Show::share},
                                             {"byte_miss_ratio", "bytes missed", Show::share},
                                             {"insertions", "entries stored", Show::count},
                                             {"evictions", "entries evicted", Show::count},
                                             {"recalls", "entries recalled from the host tier", Show::count},
                                             {"recalled_bytes", "bytes recalled from the host tier", Show::bytes},
                                             {"overcommit", "entries above budget", Show::count},
                                             {"read_amplification", "entries scanned / wanted", Show::ratio},
                                             {"masked_copies", "tokens masked by the copy rule", Show::count},
                                             {"empty_reads", "queries with nothing to read", Show::count}}},
                                           {"bounds of the lookups (moekv oracle: caches to which missed pages come back)",
                                            {{"opt_miss_ratio", "misses of the offline optimum", Show::share},
                                             {"opt_forced_miss_ratio", "the same without bypass", Show::share},
                                             {"opt_pooled_miss_ratio", "the same, one pooled cache", Show::share},
                                             {"lru_miss_ratio", "misses of LRU", Show::share},
                                             {"random_miss_ratio", "misses of random victims", Show::share},
                                             {"policy_gap", "run above the optimum", Show::share},
                                             {"policy_efficiency", "from random (0) to the optimum (1)", Show::ratio},
                                             {"miss_capacity", "misses: capacity", Show::count},
                                             {"miss_placement", "misses: placement", Show::count},
                                             {"miss_policy", "misses: policy", Show::count},
                                             {"attn_lost", "attention lost, sampled", Show::share},
                                             {"orc_select_lost", "best visible sets (orc.select)", Show::share},
                                             {"orc_mass_lost", "best victims (orc.mass)", Show::share},
                                             {"orc_greedy_lost", "greedy victims (orc.greedy)", Show::share}}},
                                           {"traffic between ranks",
                                            {{"bytes_wire", "total", Show::bytes},
                                             {"wire_kv", "K and V", Show::bytes},
                                             {"wire_q", "queries", Show::bytes},
                                             {"wire_partial", "partial results", Show::bytes},
                                             {"wire_lse", "log-sum-exps", Show::bytes},
                                             {"wire_notices", "eviction notices", Show::bytes},
                                             {"wire_headers", "headers", Show::bytes},
                                             {"wire_pages", "pages moved by replans", Show::bytes},
                                             {"bytes_wire_per_token", "per token", Show::bytes},
                                             {"hidden_state_bytes", "expert-parallel hidden states, for scale", Show::bytes},
                                             {"fanout", "ranks touched per query and layer", Show::ratio},
                                             {"node_fanout", "nodes touched per query and layer", Show::ratio},
                                             {"dedup_factor", "choices per stored copy", Show::ratio},
                                             {"pair_imbalance", "busiest pair of ranks / mean", Show::ratio}}},
                                           {"latency (KV path only: no model forward pass runs)",
                                            {{"step_time_p50", "step, median", Show::time},
                                             {"step_time_p99", "step, 99th percentile", Show::time},
                                             {"share_dispatch", "phase dispatch", Show::share},
                                             {"share_admit", "phase admit", Show::share},
                                             {"share_attend", "phase attend", Show::share},
                                             {"share_combine", "phase combine", Show::share},
                                             {"t_step_model", "all steps on the configured cluster", Show::time},
                                             {"kv_ttft_p50", "kv_ttft, median", Show::time},
                                             {"kv_ttft_model_p50", "kv_ttft, median, virtual clock", Show::time},
                                             {"kv_tpot_p50", "kv_tpot, median", Show::time},
                                             {"kv_tpot_model_p50", "kv_tpot, median, virtual clock", Show::time},
                                             {"throughput_output_tokens", "output tokens", Show::rate},
                                             {"sim_wall", "wall time of the replay", Show::time}}},
                                           {"fidelity (one layer's attention under the trace's queries, against exact attention)",
                                            {{"n_probes", "queries compared", Show::count},
                                             {"attn_out_err_mean", "relative output error, mean", Show::ratio},
                                             {"attn_out_err_max", "relative output error, largest", Show::ratio},
                                             {"attn_mass_kept_mean", "attention mass kept, mean", Show::ratio},
                                             {"attn_mass_kept_min", "attention mass kept, smallest", Show::ratio},
                                             {"topk_recall_mean", "recall of the top keys, mean", Show::ratio}}},
                                           {"loss of the model in the loop (against the same model with dense attention)",
                                            {{"n_scored", "tokens predicted", Show::count},
                                             {"nll", "nats per token", Show::ratio},
                                             {"perplexity", "perplexity", Show::ratio},
                                             {"nll_reference", "nats per token, dense", Show::ratio},
                                             {"nll_change", "change", Show::ratio},
                                             {"nll_change_low", "change, low end of its 95 % interval", Show::ratio},
                                             {"nll_change_high", "change, high end", Show::ratio},
                                             {"kl_reference", "KL of the next-token distribution", Show::ratio},
                                             {"top1_agreement", "same most likely token", Show::share},
                                             {"attention_drift", "relative drift of attention outputs", Show::ratio},
                                             {"n_scored_tail", "tokens predicted, tail", Show::count},
                                             {"nll_tail", "nats per token, tail", Show::ratio},
                                             {"perplexity_tail", "perplexity, tail", Show::ratio},
                                             {"nll_change_tail", "change, tail", Show::ratio},
                                             {"nll_change_low_tail", "change, tail, low end", Show::ratio},
                                             {"nll_change_high_tail", "change, tail, high end", Show::ratio},
                                             {"kl_reference_tail", "KL, tail", Show::ratio},
                                             {"top1_agreement_tail", "same most likely token, tail", Show::share},
                                             {"attention_drift_tail", "relative drift of attention outputs, tail", Show::ratio}}},
                                           {"balance (largest / mean over the run)",
                                            {{"expert_imbalance_ratio", "choices per expert", Show::ratio},
                                             {"expert_imbalance_window", "choices per expert, per window", Show::ratio},
                                             {"shard_imbalance_ratio", "entries scanned per shard", Show::ratio},
                                             {"rank_imbalance_ratio", "entries scanned per rank", Show::ratio},
                                             {"rank_memory_imbalance", "peak bytes per rank", Show::ratio},
                                             {"lost_time_imbalance", "time ranks wait for the busiest", Show::share}}}};
  return all;
}

std::string format_value(double value, Show show) {
  if (std::isnan(value)) return "-";
  const auto whole = [&] { return static_cast<std::int64_t>(std::llround(value)); };
  switch (show) {
    case Show::bytes:
      return format_bytes(whole());
    case Show::time:
      return format_ns(whole());
    case Show::share:
      return fmt::format("{:.2f} %", 100 * value);
    case Show::count:
      return fmt::format("{}", whole());
    case Show::rate:
      return fmt::format("{:.4g} /s", value);
    default:
      return fmt::format("{:.4g}", value);
  }
}

std::string format_section(const Section& section, const std::vector<Summary>& summary) {
  std::string text;
  for (const Line& line : section.lines) {
    const auto it = std::find_if(summary.begin(), summary.end(), [&](const Summary& s) { return s.name == line.metric; });
    if (it == summary.end()) continue;
    text += fmt::format("  {:<42} {:>14}  {}\n", line.label, format_value(it->value, line.show), to_string(it->claim));
  }
  return text.empty() ? text : fmt::format("{}\n{}", section.title, text);
}

/// "key value" pairs of what the run was, those that are known.
std::string format_setting(const RunFile& run) {
  std::vector<std::string> parts;
  const auto add = [&](const char* label, const std::string& value) {
    if (!value.empty()) parts.push_back(fmt::format("{} {}", label, value));
  };
  add("model", run.facts.text("model"));
  add("trace", run.provenance.text("trace_path"));
  add("layout", run.parameter("placement.layout"));
  add("eviction", run.parameter("eviction.policy"));
  add("ranks", run.parameter("cluster.ranks"));
  add("processes", run.provenance.text("n_processes"));
  add("transport", run.provenance.text("transport"));
  add("backend", run.facts.text("backend"));
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace

std::string format_summary(const RunFile& run) {
  const RunOutcome& out = run.outcome;
  std::string text = fmt::format("{}: {}{}, digest {}\n{}\n", run.facts.text("title"), run_status_names[static_cast<std::size_t>(run.status)],
                                 out.completed ? "" : " (not complete)", to_hex(out.digest), format_setting(run));
  if (!out.labels.empty()) text += fmt::format("labels: {}\n", fmt::join(out.labels, ", "));
  for (const std::string& note : out.notes) text += fmt::format("note: {}\n", note);
  for (const std::string& violation : out.violations) text += fmt::format("VIOLATION: {}\n", violation);
  return text + format_numbers(out.summary);
}

std::string format_numbers(const std::vector<Summary>& numbers) {
  std::string text;
  for (const Section& section : sections()) {
    const std::string lines = format_section(section, numbers);
    if (!lines.empty()) text += "\n" + lines;
  }
  return text;
}

}  // namespace moekv
