// count_bench: page look-ups per second of a policy-only replay (count backend), beside a plain array-LRU loop measured in the same run.
#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <vector>

#include "comm/transport.hpp"
#include "engine/replay.hpp"
#include "plain_lru.hpp"

namespace moekv {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double peak_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024.0;
}

/// Look-ups per second of a plain array LRU on a skewed id stream made beforehand.
double plain_lru_per_s(std::uint32_t n_pages, std::uint32_t capacity, std::uint64_t n_lookups) {
  const std::vector<std::uint32_t> ids = skewed_ids(n_pages, 1U << 20);
  PlainLru lru(n_pages, capacity);
  std::uint64_t hits = 0, done = 0;
  const auto start = Clock::now();
  for (; done < n_lookups; done += ids.size()) hits += lru.run(ids);
  const double rate = static_cast<double>(done) / seconds_since(start);
  if (hits == 0) fmt::print("the baseline never hit\n");
  return rate;
}

RunSpec spec_of(std::uint32_t ranks, std::uint32_t requests, std::uint32_t tokens, std::uint32_t concurrency) {
  RunSpec spec;
  spec.backend = "count";
  spec.model.name = "bench";
  spec.model.layers.resize(4);
  spec.model.hidden = 2048;
  spec.model.n_heads = 16;
  spec.model.n_kv_heads = 4;
  spec.model.d_k = spec.model.d_v = 128;
  spec.model.gate.n_experts = 64;
  spec.model.gate.top_k = 6;
  spec.trace.synthetic.preset = "uniform";
  spec.trace.synthetic.n_requests = requests;
  spec.trace.synthetic.prompt_tokens = 0;
  spec.trace.synthetic.output_tokens = tokens;
  spec.cluster.ranks = ranks;
  spec.placement.layout = Layout::expert;
  spec.placement.map = ShardMap::expert_affine;
  spec.read.scope = ReadScope::routed;
  spec.eviction.rule = evict::Lru{};
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  spec.batch.concurrency = concurrency;
  spec.batch.max_num_seqs = concurrency;
  spec.probe.samples = 0;
  return spec;
}

int run(int argc, char** argv) {
  CLI::App app{"page look-ups per second of the count backend beside a plain array LRU"};
  std::uint32_t ranks = 1024, requests = 16, tokens = 64000, concurrency = 4;
  app.add_option("--ranks", ranks, "logical ranks");
  app.add_option("--requests", requests);
  app.add_option("--tokens", tokens, "decode tokens of a request");
  app.add_option("--concurrency", concurrency);
  CLI11_PARSE(app, argc, argv);
  const RunSpec spec = spec_of(ranks, requests, tokens, concurrency);
  const auto trace = make_synthetic_trace(spec.trace.synthetic, spec.model);
  const auto backend = make_count_backend();
  const auto transport = make_local_transport();
  const std::uint32_t pages = concurrency * 4 * 64 * (tokens * 6 / 64 / 16 + 1);
  std::vector<double> baseline;
  double memory_at_quarter = 0;
  ReplayHooks hooks;
  hooks.progress = [&](const Progress& p) {
    const std::size_t due = p.done_tokens * 4 / p.total_tokens;  // the baseline is measured four times along the run
    if (baseline.size() < due) baseline.push_back(plain_lru_per_s(pages, pages / 2, 20'000'000));
    if (due == 1 && memory_at_quarter == 0) memory_at_quarter = peak_mib();
  };
  const RunOutcome out = replay(spec, *trace, *backend, *transport, hooks);
  StepRecord sum;
  for (const StepRecord& s : out.steps) {
    for_each_field(StepRecord::metrics, [&](const auto& m) { sum.*m.member += s.*m.member; });
  }
  std::sort(baseline.begin(), baseline.end());
  const double plain = baseline[baseline.size() / 2];
  const double reader_s = static_cast<double>(sum.t_read + sum.t_route) * 1e-9;
  const double cache_s = static_cast<double>(sum.t_step) * 1e-9 - reader_s;
  const double rate = static_cast<double>(sum.n_req) / cache_s;
  fmt::print("{} ranks in one process, {} tokens x 4 layers, E 64 top-6, routed reads, lru 50 %: {} look-ups, ", ranks, sum.tokens, sum.n_req);
  fmt::print("hit ratio {:.3f}, {} evictions, violations {}\n", static_cast<double>(sum.n_hit) / static_cast<double>(sum.n_req), sum.evictions,
             out.violations.size());
  fmt::print("reader and router {:.1f} s ({:.2f} M rows/s), caches {:.1f} s; peak memory {:.0f} MiB, {:.0f} MiB after a quarter of the run\n", reader_s,
             static_cast<double>(sum.tokens) * 4e-6 / reader_s, cache_s, peak_mib(), memory_at_quarter);
  fmt::print("phases place {:.1f} dispatch {:.1f} admit {:.1f} attend {:.1f} combine {:.1f} touch {:.1f} s\n", static_cast<double>(sum.t_place) * 1e-9,
             static_cast<double>(sum.t_dispatch) * 1e-9, static_cast<double>(sum.t_admit) * 1e-9, static_cast<double>(sum.t_attend) * 1e-9,
             static_cast<double>(sum.t_combine) * 1e-9, static_cast<double>(sum.t_touch) * 1e-9);
  fmt::print("look-ups/s {:.2f} M, plain array LRU {:.2f} M (min {:.2f}, max {:.2f}): ratio {:.3f} (required 0.1, aim 0.5)\n", rate * 1e-6, plain * 1e-6,
             baseline.front() * 1e-6, baseline.back() * 1e-6, rate / plain);
  return out.violations.empty() ? 0 : 1;
}

}  // namespace
}  // namespace moekv

int main(int argc, char** argv) { return moekv::run(argc, argv); }
