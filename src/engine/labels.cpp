// Labels by what a specification asks for and by what a run did of it.
#include "engine/labels.hpp"

#include "engine/replay.hpp"
#include "engine/summarise.hpp"

namespace moekv {

std::vector<std::string> labels_of(const RunSpec& spec, const Geometry& geometry, const TraceInfo& trace) {
  std::vector<std::string> labels;
  if (spec.routing.key == RoutingKey::same_layer) labels.emplace_back("acausal");
  if (spec.read.copies == CopyRule::paper && geometry.several_copies()) labels.emplace_back("biased_softmax");
  if (geometry.evicts_before_attend()) labels.emplace_back("evicts_before_attend");
  if (spec.combine == CombineType::bf16) labels.emplace_back("combine_bf16");
  if (trace.pseudo_logits) labels.emplace_back("pseudo_logits");
  if (trace.joined) labels.emplace_back("joined");
  if (!feedback_of(spec).empty()) labels.emplace_back("feedback");
  if (geometry.layers().size() < spec.model.n_layers()) labels.emplace_back("layer_subset");
  return labels;
}

void label_exercise(const RunSpec& spec, const Geometry& geometry, RunOutcome& out) {
  std::int64_t evictions = 0, allocations = 0, sealed = 0, resident = 0, left_out = 0, sealed_pages = 0, routed = 0, rerouted = 0;
  for (const StepRecord& s : out.steps) {
    evictions += s.evictions;
    allocations += s.allocations;
    sealed += s.sealed_entries;
    resident += s.resident_entries;
    left_out += s.pages_considered - s.pages_selected;
    routed += s.routed_pairs;
    rerouted += s.routed_changed;
  }
  const bool evicts = !std::holds_alternative<evict::Full>(spec.eviction.rule);
  for (const CodecRecord& c : out.codecs) sealed_pages += c.sealed_pages;
  // A run of one step has no residents at the end of any window.
  const std::string unshrunk = unshrunk_codec(spec);
  if (!unshrunk.empty()) out.notes.push_back(unshrunk);
  const bool idle_codec = geometry.compressed() && (2 * sealed < resident || sealed_pages == 0 || !unshrunk.empty());
  const bool idle_select = selects(spec.read.select) && left_out == 0;
  const bool idle_allocator = geometry.allocated() != allocate::When::start && allocations == 0;
  const bool idle_router = traits_of(spec.routing.rule).reads_cache && routed > 0 && rerouted == 0;
  if ((evicts && evictions == 0) || idle_allocator || idle_codec || idle_select || idle_router) out.labels.emplace_back("not_exercised");
}

}  // namespace moekv
