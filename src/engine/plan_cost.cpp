// Runs the batcher over all requests and adds up what each step will hold and move.
#include "engine/plan_cost.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string_view>

#include "core/error.hpp"
#include "core/units.hpp"
#include "engine/batcher.hpp"
#include "engine/plan_memory.hpp"
#include "engine/plan_traffic.hpp"
#include "engine/rule_bytes.hpp"
#include "engine/summary_list.hpp"

namespace moekv {
namespace {

/// A budget of a whole shard that exceeds its memory can never be filled: the point is refused as the batcher refuses requests.
void check_shard_budget(const Geometry& geometry) {
  const RunSpec& spec = geometry.spec();
  const BudgetSpec& budget = spec.eviction.budget;
  if (spec.memory.shard_bytes == 0 || spec.eviction.scope != EvictScope::shard || budget.kind == BudgetKind::unlimited) return;
  const std::uint64_t block = geometry.raw_format(geometry.heads_per_group()).block_bytes();
  std::uint64_t bytes = budget.amount;
  if (budget.kind == BudgetKind::pages) bytes *= block;
  if (budget.kind == BudgetKind::tokens) bytes = (bytes + geometry.page_slots() - 1) / geometry.page_slots() * block;
  if (budget.kind == BudgetKind::fraction || bytes <= spec.memory.shard_bytes) return;
  throw PointFailure(fmt::format("eviction.budget of a shard takes {}, memory.shard_bytes is {}: it can never fit",
                                 format_bytes(static_cast<std::int64_t>(bytes)), format_bytes(static_cast<std::int64_t>(spec.memory.shard_bytes))));
}

double sum_of(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

/// Most page bytes of a rank under eviction scope shard with a byte-like budget, or infinity.
double rank_capacity(const Geometry& geometry, std::uint32_t rank) {
  const EvictionSpec& eviction = geometry.spec().eviction;
  const double shards = geometry.placement().first_shard(rank + 1) - geometry.placement().first_shard(rank);
  const auto block = static_cast<double>(geometry.raw_format(geometry.heads_per_group()).block_bytes());
  const auto amount = static_cast<double>(eviction.budget.amount);
  if (eviction.scope != EvictScope::shard || std::holds_alternative<evict::Full>(eviction.rule)) return INFINITY;
  switch (eviction.budget.kind) {
    case BudgetKind::bytes:
      return shards * amount;
    case BudgetKind::pages:
      return shards * amount * block;
    default:
      return INFINITY;
  }
}

PaperMemory paper_memory(const Geometry& geometry, std::uint64_t tokens) {
  const double ranks = geometry.n_ranks(), k = std::max(1U, geometry.top_k());
  const double heads = geometry.spec().model.n_kv_heads / static_cast<double>(geometry.heads_per_group());
  PaperMemory paper;
  paper.row_bytes = static_cast<double>(geometry.layers().size()) * heads *
                    static_cast<double>(geometry.sealed_format(geometry.heads_per_group(), geometry.largest_class()).block_bytes()) /
                    geometry.page_slots();
  paper.tokens = static_cast<double>(tokens);
  paper.shard_capacity = std::sqrt(paper.tokens / (k * ranks));
  if (tokens > 0) paper.bytes = paper.row_bytes * (paper.tokens / (ranks * paper.shard_capacity) + k * paper.shard_capacity);
  return paper;
}

class Prediction {
 public:
  Prediction(const Geometry& geometry, const TraceSource& trace)
      : geometry_(geometry), batcher_(geometry, trace), memory_(geometry), traffic_(geometry, memory_.shares()) {
    cost_.rank_page_bytes.resize(geometry.n_ranks());
    cost_.rank_metadata_bytes.resize(geometry.n_ranks());
    for (std::uint32_t g = 0; g < geometry.n_ranks(); ++g) capacity_.push_back(rank_capacity(geometry, g));
  }

  PlanCost operator()() {
    const std::uint64_t limit = geometry_.spec().batch.max_steps;
    while (!batcher_.done() && (limit == 0 || cost_.steps < limit)) one_step();
    if (cost_.decode_steps > 0) {
      const PlannedTraffic sum = cost_.mean_decode_step;
      cost_.mean_decode_step = {};
      add_traffic(cost_.mean_decode_step, sum, 1.0 / static_cast<double>(cost_.decode_steps));
    }
    cost_.evicts = memory_.evicts();
    cost_.upper_bound = cost_.evicts && geometry_.placement().layout != Layout::expert;
    cost_.paper = paper_memory(geometry_, cost_.peak_tokens);
    if (cost_.evicts)
      cost_.notes.push_back(
          fmt::format("evictions may free pages that this counts{}; eviction notices are not counted", cost_.upper_bound ? ": an upper bound" : ""));
    if (cost_.evicts && !std::holds_alternative<allocate::Uniform>(geometry_.spec().eviction.allocator))
      cost_.notes.emplace_back("planned with equal shares for every layer and head group: the allocator divides the same sum otherwise");
    if (geometry_.placement().layout == Layout::expert)
      cost_.notes.emplace_back("expectation over uniform routing; skewed routing fills some ranks more");
    if (geometry_.spec().placement.replan_every_steps > 0 || geometry_.spec().placement.shadow != ShadowRule::none)
      cost_.notes.emplace_back("planned for one plan of experts without shadows; pages that replans move are not counted");
    if (batcher_.cut_prompts() > 0) cost_.notes.push_back(fmt::format("{} prompts are cut to trace.max_prompt_tokens", batcher_.cut_prompts()));
    return cost_;
  }

 private:
  void one_step() {
    const StepBatch& batch = batcher_.next();
    PlannedTraffic step;
    bool prefill = false;
    double logits = 0;
    for (const BatchItem& item : batch.items) {
      add_traffic(step, traffic_.of(item));
      memory_.extend(item);
      prefill |= item.prefill();
      const std::uint64_t queries = item.end - std::min(item.end, std::max(item.begin, item.query_begin));
      cost_.tokens += item.end - item.begin;
      cost_.queries += queries;
      if (geometry_.needs_mass()) logits += 4.0 * geometry_.spec().model.n_heads * static_cast<double>(queries) * item.end;
    }
    add_traffic(cost_.total, step);
    if (!prefill) {
      add_traffic(cost_.mean_decode_step, step);
      cost_.decode_steps += 1;
    }
    const double layer_bytes = step.logical / static_cast<double>(geometry_.layers().size());
    cost_.rank_buffer_bytes = std::max(cost_.rank_buffer_bytes, (2.0 * layer_bytes + logits) / geometry_.n_ranks());
    note_peak();
    const auto& network = geometry_.spec().cluster.network;
    const double busiest = *std::max_element(memory_.rank_bytes().begin(), memory_.rank_bytes().end());
    const std::int64_t wire =
        geometry_.n_ranks() > 1 ? network.message_ns(Rank(0), Rank(geometry_.n_ranks() - 1), std::llround(step.wire() / geometry_.n_ranks())) : 0;
    const std::int64_t step_ns = network.memory_ns(std::llround(busiest)) + wire;
    cost_.model_ns += static_cast<double>(step_ns);
    batcher_.finish_step(batch, step_ns, 0);
    for (const BatchItem& item : batch.items) {
      if (!item.finishes()) continue;
      memory_.finish(item.request);
      traffic_.finish(item.request);
    }
    cost_.steps += 1;
  }

  void note_peak() {
    for (std::uint32_t g = 0; g < geometry_.n_ranks(); ++g) {
      cost_.rank_page_bytes[g] = std::max(cost_.rank_page_bytes[g], std::min(memory_.rank_bytes()[g], capacity_[g]));
      cost_.rank_metadata_bytes[g] = std::max(cost_.rank_metadata_bytes[g], memory_.rank_metadata_bytes(g));
      cost_.local_page_bytes = std::max(cost_.local_page_bytes, memory_.local_bytes()[g]);
    }
    const double sum = sum_of(memory_.rank_bytes());
    if (sum <= most_bytes_) return;
    most_bytes_ = sum;
    cost_.peak_step = cost_.steps;
    cost_.peak_tokens = memory_.tokens();
  }

  const Geometry& geometry_;
  Batcher batcher_;
  PlanMemory memory_;
  PlanTraffic traffic_;
  std::vector<double> capacity_;
  double most_bytes_ = 0;
  PlanCost cost_;
};

/// Whether the seed decides which shard holds what.
bool places_by_seed(const PlacementSpec& placement) {
  return placement.layout == Layout::token || placement.map == ShardMap::hash || placement.map == ShardMap::eplb;
}

/// What a prediction reads of the eviction rule, its parameters apart.
std::string reads_of_rule(const Geometry& geometry) {
  return fmt::format("{} {} {} {} {} {}\n", std::holds_alternative<evict::Full>(geometry.spec().eviction.rule), static_cast<int>(geometry.unit()),
                     geometry.needs_mass(), geometry.keeps_state(), geometry.group_reads().queries, rule_bytes(geometry));
}

/// All that a prediction reads: the resolved keys but for the name of the eviction rule and for seeds, which show in the lengths and arrivals of
/// requests and in the placement.
std::string inputs_of(const Geometry& geometry, const TraceSource& trace) {
  const RunSpec& spec = geometry.spec();
  std::string text = fmt::format("{}\n", geometry.n_ranks()) + reads_of_rule(geometry);
  if (!spec.trace.path.empty()) text += trace.info().digest;
  const bool seeded = places_by_seed(spec.placement);
  for (std::string_view left = spec.resolved_yaml; !left.empty();) {
    const std::string_view line = left.substr(0, std::min(left.find('\n'), left.size() - 1) + 1);
    left.remove_prefix(line.size());
    const std::string_view entry = line.substr(std::min(line.find_first_not_of(' '), line.size()));
    if ((seeded || !entry.starts_with("seed: ")) && !entry.starts_with("policy: ")) text += line;
  }
  for (std::uint32_t r = 0; r < trace.n_requests(); ++r) {
    const RequestInfo info = trace.request(RequestId(r));
    for (const std::int64_t number : {std::int64_t{info.prompt_tokens}, std::int64_t{info.output_tokens}, info.arrival_ns})
      text.append(reinterpret_cast<const char*>(&number), sizeof(number));
  }
  return text;
}

}  // namespace

double PlanCost::page_bytes() const { return sum_of(rank_page_bytes); }
double PlanCost::max_rank_page_bytes() const {
  return rank_page_bytes.empty() ? 0.0 : *std::max_element(rank_page_bytes.begin(), rank_page_bytes.end());
}

PlanCost predict_cost(const RunSpec& spec, const TraceSource& trace, std::uint32_t ranks) {
  std::shared_ptr<const ExpertPlan> plan;  // of the uniform routing that is predicted
  if (spec.placement.map == ShardMap::eplb) {
    plan = plan_experts(spec, trace.info(), ranks, std::vector<std::int64_t>(trace.info().moe_layers.size() * trace.info().n_experts, 1));
  }
  const Geometry geometry(spec, trace.info(), ranks, plan);
  check_shard_budget(geometry);
  return Prediction(geometry, trace)();
}

const PlanCost& KnownCosts::operator()(const RunSpec& spec, const TraceSource& trace, std::uint32_t ranks) {
  constexpr std::size_t most_known = 64;
  if (spec.resolved_yaml.empty()) return known_[{}] = predict_cost(spec, trace, ranks);  // made by hand: nothing says what it reads
  const std::string inputs = inputs_of(Geometry(spec, trace.info(), ranks), trace);
  const XXH128_hash_t hash = XXH3_128bits(inputs.data(), inputs.size());
  const std::pair key{hash.high64, hash.low64};
  if (const auto it = known_.find(key); it != known_.end()) return it->second;
  if (known_.size() >= most_known) known_.clear();
  return known_[key] = predict_cost(spec, trace, ranks);
}

void add_predictions(const PlanCost& cost, const RunSpec& spec, std::vector<Summary>& summary) {
  const PlannedTraffic& total = cost.total;
  std::map<std::string_view, double> predicted{{"kv_peak_bytes", cost.page_bytes()}, {"rank_peak_bytes_max", cost.max_rank_page_bytes()}};
  if (spec.metrics.warmup_steps == 0) {
    predicted.insert({{"bytes_wire", total.wire()},
                      {"bytes_logical", total.logical},
                      {"wire_kv", total.kv},
                      {"wire_q", total.q},
                      {"wire_partial", total.partial},
                      {"wire_lse", total.lse},
                      {"wire_headers", total.headers},
                      {"t_step_model", cost.model_ns}});
  }
  for (Summary& s : summary) {
    const auto it = predicted.find(s.name);
    if (it != predicted.end()) s.model = it->second;
  }
  const auto measured = std::find_if(summary.begin(), summary.end(), [](const Summary& s) { return s.name == "rank_peak_bytes_max"; });
  if (measured == summary.end()) return;
  const double peak = measured->value;
  SummaryList list;
  const std::string residual = "(rank_peak_bytes_max - prediction) / rank_peak_bytes_max, of ";
  list.add("mem_pred_bytes", {"byte", ClaimClass::modelled, "page bytes of the fullest rank as moekv plan predicts them"},
           cost.max_rank_page_bytes());
  list.add_ratio("mem_residual", {"1", ClaimClass::derived, residual + "mem_pred_bytes"}, peak - cost.max_rank_page_bytes(), peak);
  list.add("mem_pred_paper_bytes", {"byte", ClaimClass::modelled, "the paper's M = (2d/rho)(L/(G S) + K S) of a rank at S = sqrt(L/(K G))"},
           cost.paper.bytes);
  list.add_ratio("mem_residual_paper", {"1", ClaimClass::derived, residual + "mem_pred_paper_bytes"}, peak - cost.paper.bytes, peak);
  for (Summary& s : list.take()) summary.push_back(std::move(s));
}

}  // namespace moekv
