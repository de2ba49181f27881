// The loop over steps and the gathering of records on process 0.
#include "engine/replay.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "core/state_stream.hpp"
#include "device/profile.hpp"
#include "engine/backend_qkv.hpp"
#include "engine/batcher.hpp"
#include "engine/labels.hpp"
#include "engine/laws.hpp"
#include "engine/phase_timer.hpp"
#include "engine/step_driver.hpp"
#include "engine/summarise.hpp"

namespace moekv {

bool uses_recorded_qkv(const RunSpec& spec, const TraceInfo& trace) {
  return spec.payload.qkv == QkvKind::recorded || (spec.payload.qkv == QkvKind::automatic && !trace.kv_layers.empty());
}

namespace {

/// (token, layer) pairs that will attend: known beforehand from lengths, so that probes can be spread over the run.
std::uint64_t count_queries(const Geometry& geometry, const Batcher& batcher) { return batcher.total_queries() * geometry.layers().size(); }

std::unique_ptr<QkvSource> make_qkv(const RunSpec& spec, TraceSource& trace, Backend& backend, std::shared_ptr<QkvSource> generator) {
  if (!backend.has_payload()) return nullptr;
  const bool recorded = uses_recorded_qkv(spec, trace.info());
  if (recorded && trace.info().kv_layers.empty()) {
    throw UserError(trace.info().path, "payload.qkv is 'recorded' but the trace has no q, k and v",
                    "use payload.qkv: generated, or a trace with /kv");
  }
  if (recorded) return make_recorded_qkv(trace, spec.model);
  if (generator == nullptr) generator = make_qkv_generator(spec.payload.generator, spec.model, spec.threads);
  return std::make_unique<BackendQkv>(std::move(generator), spec.model, backend);
}

/// Steps of the first windows: at the end of a short run nothing is resident, so its first window ends halfway.
std::uint64_t window_steps_of(const RunSpec& spec, const Batcher& batcher) {
  const std::uint64_t steps = spec.metrics.window_steps, least = batcher.least_steps();
  return least > steps ? steps : std::max<std::uint64_t>(1, std::min(steps, least / 2));
}

class Run {
 public:
  Run(const RunSpec& spec, TraceSource& trace, Backend& backend, Transport& transport, const ReplayHooks& hooks, const DriverFactory& make_driver)
      : spec_(spec),
        backend_(backend),
        transport_(transport),
        hooks_(hooks),
        first_(transport.process() == 0),
        alone_(transport.n_processes() == 1),
        geometry_(spec, trace.info(), ranks_of(spec, transport.n_processes()),
                  plan_experts(spec, trace, ranks_of(spec, transport.n_processes()), transport)),
        batcher_(geometry_, trace),
        cache_(geometry_, backend, transport, trace.n_requests()),
        driver_(make_driver ? make_driver(geometry_, cache_, count_queries(geometry_, batcher_)) : trace_driver(trace, backend.has_payload())),
        trace_info_(trace.info()),
        window_steps_(window_steps_of(spec, batcher_)),
        window_end_(window_steps_) {
    if (hooks.accesses) cache_.record_accesses();
    if (hooks.attention_groups > 0)
      driver_->probe().sample_attention(AttentionSample(geometry_, cache_.requests(), trace.n_requests(), hooks.attention_groups));
  }

  RunOutcome operator()() {
    const auto start = std::chrono::steady_clock::now();
    if (hooks_.resume != nullptr) {
      transfer(*hooks_.resume);
      resumed_at_.push_back(step_);
    }
    const auto wall_ns = [&] { return wall_before_ns_ + (std::chrono::steady_clock::now() - start).count(); };
    bool interrupted = false;
    for (; !batcher_.done() && !interrupted; ++step_) {
      if (spec_.batch.max_steps > 0 && step_ == spec_.batch.max_steps) break;
      if (step_ == hooks_.profile_begin && step_ < hooks_.profile_end) profile(hooks_.profile_start, true);
      one_step(step_);
      if (step_ + 1 == hooks_.profile_end) profile(hooks_.profile_stop, false);
      interrupted = poll_interrupt(step_ + 1);
    }
    profile(hooks_.profile_stop, false);
    interrupted = interrupted || interrupted_in_probes();
    const std::int64_t until_stop = interrupted ? wall_ns() : 0;
    if (interrupted) hand_over_state(until_stop);
    cache_.execute_due();
    close_window(step_);
    RunOutcome out = finish(interrupted ? until_stop : wall_ns());
    out.completed = !interrupted;
    return out;
  }

 private:
  /// Between two steps.
  void transfer(StateStream& stream) {
    stream(step_, window_steps_, window_end_, n_windows_, done_tokens_, wall_before_ns_, resumed_at_, batcher_, *driver_);
    stream.mark(1);
    stream(cache_);
    stream.mark(2);
  }

  void hand_over_state(std::int64_t wall_ns) {
    const bool followed = hooks_.accesses || hooks_.attention_groups > 0;  // what was logged is not part of the state
    if (!hooks_.stopped || followed || checkpoint_refusal(spec_, backend_) != nullptr) return;
    wall_before_ns_ = wall_ns;
    hooks_.stopped({step_, wall_ns, [this](StateStream& stream) { transfer(stream); }});
  }

  /// Begins or ends what a profiler records, once each.
  void profile(const std::function<void()>& call, bool begins) {
    if (profiling_ == begins || !call) return;
    call();
    profiling_ = begins;
  }

  std::unique_ptr<Driver> trace_driver(TraceSource& trace, bool payload) {
    qkv_ = make_qkv(spec_, trace, backend_, hooks_.generator);
    const bool recorded = uses_recorded_qkv(spec_, trace.info());
    // With affinity rows depend on experts, which a placement may change.
    const bool keeps = payload && !recorded && spec_.payload.generator.expert_affinity == 0;
    auto driver = std::make_unique<StepDriver>(geometry_, trace, qkv_.get(), payload, recorded, cache_, count_queries(geometry_, batcher_),
                                               keeps ? hooks_.inputs.get() : nullptr);
    driver->probe().defer();
    return driver;
  }

  void one_step(std::uint64_t step) {
    const PhaseRange range("step");
    const StepBatch& batch = batcher_.next();
    Counters& counters = cache_.counters();
    if (spec_.metrics.per_step ? step > 0 : step == window_end_) {
      // Levels of the window that ended: after its due evictions, before anything of this step is stored.
      cache_.execute_due();
      close_window(step);
      // Windows double from time to time: the rows of a long run grow with its logarithm, so memory stays constant.
      if (++n_windows_ % windows_per_doubling == 0) window_steps_ *= 2;
      window_end_ = step + window_steps_;
    }
    const std::int64_t measured = driver_->run(batch);
    hand_over_log(step);
    counters.take_step_model(model_);
    if (!alone_) transport_.allreduce_max(model_);
    const std::int64_t host = model_.back(), memory = model_[model_.size() - 2];
    const std::int64_t network = std::accumulate(model_.begin(), model_.end() - 2, std::int64_t{0});
    if (first_) {  // already the whole job's: one process books it
      counters.step.t_network_model += network;
      counters.step.t_memory_model += memory;
      counters.step.t_host_model += host;
    }
    batcher_.finish_step(batch, network + memory + host, measured);
    for (const BatchItem& item : batch.items) done_tokens_ += item.end - item.begin;
    if (first_ && hooks_.progress) hooks_.progress(progress(step_ + 1));
  }

  /// The step's part of the access log, gathered in process order, which is the order of shards.
  void hand_over_log(std::uint64_t step) {
    if (hooks_.accesses) {
      const auto events = gather_rows(transport_, cache_.accesses());
      if (first_) hooks_.accesses(step, events);
    }
    if (hooks_.attention_groups == 0) return;
    AttentionSample& sample = driver_->probe().attention();
    auto rows = gather_rows(transport_, sample.rows());
    auto cells = gather_rows(transport_, sample.cells());
    sample.clear();
    if (!first_) return;
    order_attention(rows, cells);
    hooks_.attention(rows, cells);
  }

  void close_window(std::uint64_t next_step) {
    if (cache_.counters().step.n_steps == 0) return;
    const PhaseRange range("record");
    PhaseTimer timer;
    cache_.take_levels();
    timer.lap(cache_.counters().step.t_record);
    cache_.counters().flush(next_step);
  }

  [[nodiscard]] Progress progress(std::uint64_t steps) const { return {steps, done_tokens_, batcher_.total_tokens(), driver_->probe().n_waiting()}; }

  bool poll_interrupt(std::uint64_t steps) {
    if (!hooks_.interrupted) return false;
    std::int64_t stop = hooks_.interrupted(progress(steps)) ? 1 : 0;
    if (!alone_) transport_.allreduce_max({&stop, 1});
    return stop != 0;
  }

  /// Measures the probes that waited for the end of the run. True where that was interrupted: what still waits is part of the state.
  bool interrupted_in_probes() {
    for (;;) {
      std::int64_t measured = driver_->probe().settle_some() ? 1 : 0;
      if (!alone_) transport_.allreduce_max({&measured, 1});
      if (measured == 0) return false;
      if (first_ && hooks_.progress) hooks_.progress(progress(step_));
      if (poll_interrupt(step_)) return true;
    }
  }

  RunOutcome finish(std::int64_t wall_ns) {
    RunOutcome out;
    out.wall_ns = wall_ns;
    cache_.counters().collect(transport_, out);
    driver_->collect(transport_, out);
    std::int64_t sliced = backend_.time_sliced() ? 1 : 0;
    transport_.allreduce_max({&sliced, 1});
    if (!first_) return out;
    out.n_processes = transport_.n_processes();
    out.requests = batcher_.records();
    batcher_.take_gaps(out);
    out.labels = labels_of(spec_, geometry_, trace_info_);
    out.notes = spec_.notes;
    label_exercise(spec_, geometry_, out);
    if (batcher_.cut_prompts() > 0)
      out.notes.push_back(fmt::format("{} prompts were cut to trace.max_prompt_tokens and end there", batcher_.cut_prompts()));
    if (!resumed_at_.empty())
      out.notes.push_back(fmt::format("interrupted and resumed at step {}: measured times are of several processes", fmt::join(resumed_at_, ", ")));
    if (sliced > 0) out.notes.emplace_back("several processes shared a GPU by turns (time-sliced): measured times hold those of other processes too");
    for (std::string& law : check_laws(spec_, out)) out.violations.push_back(std::move(law));  // after those of the driver
    out.summary = summarise(spec_, out);
    return out;
  }

  const RunSpec& spec_;
  Backend& backend_;
  Transport& transport_;
  const ReplayHooks& hooks_;
  const bool first_, alone_;  // of the processes
  Geometry geometry_;
  Batcher batcher_;
  ShardedCache cache_;
  std::unique_ptr<QkvSource> qkv_;
  std::unique_ptr<Driver> driver_;
  TraceInfo trace_info_;
  static constexpr std::uint64_t windows_per_doubling = 128;
  std::uint64_t window_steps_, window_end_;
  std::uint64_t n_windows_ = 0;
  std::uint64_t step_ = 0, done_tokens_ = 0;  // steps and tokens that are done
  std::int64_t wall_before_ns_ = 0;           // of the runs that this one goes on from
  std::vector<std::uint64_t> resumed_at_;     // steps
  std::vector<std::int64_t> model_;           // modelled times of the step
  bool profiling_ = false;
};

}  // namespace

std::string feedback_of(const RunSpec& spec) {
  if (!spec.model.path.empty()) return "a model drives the run, and what it computes depends on what its caches gave it";
  if (traits_of(spec.routing.rule).reads_cache) return "the router reads cache state, so another policy would have other accesses";
  const bool by_content = spec.eviction.access == AccessSource::mass || spec.eviction.access == AccessSource::selected;
  if (by_content && spec.eviction.budget.kind != BudgetKind::unlimited && spec.eviction.action == EvictAction::drop)
    return "accesses follow attention or selection, and what was dropped has none";
  return {};
}

const char* checkpoint_refusal(const RunSpec& spec, const Backend& backend) {
  if (!spec.model.path.empty()) return "a model is in the loop";
  return backend.can_transfer() ? nullptr : "the backend does not give out its state";
}

RunOutcome replay(const RunSpec& spec, TraceSource& trace, Backend& backend, Transport& transport, const ReplayHooks& hooks,
                  const DriverFactory& make_driver) {
  return Run(spec, trace, backend, transport, hooks, make_driver)();
}

}  // namespace moekv
