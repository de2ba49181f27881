// Times of phases, steps and requests, and throughputs. All are of the KV path: no model forward pass runs.
#include <algorithm>

#include "engine/summary_list.hpp"

namespace moekv {
namespace {

using S = StepRecord;
using R = RequestRecord;
using enum ClaimClass;

constexpr std::int64_t S::*phase_times[n_phases] = {&S::t_read,   &S::t_route,   &S::t_place, &S::t_dispatch, &S::t_admit,
                                                    &S::t_attend, &S::t_combine, &S::t_touch, &S::t_record};

constexpr double seconds_per_ns = 1e-9;

}  // namespace

void add_times(std::span<const StepRecord> steps, std::int64_t wall_ns, SummaryList& list) {
  double phases_ns = 0;
  for (const auto field : phase_times) phases_ns += total(steps, field);
  for (std::size_t p = 0; p < n_phases; ++p) {
    const std::string name = std::string(to_string(static_cast<Phase>(p)));
    list.add_ratio("share_" + name, {"1", measured, "t_" + name + " over the sum of the nine phases (each the largest over processes)"},
                   total(steps, phase_times[p]), phases_ns);
  }
  std::vector<double> step_ns;
  for (const StepRecord& s : steps) {
    if (s.n_steps > 0) step_ns.push_back(static_cast<double>(s.t_step) / static_cast<double>(s.n_steps));
  }
  list.add_samples("step_time", {"ns", measured, "t_step / n_steps of a window (per step with metrics.per_step); KV path only"}, step_ns);
  const double network = total(steps, &S::t_network_model), memory = total(steps, &S::t_memory_model), host = total(steps, &S::t_host_model);
  list.add("t_step_model", {"ns", ClaimClass::modelled, "t_network_model + t_memory_model + t_host_model, without overlap; KV path only"},
           network + memory + host);
  const double demote_ns = total(steps, &S::t_demote), recall_ns = total(steps, &S::t_recall);
  list.add_ratio("hbm_bw", {"GB s-1", derived, "attended_bytes / t_attend_decode (measured), all ranks; a page counts once a query, so caches may lift it"},
                 total(steps, &S::attended_bytes), total(steps, &S::t_attend_decode));
  list.add_ratio("d2h_bw", {"GB s-1", derived, "demoted_bytes / t_demote (measured): copies to the host tier"}, total(steps, &S::demoted_bytes), demote_ns);
  list.add_ratio("h2d_bw", {"GB s-1", derived, "recalled_bytes / t_recall (measured): copies back from the host tier"}, total(steps, &S::recalled_bytes),
                 recall_ns);
  const double t_step = total(steps, &S::t_step), wall = static_cast<double>(wall_ns);
  const auto rate = [&](const char* name, const char* definition, double count, double ns) {
    list.add_ratio(name, {"s-1", derived, definition}, count, ns * seconds_per_ns);
  };
  rate("throughput_prompt_tokens", "prefill_tokens per second of t_step (measured); KV path only", total(steps, &S::prefill_tokens), t_step);
  rate("throughput_output_tokens", "decode_tokens per second of t_step (measured); KV path only", total(steps, &S::decode_tokens), t_step);
  rate("throughput_lookups", "n_req per second of t_step (measured)", total(steps, &S::n_req), t_step);
  list.add("sim_wall", {"ns", measured, "wall time of the replay"}, wall);
  rate("replay_rate", "tokens that count per second of wall time (measured, generation and probes included)", total(steps, &S::tokens), wall);
  list.add_ratio("useful_fraction", {"1", measured, "t_step / wall time"}, t_step, wall);
}

void add_requests(std::span<const RequestRecord> requests, std::int64_t t_step_ns, SummaryList& list) {
  struct Clock {
    std::string suffix;
    ClaimClass claim;
    std::int64_t R::*ttft;
    std::int64_t R::*e2e;
    std::int64_t R::*ttst;
    std::string text;
  };
  const Clock clocks[] = {
      {"", measured, &R::kv_ttft_ns, &R::e2e_ns, &R::ttst_ns, "monotonic clock from the first step; KV path only"},
      {"_model", ClaimClass::modelled, &R::kv_ttft_model_ns, &R::e2e_model_ns, &R::ttst_model_ns, "virtual clock from arrival; KV path only"}};
  const auto reached = [&](std::int64_t R::*field) {
    std::vector<double> samples;
    for (const RequestRecord& r : requests) {
      if (r.*field >= 0) samples.push_back(static_cast<double>(r.*field));
    }
    return samples;
  };
  for (const Clock& clock : clocks) {
    std::vector<double> tpot;
    for (const RequestRecord& r : requests) {
      if (r.output_tokens > 1 && r.*clock.ttft >= 0 && r.*clock.e2e >= 0) {
        tpot.push_back(static_cast<double>(r.*clock.e2e - r.*clock.ttft) / static_cast<double>(r.output_tokens - 1));
      }
    }
    list.add_samples("kv_ttft" + clock.suffix, {"ns", clock.claim, "time to the first output token's KV path, " + clock.text}, reached(clock.ttft));
    list.add_samples("ttst" + clock.suffix, {"ns", clock.claim, "time to the second output token's KV path, " + clock.text}, reached(clock.ttst));
    list.add_samples("kv_tpot" + clock.suffix,
                     {"ns", clock.claim, "(e2e - kv_ttft) / (output tokens - 1) of requests with at least 2, " + clock.text}, std::move(tpot));
    list.add_samples("e2e" + clock.suffix, {"ns", clock.claim, "time to the last token, " + clock.text}, reached(clock.e2e));
  }
  list.add_samples("queue_delay_model", {"ns", ClaimClass::modelled, "arrival to the start of the first step, virtual clock"},
                   reached(&R::queue_delay_model_ns));
  const auto finished = std::count_if(requests.begin(), requests.end(), [](const R& r) { return r.e2e_ns >= 0; });
  list.add("n_requests", {"1", ClaimClass::counted, "requests that started"}, static_cast<double>(requests.size()));
  list.add("n_finished", {"1", ClaimClass::counted, "requests that finished"}, static_cast<double>(finished));
  list.add_ratio("throughput_requests", {"s-1", derived, "finished requests per second of t_step of the whole run (measured); KV path only"},
                 static_cast<double>(finished), static_cast<double>(t_step_ns) * seconds_per_ns);
}

}  // namespace moekv
