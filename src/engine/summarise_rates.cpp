// Rates against what could be: links, memory, codec, requests within bounds, and throughput of a rank.
#include <algorithm>
#include <cmath>

#include "engine/summary_list.hpp"

namespace moekv {
namespace {

using S = StepRecord;
using R = RequestRecord;
using enum ClaimClass;

constexpr double seconds_of_ns = 1e-9;

/// Bytes over a class of links against what all ranks' links of the class carry in the modelled time.
void add_links(const ClusterModel& network, std::span<const S> steps, double ranks, SummaryList& list) {
  const double ns = total(steps, &S::t_network_model) + total(steps, &S::t_memory_model) + total(steps, &S::t_host_model);
  const auto use = [&](const char* name, const char* bytes_text, double bytes, double peak_gb_s) {
    list.add_ratio(name,
                   {"1", ClaimClass::modelled, std::string(bytes_text) + " over t_step_model times the configured bandwidth of every rank's link"},
                   bytes, ns * peak_gb_s * ranks);
  };
  use("link_util_intra", "wire_intra", total(steps, &S::wire_intra), network.intra_node.bandwidth_gb_s);
  use("link_util_inter", "wire_inter", total(steps, &S::wire_inter), network.inter_node.bandwidth_gb_s);
  use("link_util_host", "demoted_bytes + recalled_bytes", total(steps, &S::demoted_bytes) + total(steps, &S::recalled_bytes),
      network.host_link.bandwidth_gb_s);
}

void add_bandwidths(const RunSpec& spec, std::span<const S> steps, double ranks, double processes, SummaryList& list) {
  const auto bandwidth = [&](const char* name, const std::string& text, double bytes, double ns) {
    list.add_ratio(name, {"GB s-1", ClaimClass::derived, text}, bytes, ns);
  };
  const double exchange_ns = (total(steps, &S::t_dispatch) + total(steps, &S::t_combine)) * ranks;
  const std::string of_rank = " of a rank, mean, over host time of dispatch and combine, packing included";
  double wire = 0;
  for (const S& s : steps) wire += static_cast<double>(wire_bytes(s));
  bandwidth("bw_logical_local_in", "bytes_logical" + of_rank, total(steps, &S::bytes_logical), exchange_ns);
  bandwidth("bw_logical_local_out", "bytes_wire" + of_rank, wire, exchange_ns);
  bandwidth("bw_scale_up", "wire_intra" + of_rank, total(steps, &S::wire_intra), exchange_ns);
  bandwidth("bw_scale_out", "wire_inter" + of_rank, total(steps, &S::wire_inter), exchange_ns);
  bandwidth("goodput_bytes", "requested_bytes - missed_bytes over t_step (measured): looked-up entries that had not been evicted",
            total(steps, &S::requested_bytes) - total(steps, &S::missed_bytes), total(steps, &S::t_step));
  if (spec.backend == "count") return;  // no payload is read or encoded
  bandwidth("codec_bw", "sealed_raw_bytes over t_admit_encode (measured): compression; attention decodes as it reads",
            total(steps, &S::sealed_raw_bytes), total(steps, &S::sealed_raw_bytes) > 0 ? total(steps, &S::t_admit_encode) : 0);
  list.add_ratio("hbm_frac_peak",
                 {"1", ClaimClass::derived,
                  "hbm_bw over memory_bandwidth_gb_s of cluster.network times processes: a share of this machine's peak only "
                  "where that file describes this machine"},
                 total(steps, &S::attended_bytes), total(steps, &S::t_attend_decode) * spec.cluster.network.memory_bandwidth_gb_s * processes);
}

}  // namespace

void add_rates(const RunSpec& spec, std::span<const S> steps, std::int64_t n_ranks, std::int64_t n_processes, SummaryList& list) {
  const auto ranks = static_cast<double>(n_ranks);
  add_links(spec.cluster.network, steps, ranks, list);
  add_bandwidths(spec, steps, ranks, static_cast<double>(n_processes), list);
  const double comm = total(steps, &S::comm_total);
  list.add_ratio("overlap", {"1", measured, "1 - comm_exposed / comm_total: share of communication that compute covers"},
                 comm - total(steps, &S::comm_exposed), comm);
  const auto rate = [&](const char* name, const char* what, double count) {
    list.add_ratio(name, {"s-1", ClaimClass::derived, std::string(what) + " per second of t_step (measured) and rank; KV path only"}, count,
                   total(steps, &S::t_step) * seconds_of_ns * ranks);
  };
  rate("throughput_prompt_tokens_per_rank", "prefill_tokens", total(steps, &S::prefill_tokens));
  rate("throughput_output_tokens_per_rank", "decode_tokens", total(steps, &S::decode_tokens));
  rate("throughput_lookups_per_rank", "n_req", total(steps, &S::n_req));
}

void add_slo(const MetricsSpec& metrics, std::span<const R> requests, std::int64_t t_step_ns, SummaryList& list) {
  if (metrics.slo_ttft_ms <= 0 && metrics.slo_tpot_ms <= 0) return;
  struct Clock {
    std::string suffix;
    ClaimClass claim;
    std::int64_t R::*ttft;
    std::int64_t R::*e2e;
  };
  for (const Clock& clock :
       {Clock{"", measured, &R::kv_ttft_ns, &R::e2e_ns}, Clock{"_model", ClaimClass::modelled, &R::kv_ttft_model_ns, &R::e2e_model_ns}}) {
    double met = 0, finished = 0;
    std::int64_t first = 0, last = 0;
    for (const R& r : requests) {
      if (r.*clock.e2e < 0) continue;
      const auto ttft = static_cast<double>(r.*clock.ttft);
      const double tpot = r.output_tokens > 1 ? static_cast<double>(r.*clock.e2e - r.*clock.ttft) / static_cast<double>(r.output_tokens - 1) : 0;
      const bool in_time =
          (metrics.slo_ttft_ms <= 0 || ttft <= metrics.slo_ttft_ms * 1e6) && (metrics.slo_tpot_ms <= 0 || tpot <= metrics.slo_tpot_ms * 1e6);
      met += in_time ? 1 : 0;
      first = finished == 0 ? r.arrival_ns : std::min(first, r.arrival_ns);
      last = std::max(last, r.arrival_ns + r.*clock.e2e);
      finished += 1;
    }
    const double seconds = static_cast<double>(clock.claim == measured ? t_step_ns : last - first) * seconds_of_ns;
    const std::string text = "finished requests within metrics.slo_ttft_ms (kv_ttft) and metrics.slo_tpot_ms (kv_tpot), ";
    list.add_ratio("slo_attainment" + clock.suffix, {"1", clock.claim, text + "over finished ones; KV path only"}, met, finished);
    list.add_ratio(
        "goodput_req" + clock.suffix,
        {"s-1", clock.claim, text + (clock.claim == measured ? "per second of t_step" : "per second of the virtual clock") + "; KV path only"}, met,
        seconds);
  }
}

}  // namespace moekv
