// Counts expert load and turns it into replicas on shards.
#include "engine/expert_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "engine/geometry.hpp"
#include "io/hdf5.hpp"

namespace moekv {
namespace {

/// Choices of each expert in requests [begin, end) of the trace, [rows][n_experts]; process p reads every n-th request.
std::vector<std::int64_t> count_choices(TraceSource& trace, std::uint32_t begin, std::uint32_t end, Transport& transport) {
  const TraceInfo& info = trace.info();
  const auto n_rows = static_cast<std::uint32_t>(info.moe_layers.size());
  std::vector<std::int64_t> counts(std::size_t{n_rows} * info.n_experts);
  RoutingRows rows;
  for (std::uint32_t r = begin + static_cast<std::uint32_t>(transport.process()); r < end; r += static_cast<std::uint32_t>(transport.n_processes())) {
    const RequestInfo request = trace.request(RequestId(r));
    constexpr std::uint32_t block = 1024;
    for (std::uint32_t p = 0; p < request.prompt_tokens + request.output_tokens; p += block) {
      trace.read(RequestId(r), p, std::min(p + block, request.prompt_tokens + request.output_tokens), 0, n_rows, WantLogits::no, rows);
      for (std::size_t i = 0; i < rows.ids.size(); ++i) {
        if (rows.ids[i] != ExpertId::invalid) counts[i / info.top_k % n_rows * info.n_experts + rows.ids[i]] += 1;
      }
    }
  }
  transport.allreduce_sum(counts);
  return counts;
}

std::vector<std::int64_t> read_counts(const std::string& path, const TraceInfo& info) {
  const h5::File file = h5::File::open(path);
  const h5::Dataset load = file.dataset("load");
  const h5::Dims dims = load.dims();
  if (dims.size() != 2 || dims[0] != info.moe_layers.size() || dims[1] != info.n_experts) {
    throw UserError(path + ":/load",
                    fmt::format("the counts need a matrix of [{}, {}] (MoE layers of the trace, experts)", info.moe_layers.size(), info.n_experts),
                    "check placement.load_path");
  }
  std::vector<std::int64_t> counts;
  for (const double x : load.read<double>()) {
    if (!(x >= 0 && x <= 1e15)) throw UserError(path + ":/load", fmt::format("{} is no count", x), "counts lie in 0..1e15");
    counts.push_back(std::llround(x));
  }
  if (std::all_of(counts.begin(), counts.end(), [](std::int64_t n) { return n == 0; }))
    throw UserError(path + ":/load", "every count is 0, so there is nothing to plan by", "count the experts' choices, or set placement.load: trace");
  return counts;
}

/// Appends the replicas of one layer.
void plan_layer(const RunSpec& spec, const EplbShape& shape, std::uint32_t layer, const std::int64_t* counts, ExpertPlan& plan) {
  std::vector<double> load(counts, counts + shape.n_experts);
  if (!plan.shadowed.empty()) {
    std::vector<std::uint16_t> order(shape.n_experts);
    const std::uint32_t n = plan_shadows(shadow_cost(spec, shape.n_gpus / spec.cluster.shards_per_rank), load.data(), shape.n_experts, order.data(), nullptr);
    for (std::uint32_t i = 0; i < n; ++i) {
      plan.shadowed[std::size_t{layer} * shape.n_experts + order[i]] = 1;
      load[order[i]] = 0;  // its replicas take nothing
    }
  }
  std::vector<std::uint16_t> slots(shape.n_replicas);
  plan_eplb(shape, load.data(), slots.data());
  for (std::uint32_t e = 0; e < shape.n_experts; ++e) {
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const auto shard = static_cast<std::uint32_t>(i / (shape.n_replicas / shape.n_gpus));
      const bool again = plan.shard.size() > plan.first.back() && plan.shard.back() == shard;  // two replicas on one shard hold one set of entries
      if (slots[i] == e && !again) plan.shard.push_back(shard);
    }
    plan.first.push_back(static_cast<std::uint32_t>(plan.shard.size()));
  }
}

}  // namespace

ShadowCost shadow_cost(const RunSpec& spec, std::uint32_t ranks) {
  const ClusterModel& network = spec.cluster.network;
  const LinkClass& link = ranks > network.ranks_per_node ? network.inter_node : network.intra_node;
  return {link.bandwidth_gb_s * 1e9, spec.placement.shadow_tflops * 1e12, spec.placement.shadow_alpha, static_cast<double>(spec.model.hidden)};
}

std::int64_t shadow_bytes(const RunSpec& spec) {
  const double d = spec.model.hidden;
  return std::llround(2 * spec.placement.shadow_alpha * d * d * 4);
}

std::shared_ptr<const ExpertPlan> plan_experts(const RunSpec& spec, const TraceInfo& trace, std::uint32_t ranks,
                                               const std::vector<std::int64_t>& counts) {
  const Geometry layers(spec, trace, ranks);
  const EplbShape shape = eplb_shape(spec, trace.n_experts, ranks);
  if (const char* why = eplb_refusal(shape)) {
    throw UserError(
        spec.config_path,
        fmt::format("placement.map 'eplb': {} ({} replicas of {} experts on {} shards)", why, shape.n_replicas, shape.n_experts, shape.n_gpus),
        "change placement.replicas or the cluster");
  }
  auto plan = std::make_shared<ExpertPlan>();
  plan->n_experts = shape.n_experts;
  plan->first.assign(1, 0);
  if (spec.placement.shadow != ShadowRule::none) plan->shadowed.assign(std::size_t{spec.model.n_layers()} * shape.n_experts, 0);
  for (std::uint32_t l = 0; l < spec.model.n_layers(); ++l) {
    const auto replayed = std::find_if(layers.layers().begin(), layers.layers().end(), [&](const ReplayLayer& r) { return r.layer.value == l; });
    const int row = replayed != layers.layers().end() ? replayed->key_row : -1;
    if (row >= 0) {
      plan_layer(spec, shape, l, &counts[static_cast<std::size_t>(row) * shape.n_experts], *plan);
    } else {
      plan->first.insert(plan->first.end(), shape.n_experts, plan->first.back());
    }
  }
  return plan;
}

std::shared_ptr<const ExpertPlan> plan_experts(const RunSpec& spec, TraceSource& trace, std::uint32_t ranks, Transport& transport) {
  if (spec.placement.map != ShardMap::eplb) return nullptr;
  const std::uint32_t first = spec.trace.first_request;
  const std::uint32_t all = trace.n_requests();
  switch (spec.placement.load) {
    case LoadSource::file:
      return plan_experts(spec, trace.info(), ranks, read_counts(spec.placement.load_path, trace.info()));
    case LoadSource::window:
      return plan_experts(spec, trace.info(), ranks, std::vector<std::int64_t>(trace.info().moe_layers.size() * trace.info().n_experts));
    case LoadSource::history:
      return plan_experts(spec, trace.info(), ranks, count_choices(trace, 0, std::min(first, all), transport));
    default: {
      const std::uint32_t n =
          spec.trace.max_requests > 0 ? std::min(spec.trace.max_requests, all - std::min(first, all)) : all - std::min(first, all);
      return plan_experts(spec, trace.info(), ranks, count_choices(trace, std::min(first, all), std::min(first, all) + n, transport));
    }
  }
}

}  // namespace moekv
