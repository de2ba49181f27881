// The phases of one layer step, in the order of MODEL section 7.
#include "engine/sharded_cache.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "device/profile.hpp"
#include "engine/copies.hpp"

namespace moekv {
namespace {

std::vector<int> processes(std::uint32_t n_ranks, int n_processes) {
  std::vector<int> of(n_ranks);
  for (int p = 0; p < n_processes; ++p) {
    for (std::uint32_t g = first_rank_of(p, n_ranks, n_processes); g < first_rank_of(p + 1, n_ranks, n_processes); ++g) of[g] = p;
  }
  return of;
}

}  // namespace

ShardedCache::ShardedCache(const Geometry& geometry, Backend& backend, Transport& transport, std::uint32_t n_requests)
    : geometry_(&geometry),
      backend_(&backend),
      transport_(&transport),
      first_(first_rank_of(transport.process(), geometry.n_ranks(), transport.n_processes())),
      end_(first_rank_of(transport.process() + 1, geometry.n_ranks(), transport.n_processes())),
      process_of_rank_(processes(geometry.n_ranks(), transport.n_processes())),
      requests_(n_requests),
      counters_(geometry, first_, end_),
      home_(geometry, backend, transport, counters_, process_of_rank_, first_, end_),
      owner_(geometry, backend, transport, counters_, requests_, first_, end_),
      evictor_(geometry, requests_, backend, counters_, [this](Shard& shard, const Group& group, std::size_t slot) { notify(shard, group, slot); }),
      mover_(geometry, backend, transport, counters_, requests_, process_of_rank_) {
  evictor_.set_shards(geometry.placement().first_shard(first_.value), owner_.shards().size());
}

void ShardedCache::begin_step(const StepBatch& batch) {
  step_ = batch.step;
  requests_.begin_step(batch);
  for (const BatchItem& item : batch.items) live_tokens_ += item.end - item.begin;
}

void ShardedCache::exchange() {
  PhaseTimer timer;
  transport_->exchange();
  timer.lap(counters_.step.comm_total);
}

void ShardedCache::add_ranks_of(const CopySet& copies, std::uint8_t c, const Group& group, std::uint32_t position) {
  const Placement& placement = geometry_->placement();
  const ReplayLayer& layer = geometry_->layers()[group.layer];
  const auto add = [&](ShardId shard) {
    const std::uint32_t rank = placement.owner(shard).value;
    if (std::find(notified_.begin(), notified_.end(), rank) == notified_.end()) notified_.push_back(rank);
  };
  const bool moved = !settled_.empty() && position < settled_[group.request.value];
  if (!moved || placement.is_shadowed(layer.layer.value, copies.expert[c])) return add(copies.shard[c]);
  geometry_->for_each_home_of(layer, copies.expert[c], add);
}

void ShardedCache::notify(Shard& shard, const Group& group, std::size_t slot) {
  const ReplayLayer& layer = geometry_->layers()[group.layer];
  if (geometry_->layout(layer) != Layout::expert) return;
  const CopySet copies = plan_copies(geometry_->placement(), group.home, group.request, layer.layer.value, shard.position(slot), shard.experts(slot));
  const Notice notice{group.request, group.layer, shard.position(slot), group.head_group, shard.copy(slot)};
  std::vector<std::uint32_t>& ranks = notified_;
  ranks.clear();
  for (std::uint8_t c = 0; c < copies.n_copies; ++c) {
    if (c != notice.copy && (shard.alive_copies(slot) >> c & 1U) != 0) add_ranks_of(copies, c, group, notice.position);
  }
  for (const std::uint32_t rank : ranks) home_.add_notice(shard.rank(), Rank(rank), notice.pack());
}

void ShardedCache::evict_due(PhaseTimer& timer) {
  if (!due_) return;
  std::int64_t evict_ns = 0;
  for (Shard& shard : owner_.shards()) evictor_.execute(shard);
  owner_.copy_demoted();
  timer.lap(evict_ns);
  counters_.step.t_admit += evict_ns;
  counters_.step.t_admit_evict += evict_ns;
  counters_.step.t_demote += std::exchange(owner_.demote_ns, 0);
  due_ = false;
}

void ShardedCache::record_accesses() {
  for (Shard& shard : owner_.shards()) shard.record_accesses(recorder_);
}

void ShardedCache::replan(Geometry& geometry, std::shared_ptr<const ExpertPlan> plan) {
  StepRecord& count = counters_.step;
  PhaseTimer timer;
  evict_due(timer);
  // Notices that wait were addressed by the old plan.
  home_.pack_tail();
  exchange();
  owner_.receive(static_cast<std::uint32_t>(geometry_->layers().size() - 1), step_);
  counters_.end_exchange();
  geometry.adopt(std::move(plan));
  std::int64_t stall = mover_.move(owner_, home_, step_);
  transport_->allreduce_max({&stall, 1});
  if (transport_->process() == 0) {
    count.replans += 1;
    count.t_replan_model += stall;
  }
  settled_ = requests_.lengths();
  peaks_noted_ = false;  // what arrived counts for the peaks of its ranks
  note_peak();
  for (Shard& shard : owner_.shards()) {
    shard.settle(requests_);
    count.replan_evictions += static_cast<std::int64_t>(evictor_.make_room(shard, step_));
  }
}

void ShardedCache::execute_due() {
  const std::int64_t before = counters_.step.t_admit_evict;
  PhaseTimer timer;
  evict_due(timer);
  counters_.step.t_step += counters_.step.t_admit_evict - before;  // no step of the driver holds it
}

// NOLINTNEXTLINE(readability-function-size): the phases of a step, in order and timed
void ShardedCache::layer_step(const LayerInput& input, LayerOutput& output, PhaseTimer& timer) {
  StepRecord& count = counters_.step;
  LayerRecord& layer = counters_.layers[input.layer];
  PhaseRange range("place");
  home_.plan(input);
  timer.lap(count.t_place);

  range.next("dispatch");
  home_.pack(input);
  exchange();
  owner_.receive(input.layer, step_);
  counters_.end_exchange();
  timer.lap(count.t_dispatch);

  range.next("admit");
  evict_due(timer);
  owner_.admit();
  timer.lap(count.t_admit);
  note_peak();
  if (geometry_->evicts_before_attend()) {
    std::int64_t evict_ns = 0;
    for (Shard& shard : owner_.shards()) {
      evictor_.decide(shard, step_, input.layer);
      evictor_.execute(shard);
    }
    timer.lap(evict_ns);
    count.t_admit += evict_ns;
    count.t_admit_evict += evict_ns;
  }

  range.next("attend");
  const std::int64_t attend_before = count.t_attend;
  std::size_t grown = owner_.grown_ranks().size();
  const auto note_growth = [&] {
    if (owner_.grown_ranks().size() > std::exchange(grown, owner_.grown_ranks().size())) note_peak();
  };
  owner_.attend();
  timer.lap(count.t_attend);
  layer.t_attend += count.t_attend - attend_before;
  note_growth();
  count.t_attend_select += std::exchange(owner_.select_ns, 0);
  count.t_attend_decode += std::exchange(owner_.decode_ns, 0);

  range.next("combine");
  owner_.reply();
  exchange();
  home_.merge(input, output);
  counters_.end_exchange();
  timer.lap(count.t_combine);

  range.next("touch");
  owner_.seal();
  timer.lap(count.t_touch);
  note_growth();
  count.t_admit_encode += std::exchange(owner_.encode_ns, 0);
  count.t_recall += std::exchange(owner_.recall_ns, 0);
}

void ShardedCache::end_step(const StepBatch& batch, PhaseTimer& timer) {
  const PhaseRange range("touch");
  if (geometry_->needs_mass()) {
    // Masses of the last layer must be complete before anything is decided, so its log-sum-exps do not wait for the next step's dispatch.
    home_.pack_tail();
    exchange();
    owner_.receive(static_cast<std::uint32_t>(geometry_->layers().size() - 1), step_);
    counters_.end_exchange();
    owner_.absorb_unread();
  }
  for (Shard& shard : owner_.shards()) evictor_.touch(shard, step_);
  for (const BatchItem& item : batch.items) {
    if (!item.finishes()) continue;
    live_tokens_ -= item.total_tokens;
    for (Shard& shard : owner_.shards()) {
      const Shard::Finished gone = shard.finish(item.request);
      counters_.step.finished_entries += gone.entries;
      counters_.step.host_finished_entries += gone.in_host;
    }
    home_.finish(item.request);
  }
  if (!geometry_->evicts_before_attend()) {
    for (Shard& shard : owner_.shards()) evictor_.decide(shard, step_);
    due_ = true;
  }
  timer.lap(counters_.step.t_touch);
}

void ShardedCache::note_peak() {
  const auto capacity = static_cast<std::int64_t>(geometry_->spec().memory.shard_bytes);
  const Placement& placement = geometry_->placement();
  const std::uint32_t first_shard = placement.first_shard(first_.value);
  const auto note = [&](std::uint32_t rank) {
    std::int64_t bytes = 0;
    for (std::uint32_t s = placement.first_shard(rank); s < placement.first_shard(rank + 1); ++s) {
      const std::int64_t own = owner_.shards()[s - first_shard].block_bytes();
      LoadRecord& load = counters_.shard_load[s - first_shard];
      const std::int64_t before = std::max<std::int64_t>(0, load.peak_bytes - capacity);
      load.peak_bytes = std::max(load.peak_bytes, own);
      if (capacity > 0) counters_.step.capacity_excess_bytes += std::max<std::int64_t>(0, load.peak_bytes - capacity) - before;
      bytes += own;
    }
    LoadRecord& load = counters_.rank_load[rank - first_.value];
    counters_.step.kv_peak_bytes += std::max<std::int64_t>(0, bytes - load.peak_bytes);
    load.peak_bytes = std::max(load.peak_bytes, bytes);
  };
  if (!peaks_noted_) {
    for (std::uint32_t g = first_.value; g < end_.value; ++g) note(g);
    peaks_noted_ = true;
  } else {
    for (const Rank g : owner_.grown_ranks()) note(g.value);
  }
}

void ShardedCache::note_lists(Shard& shard) {
  counters_.step.allocation_error += shard.take_allocation_error();
  const EvictionSpec& spec = geometry_->spec().eviction;
  if (spec.budget.kind == BudgetKind::unlimited || spec.scope == EvictScope::shard) return;
  for (const Group& group : shard.groups()) {
    if (group.in_use)
      counters_.note_list(group.layer, geometry_->model_head_group(shard.rank(), group.head_group), group.list.budget, group.list.live);
  }
}

void ShardedCache::take_levels() {
  StepRecord& count = counters_.step;
  for (Shard& shard : owner_.shards()) {
    note_lists(shard);
    const Shard::Usage u = shard.usage();
    count.resident_entries += u.entries;
    if (geometry_->holds_first(shard.rank())) count.resident_distinct += u.distinct;
    count.sealed_entries += u.sealed_entries;
    count.allocated_pages += u.pages;
    count.used_slots += u.entries;
    count.kv_bytes_raw += u.raw_bytes;
    count.kv_bytes_stored += u.bytes;
    count.kv_bytes_codes += u.code_bytes;
    count.metadata_bytes += u.metadata_bytes;
    count.bounds_bytes += u.bounds_bytes;
    count.host_entries += u.host_entries;
    count.host_bytes += u.host_bytes;
    count.evictable_entries += evictor_.evictable_entries(shard);
    count.free_block_bytes += u.free_bytes;
    count.free_run_bytes += u.free_run_bytes;
    for (std::size_t c = 0; c < counters_.codec.size(); ++c) {
      counters_.codec[c].entries += u.class_entries[c];
      counters_.codec[c].page_bytes += u.class_bytes[c];
    }
    counters_.shard_load[shard.id().value - owner_.shards().front().id().value].resident_bytes = u.bytes;
    counters_.rank_load[shard.rank().value - first_.value].resident_bytes += u.bytes;
  }
  peaks_noted_ = false;
  const std::int64_t tables = backend_->memory().table_bytes;
  count.codec_table_bytes += tables;
  count.metadata_bytes += tables;
  const BackendWork work = backend_->take_work();
  count.graph_launches += work.graph_launches;
  count.graph_captures += work.graph_captures;
  count.plain_batches += work.plain_batches;
  count.comm_buffer_bytes += transport_->buffer_bytes();
  // Known everywhere from the batches: one process books it. A copy rule that counts every copy knows no distinct tokens.
  if (transport_->process() == 0 && geometry_->spec().read.copies != CopyRule::paper)
    count.written_distinct = live_tokens_ * static_cast<std::int64_t>(geometry_->layers().size()) * geometry_->distinct_parts();
  count.buffer_bytes += transport_->buffer_bytes() + home_.buffer_bytes() + owner_.buffer_bytes();
}

}  // namespace moekv
