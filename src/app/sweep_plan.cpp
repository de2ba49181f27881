// Predictions of plan_cost, divided over the processes of a job as the caches divide ranks.
#include "app/sweep_plan.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "core/error.hpp"
#include "engine/plan_cost.hpp"
#include "engine/sharded_cache.hpp"

namespace moekv {
namespace {

constexpr double process_bytes = 64.0 * (1U << 20);  // program, libraries, the window of a trace
constexpr double pool_slack = 1.15;                  // pools grow in blocks, allocators round up

void take_cost(const RunSpec& spec, const PlanCost& cost, PointPlan& plan) {
  const double metadata = std::accumulate(cost.rank_metadata_bytes.begin(), cost.rank_metadata_bytes.end(), 0.0);
  const double buffers = cost.rank_buffer_bytes * static_cast<double>(cost.rank_page_bytes.size());
  const double pages = spec.backend == "count" ? 0.0 : cost.page_bytes();
  plan.rank_bytes =
      cost.max_rank_page_bytes() + *std::max_element(cost.rank_metadata_bytes.begin(), cost.rank_metadata_bytes.end()) + cost.rank_buffer_bytes;
  plan.job_bytes = pages + metadata + buffers;
  for (std::size_t g = 0; g < cost.rank_page_bytes.size(); ++g) {
    plan.host_bytes.push_back(cost.rank_metadata_bytes[g] + cost.rank_buffer_bytes + (spec.backend == "host" ? cost.rank_page_bytes[g] : 0.0));
    plan.device_bytes.push_back(spec.backend == "cuda" ? cost.rank_page_bytes[g] : 0.0);
  }
  if (!spec.model.path.empty()) plan.weight_bytes = static_cast<double>(std::filesystem::file_size(spec.model.path));
  plan.model_ns = std::llround(cost.model_ns);
  plan.tokens = cost.tokens;
  plan.evicts = cost.evicts;
  plan.upper_bound = cost.upper_bound;
}

}  // namespace

PointPlan plan_point(const SweepPoint& point, PointCache& cache, int n_processes) {
  PointPlan plan;
  if (!point.spec) {
    plan.refusal = format_problems(point.problems);
    return plan;
  }
  const RunSpec& spec = *point.spec;
  try {
    take_cost(spec, predict_cost(spec, cache.trace_of(spec), ranks_of(spec, n_processes)), plan);
  } catch (const PointFailure& e) {
    plan.refusal = e.what();
  } catch (const UserError& e) {
    plan.refusal = e.what();
  }
  return plan;
}

JobNeed job_need(const PointPlan& plan, std::uint32_t nodes, std::uint32_t tasks_per_node) {
  const auto ranks = static_cast<std::uint32_t>(plan.host_bytes.size());
  const auto processes = static_cast<int>(nodes * tasks_per_node);
  const auto sum = [&](const std::vector<double>& bytes, std::uint32_t first, std::uint32_t n) {  // of the ranks of n processes from the first on
    const auto at = [&](std::uint32_t p) { return bytes.begin() + first_rank_of(static_cast<int>(p), ranks, processes); };
    return std::accumulate(at(first), at(first + n), 0.0);
  };
  JobNeed need;
  for (std::uint32_t node = 0; node < nodes; ++node) {
    const double own = pool_slack * sum(plan.host_bytes, node * tasks_per_node, tasks_per_node);
    need.node_bytes = std::max(need.node_bytes, own + tasks_per_node * (process_bytes + plan.weight_bytes));
  }
  for (std::uint32_t p = 0; p < nodes * tasks_per_node; ++p)
    need.device_bytes = std::max(need.device_bytes, pool_slack * sum(plan.device_bytes, p, 1));
  return need;
}

}  // namespace moekv
