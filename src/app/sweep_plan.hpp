// What a point of a sweep will need, predicted from lengths: for --dry-run, and for --submit beside what a job asks for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "app/point.hpp"
#include "config/sweep.hpp"

namespace moekv {

/// What one point will need, or why it cannot run.
struct PointPlan {
  double rank_bytes = 0, job_bytes = 0;  // fullest rank; all ranks together
  std::vector<double> host_bytes;        // [ranks]: memory of the host
  std::vector<double> device_bytes;      // [ranks]: pages of backend cuda
  double weight_bytes = 0;               // of a model in the loop, in every process
  std::int64_t model_ns = 0;
  std::uint64_t tokens = 0;
  bool evicts = false, upper_bound = false;  // as of PlanCost
  std::string refusal, caution;              // why it cannot run here, or may not
};

/// `n_processes` will run the point.
[[nodiscard]] PointPlan plan_point(const SweepPoint& point, PointCache& cache, int n_processes = 1);

/// The processes of a job and what each node and device of it has; 0 bytes: nobody knows.
struct JobShape {
  std::uint32_t nodes = 1, tasks_per_node = 1;
  double node_bytes = 0, device_bytes = 0;
};

/// Memory of the fullest node (its processes and their program included) and of the fullest device.
struct JobNeed {
  double node_bytes = 0, device_bytes = 0;
};
[[nodiscard]] JobNeed job_need(const PointPlan& plan, std::uint32_t nodes, std::uint32_t tasks_per_node);

}  // namespace moekv
