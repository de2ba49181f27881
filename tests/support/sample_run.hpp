// A small run outcome, made by hand, that keeps every conservation law: input of the tests of summaries, laws and result files.
#pragma once

#include "engine/records.hpp"
#include "engine/run_spec.hpp"

namespace moekv {

inline RunSpec sample_spec() {
  RunSpec spec;
  spec.name = "sample";
  spec.cluster.ranks = 2;
  spec.placement.layout = Layout::expert;
  spec.model.name = "tiny";
  spec.memory.shard_bytes = 4096;
  spec.config_path = "sample.yaml";
  spec.config_yaml = "name: sample\n";
  spec.resolved_yaml = "name: sample\nseed: 1\n";
  spec.config_digest = "00112233445566778899aabbccddeeff";
  return spec;
}

inline StepRecord sample_step(std::int64_t first_step) {
  StepRecord s;
  s.first_step = first_step;
  s.n_steps = 64;
  s.tokens = 10, s.prefill_tokens = 6, s.decode_tokens = 4, s.queries = 10;
  s.n_req = 100, s.n_hit = 80, s.n_miss = 20, s.hit_local = 50, s.hit_node = 20, s.hit_remote = 10, s.first_lookups = 40;
  s.requested_bytes = 6400, s.missed_bytes = 1600, s.requested_entries = 400, s.missed_entries = 100;
  s.entries_scanned = 30, s.entries_wanted = 20, s.masked_copies = 2, s.empty_reads = 1;
  s.insertions = 20, s.distinct_insertions = 10, s.evictions = 5, s.overcommit = 0, s.steps_under_pressure = 3;
  s.chosen_experts = 20, s.stored_copies = 16, s.dedup_merged = 4, s.stored_home = 4;
  s.query_ranks = 15, s.cross_shard_switches = 1, s.cross_shard_stores = 2, s.shard_reads = 20, s.expert_reads = 20;
  s.resident_entries = 15, s.resident_distinct = 9, s.sealed_entries = 6, s.allocated_pages = 3, s.used_slots = 15;
  s.kv_bytes_raw = 2400, s.kv_bytes_codes = 900, s.kv_bytes_stored = 1000, s.kv_peak_bytes = 1200, s.metadata_bytes = 200, s.buffer_bytes = 300;
  s.written_distinct = 20, s.evictable_entries = 6, s.free_block_bytes = 400, s.free_run_bytes = 300, s.sealed_raw_bytes = 640;
  s.wire_intra = 160, s.wire_inter = 40, s.comm_total = 20, s.comm_exposed = 20, s.t_admit_encode = 8;
  s.wire_kv = 100, s.wire_q = 40, s.wire_partial = 30, s.wire_lse = 5, s.wire_notices = 8, s.wire_headers = 17;
  s.bytes_self = 50, s.bytes_logical = 250, s.bytes_received = 250, s.wire_messages = 6, s.hidden_state_bytes = 400;
  s.t_read = 1, s.t_route = 2, s.t_place = 3, s.t_dispatch = 14, s.t_admit = 20, s.t_attend = 40, s.t_combine = 11, s.t_touch = 5, s.t_record = 4;
  s.t_step = 6400, s.t_network_model = 70, s.t_memory_model = 30, s.t_generate = 9, s.t_attend_decode = 16;
  s.attended_bytes = 800;
  return s;
}

/// Two windows of 64 steps on two ranks with one shard each; the second window frees what the first left.
inline RunOutcome sample_outcome() {
  RunOutcome out;
  out.steps = {sample_step(0), sample_step(64)};
  out.steps[1].n_hit = 70, out.steps[1].n_miss = 30, out.steps[1].hit_remote = 0;
  out.steps[1].finished_entries = 15;
  out.steps[1].t_step = 12800;
  for (const StepRecord& s : out.steps) {
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      out.layers.push_back({s.first_step, layer, 5, 50, s.n_hit / 2, 15, 10, 10, layer == 0 ? 2 : 3, 100, 20});
    }
    for (std::int64_t e = 0; e < 4; ++e) out.loads.push_back({s.first_step, 0, e, e == 0 ? 4 : e == 1 ? 0 : e == 2 ? 3 : 1, 2, 0, 0, 0, 0});
    for (std::int64_t entity = 1; entity <= 2; ++entity) {
      out.loads.push_back({s.first_step, entity, 0, 20, 0, 12, 600, 700, entity == 2 ? 60 : 0});
      if (entity == 2) out.loads.back().bytes_sent = 120, out.loads.back().bytes_recv = 80, out.loads.back().bytes_self = 50;
      if (entity == 2) out.loads.back().exchange_ns = 30, out.loads.back().wait_ns = 10;
      out.loads.push_back({s.first_step, entity, 1, 10, 0, 8, 400, 500, entity == 2 ? 20 : 0});
      if (entity == 2) out.loads.back().bytes_sent = 80, out.loads.back().bytes_recv = 120, out.loads.back().exchange_ns = 20;
    }
    out.loads.push_back({s.first_step, 3, 0, 30, 0, 20, 1000, 1200, 80, 200, 200, 50, 50, 10});
    out.histograms.push_back({s.first_step, 0, 2, 3, 4, 10});
    for (std::int64_t h = 1; h <= 2; ++h) {
      out.histograms.push_back({s.first_step, h, 1, 1, 20, 20});
      out.histograms.push_back({s.first_step, h, 8, 15, 40, 400});
    }
    out.traffic.push_back({s.first_step, 0, 0, 50, 0, 0, 0, 0, 0, 0, 1});
    out.traffic.push_back({s.first_step, 0, 1, 60, 40, 0, 5, 8, 7, 0, 4});
    out.traffic.push_back({s.first_step, 1, 0, 40, 0, 30, 0, 0, 10, 0, 2});
  }
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    for (std::int64_t e = 0; e < 4; ++e) out.layer_loads.push_back({layer, 0, e, e == 2 * layer ? 5 : e == 0 ? 3 : e == 2 ? 1 : e == 3 ? 1 : 0});
  }
  out.requests = {{0, 0, 3, 5, 0, 0, 100, 1000, 5000, 10, 900, 4900}, {1, 1, 3, 1, 50, 2, 120, 2000, 2000, 20, 700, 700}, {2, 0, 6, 4, 60, 3, 127}};
  out.requests[0].ttst_ns = 1500, out.requests[0].ttst_model_ns = 2500;
  for (const double gap : {1000, 1200, 800}) out.kv_itl.add(gap);
  out.gaps = {{512, 1023, 2, 0}, {1024, 2047, 1, 0}};
  out.probes = {{0, 0, 3, 4, 4, 0.25, 0.9, 1.0, 0.0, 1.0, 0.5}, {0, 1, 7, 8, 6, 0.75, 0.7, 0.5, 0.7, 0.5, 1.5}};
  out.digest = {0x0123456789abcdefULL, 0xfedcba9876543210ULL};
  out.window_digests = {{1, 2}, {3, 4}};
  out.labels = {"acausal"};
  out.notes = {"2 prompts were cut to 3 tokens"};
  out.wall_ns = 40000;
  out.completed = true;
  return out;
}

}  // namespace moekv
