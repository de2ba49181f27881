// The reference of a scored run, and the factory that puts run and reference together.
#include "model/model_driver.hpp"

namespace moekv {
namespace {

/// The run's specification without anything that removes, approximates or moves: every entry at hand, raw, read in full, routed by the model's gate.
RunSpec dense_spec(const RunSpec& run) {
  RunSpec spec = run;
  spec.routing = {};
  spec.read = {};
  spec.eviction = {};
  spec.eviction.access = AccessSource::dense;
  spec.compression = {};
  spec.memory = {};
  spec.combine = CombineType::fp32;
  spec.step_order = StepOrder::standard;
  spec.probe.samples = 0;
  PlacementSpec& placement = spec.placement;
  if (placement.map == ShardMap::eplb) placement.map = ShardMap::expert_affine;
  placement.replan_every_steps = 0;
  placement.shadow = ShadowRule::none;
  return spec;
}

}  // namespace

ReferenceRun::ReferenceRun(const RunSpec& spec, const Decoder& decoder, const TokenSource& tokens, Transport& transport)
    : spec_(dense_spec(spec)),
      backend_(make_backend(spec.backend, spec.threads)),
      geometry_(spec_, tokens.info(), spec_.cluster.ranks),
      cache_(geometry_, *backend_, transport, tokens.n_requests()),
      driver_(geometry_, cache_, decoder, tokens, nullptr, nullptr, nullptr, 0) {
  driver_.keep_tracks();
}

ReferenceRun::~ReferenceRun() = default;

void ReferenceRun::run(const StepBatch& batch) {
  driver_.run(batch);
  (void)cache_.counters().take_step_model();
}

DriverFactory model_driver(const RunSpec& spec, const Decoder& decoder, const TokenSource& tokens, Transport& transport, TraceRecorder* recorder) {
  return [&spec, &decoder, &tokens, &transport, recorder](Geometry& geometry, ShardedCache& cache, std::uint64_t total_queries) {
    auto history = spec.probe.samples > 0 ? std::make_unique<KvHistory>(decoder) : nullptr;
    auto reference = spec.score.reference == ScoreReference::dense ? std::make_unique<ReferenceRun>(spec, decoder, tokens, transport) : nullptr;
    return std::make_unique<ModelDriver>(geometry, cache, decoder, tokens, std::move(history), std::move(reference), recorder, total_queries);
  };
}

}  // namespace moekv
