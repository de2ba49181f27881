// What a run keeps from step to step outside its shards, field by field. Arrays that one step fills and uses are left out.
#include <memory>

#include "core/state_stream.hpp"
#include "engine/batcher.hpp"
#include "engine/driver.hpp"
#include "engine/sharded_cache.hpp"

namespace moekv {

void RequestTable::transfer(StateStream& stream) { stream(rows_); }

void SampleSketch::transfer(StateStream& stream) { stream(samples_, bins_, n_, mean_, squares_, sum_, min_, max_); }

void Batcher::Gaps::transfer(StateStream& stream) {
  settle();
  stream(measured, model, measured_bins, model_bins);
}

void Batcher::transfer(StateStream& stream) { stream(records_, active_, next_, step_, planned_, clock_ns_, measured_ns_, start_measured_, gaps_); }

void DecisionDigest::transfer(StateStream& stream) { stream(windows_); }

void Counters::transfer(StateStream& stream) {
  stream(step, layers, expert_load, shard_load, rank_load, codec, reuse, digest, expert_missed, expert_lookups, matrix_, send_ns_, receive_ns_, busy_,
         memory_bytes_, host_ns_, exchange_ns_, layer_load_);
  stream(step_rows_, layer_rows_, load_rows_, codec_rows_, histogram_rows_, traffic_rows_, allocation_, allocation_rows_);
}

void Home::RequestState::transfer(StateStream& stream) { stream(ranks, last_shard, last_read); }

void Home::transfer(StateStream& stream) {
  MOEKV_EXPECT(lse_waiting_.empty());  // a step that owes any delivers them as it ends
  stream(written_, notices_);
}

void Owner::transfer(StateStream& stream) {
  MOEKV_EXPECT(pending_.empty());
  stream(layer_, layer_by_expert_, step_, unsealed_);
  for (Shard& shard : shards_) stream(shard);
}

void GroupScorer::transfer(StateStream& stream) { stream(layer_sums_, summed_step_, summed_shard_, summed_request_); }

void Evictor::transfer(StateStream& stream) { stream(scorer_, step_, victims_, allowed_); }

void ShardedCache::transfer(StateStream& stream) {
  stream(requests_, counters_, home_, owner_, evictor_, settled_, step_, live_tokens_, due_, peaks_noted_);
  backend_->transfer(stream);
}

void Router::transfer(StateStream& stream) {
  for (Memory& m : memory_) {
    stream(m.values, m.view.arm);
    m.point(geometry_->n_experts());
  }
  stream(last_);
}

void ExpertPlan::transfer(StateStream& stream) { stream(n_experts, first, shard, shadowed); }

void Replanner::transfer(StateStream& stream) {
  if (every_ == 0) return;
  stream(counts_, steps_);
  ExpertPlan plan = *plan_;
  stream(plan);
  if (stream.reads()) plan_ = std::make_shared<const ExpertPlan>(std::move(plan));
}

void HeadReads::transfer(StateStream& stream) { stream(first_head, n_heads, positions); }

void Probe::Waiting::transfer(StateStream& stream) { stream(query.layer, query.shape, query.request, query.position, query.scale, q, o, reads, row); }

void Probe::transfer(StateStream& stream) { stream(rows_, waiting_, waiting_bytes_, history_); }

void Driver::transfer(StateStream& stream) {
  stream(router_, replanner_, probe_);
  if (stream.reads() && replanner_.newest() != nullptr) geometry_->adopt(replanner_.newest());
}

}  // namespace moekv
