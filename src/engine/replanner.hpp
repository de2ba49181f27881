// Replanner: counts the choices of the last steps and makes the next plan of experts from them (MODEL section 2).
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "comm/transport.hpp"
#include "engine/expert_plan.hpp"
#include "engine/geometry.hpp"
#include "engine/records.hpp"
#include "engine/router.hpp"

namespace moekv {

class Replanner {
 public:
  /// Books what the geometry's first plan shadows in `count`.
  Replanner(const Geometry& geometry, const TraceInfo& trace, Transport& transport, StepRecord& count);

  /// Whether a new plan is due before step `step`.
  [[nodiscard]] bool due(std::uint64_t step) const { return every_ > 0 && step > 0 && step % every_ == 0; }
  /// Counts this process's choices of a step that ended.
  void observe(const Router& router);
  /// Collective. The plan for the choices of the window, equal on every process; books the loads of old and new plan in `count`.
  [[nodiscard]] std::shared_ptr<const ExpertPlan> plan(StepRecord& count);
  /// The plan that is read is the newest one, for the geometry to adopt.
  void transfer(StateStream& stream);
  [[nodiscard]] const std::shared_ptr<const ExpertPlan>& newest() const { return plan_; }

 private:
  /// Load of the busiest shard of a layer when `load` [experts] is spread over the replicas, and shadowed experts over all ranks.
  [[nodiscard]] double busiest(const ExpertPlan& plan, std::uint32_t layer, const std::int64_t* load) const;
  void book_shadows(const ExpertPlan& plan, StepRecord& count) const;

  const Geometry* geometry_;
  const TraceInfo* trace_;
  Transport* transport_;
  std::uint64_t every_, window_;
  std::vector<int> rows_;                         // routing rows that name where entries lie
  std::vector<std::int64_t> counts_;              // [rows of the trace][experts] over the window, own choices
  std::deque<std::vector<std::uint32_t>> steps_;  // [rows_][experts] of each step of the window
  std::shared_ptr<const ExpertPlan> plan_;
};

}  // namespace moekv
