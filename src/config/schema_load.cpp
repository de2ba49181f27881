// Keys of the load and of what is measured: prefill, batch, memory, payload, probe, score, metrics.
#include "config/custom_keys.hpp"
#include "config/schema.hpp"

namespace moekv {
namespace {

void add_payload_keys(std::vector<Key>& keys) {
  const auto add = [&](Key key) { keys.push_back(std::move(key)); };
  add(field_key("payload.element", "", "type of q, k, v on the wire and in raw pages", [](auto& s) -> auto& { return s.payload.element; }));
  add(field_key("payload.qkv", "", "auto: recorded where the trace has q, k, v, else generated", [](auto& s) -> auto& { return s.payload.qkv; }));
  add(text_choice_key("payload.generator.preset",
                      "A outlier channels and sinks, B no outliers, C extreme bias, D Gaussian; MLA shapes use their latent form",
                      {"A", "B", "C", "D"}, [](auto& s) -> auto& { return s.payload.generator.preset; }));
  add(field_key("payload.generator.expert_affinity", "1", "weight of an expert-dependent part of q and k",
                [](auto& s) -> auto& { return s.payload.generator.expert_affinity; }, {0, 1}));
  add(field_key("payload.generator.sequence_mix", "1", "0: all requests share a subspace, 1: one of each request",
                [](auto& s) -> auto& { return s.payload.generator.sequence_mix; }, {0, 1}));
  add(field_key("payload.generator.seed", "", "default: seed", [](auto& s) -> auto& { return s.payload.generator.seed; }));
}

}  // namespace

void add_load_keys(std::vector<Key>& keys) {
  const auto add = [&](Key key) { keys.push_back(std::move(key)); };
  add(counted_choice_key(
      "prefill.queries", "which prompt positions query: auto as the eviction policy needs; last:N", PrefillQueries::last,
      [](auto& s) -> auto& { return s.prefill.queries; }, "prefill.last", [](auto& s) -> auto& { return s.prefill.last; }));
  add(field_key("prefill.last", "tokens", "window of queries last", [](auto& s) -> auto& { return s.prefill.last; }, {1, 1 << 30}));
  add(field_key("prefill.evict", "", "first eviction after the last chunk of a prompt, or after every chunk",
                [](auto& s) -> auto& { return s.prefill.evict; }));
  add(field_key("prefill.chunk_tokens", "tokens", "prompt tokens of a request per step; default: 512, at most batch.max_num_batched_tokens",
                [](auto& s) -> auto& { return s.prefill.chunk_tokens; }, {1, 1 << 30}));
  add(field_key("batch.max_num_seqs", "", "requests in a step; default: 64, at most batch.max_num_batched_tokens",
                [](auto& s) -> auto& { return s.batch.max_num_seqs; }, {1, 1 << 20}));
  add(field_key("batch.max_num_batched_tokens", "tokens", "tokens in a step", [](auto& s) -> auto& { return s.batch.max_num_batched_tokens; },
                {1, 1 << 30}));
  add(counted_choice_key(
      "batch.load", "a fixed number in flight, concurrency(n), or the trace's arrivals on a virtual clock", LoadKind::concurrency,
      [](auto& s) -> auto& { return s.batch.load; }, "batch.concurrency", [](auto& s) -> auto& { return s.batch.concurrency; }));
  add(field_key("batch.concurrency", "", "requests in flight under load concurrency; default: 8, at most batch.max_num_seqs",
                [](auto& s) -> auto& { return s.batch.concurrency; }, {1, 1 << 20}));
  add(field_key("batch.max_steps", "", "0 = until every request is finished", [](auto& s) -> auto& { return s.batch.max_steps; }));
  add(field_key("memory.shard_bytes", "byte", "capacity of a shard for page blocks; 0 = unlimited",
                [](auto& s) -> auto& { return s.memory.shard_bytes; }, {0, 1e15}));
  add_payload_keys(keys);
  add(field_key("probe.samples", "", "queries whose exact attention is computed; 0 = none (the default with backend count)",
                [](auto& s) -> auto& { return s.probe.samples; }, {0, 1e6}));
  add(field_key("probe.top_k", "", "entries of topk_recall", [](auto& s) -> auto& { return s.probe.top_k; }, {1, 4096}));
  add(field_key("probe.seed", "", "default: seed", [](auto& s) -> auto& { return s.probe.seed; }));
  add(field_key("score.reference", "", "dense: the same model with every entry at hand runs along, for the change of the loss; none",
                [](auto& s) -> auto& { return s.score.reference; }));
  add(field_key("score.from_position", "tokens", "numbers named _tail are of positions from here on; 0 = from the end of each prompt",
                [](auto& s) -> auto& { return s.score.from_position; }, {0, 1 << 30}));
  add(field_key("score.resamples", "", "of the bootstrap over sequences that gives the interval of a change",
                [](auto& s) -> auto& { return s.score.resamples; }, {100, 1e6}));
  add(field_key("score.seed", "", "of the bootstrap; default: seed", [](auto& s) -> auto& { return s.score.seed; }));
  add(field_key("metrics.window_steps", "",
                "steps of a row of results; fewer where the longest request takes no more steps, doubled after every 128 rows",
                [](auto& s) -> auto& { return s.metrics.window_steps; }, {1, 1e9}));
  add(field_key("metrics.per_step", "", "a row per step instead of per window", [](auto& s) -> auto& { return s.metrics.per_step; }));
  add(field_key("metrics.warmup_steps", "", "first steps left out of warm totals, counted", [](auto& s) -> auto& { return s.metrics.warmup_steps; },
                {0, 1e9}));
  add(field_key("metrics.traffic_max_ranks", "", "the matrix of sources and destinations is stored up to this many ranks",
                [](auto& s) -> auto& { return s.metrics.traffic_max_ranks; }, {0, 65536}));
  add(field_key("metrics.slo_ttft_ms", "ms", "largest kv_ttft of a request that slo_attainment and goodput_req count; 0 = no bound",
                [](auto& s) -> auto& { return s.metrics.slo_ttft_ms; }, {0, 1e12}));
  add(field_key("metrics.slo_tpot_ms", "ms", "the same of kv_tpot", [](auto& s) -> auto& { return s.metrics.slo_tpot_ms; }, {0, 1e12}));
}

}  // namespace moekv
