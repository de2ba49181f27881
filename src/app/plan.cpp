// moekv plan: what a configuration will need per rank and move per step, without running it.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "app/command.hpp"
#include "app/open_trace.hpp"
#include "config/reader.hpp"
#include "core/json_text.hpp"
#include "core/units.hpp"
#include "engine/plan_cost.hpp"
#include "engine/summarise.hpp"

namespace moekv {
namespace {

struct PlanOptions {
  std::string config;
  std::vector<std::string> overrides;
  bool json = false;
};

/// A predicted figure per rank.
struct PerRank {
  double mean = 0, largest = 0;
};
PerRank per_rank(const std::vector<double>& values) {
  return {std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()), *std::max_element(values.begin(), values.end())};
}

std::string bytes(double value) { return format_bytes(std::llround(value)); }

struct TrafficClass {
  const char* name;
  double PlannedTraffic::*field;
};
constexpr std::array<TrafficClass, 6> traffic_classes{{{"kv", &PlannedTraffic::kv},
                                                       {"q", &PlannedTraffic::q},
                                                       {"partial", &PlannedTraffic::partial},
                                                       {"lse", &PlannedTraffic::lse},
                                                       {"headers", &PlannedTraffic::headers},
                                                       {"logical", &PlannedTraffic::logical}}};
constexpr std::string_view paper_remark = "the paper's first term counts buffers, not tokens: shown, not trusted";

nlohmann::ordered_json json_of(const PlannedTraffic& traffic) {
  nlohmann::ordered_json out;
  for (const TrafficClass& c : traffic_classes) out[fmt::format("{}_bytes", c.name)] = traffic.*c.field;
  out["wire_bytes"] = traffic.wire();
  return out;
}

void print_json(const RunSpec& spec, std::uint32_t ranks, const PlanCost& cost) {
  nlohmann::ordered_json out;
  out["name"] = spec.name;
  out["claim"] = "modelled";
  out["ranks"] = ranks;
  out["steps"] = cost.steps;
  out["decode_steps"] = cost.decode_steps;
  out["tokens"] = cost.tokens;
  out["queries"] = cost.queries;
  out["peak_step"] = cost.peak_step;
  out["peak_tokens"] = cost.peak_tokens;
  out["rank_page_bytes"] = cost.rank_page_bytes;
  out["rank_metadata_bytes"] = cost.rank_metadata_bytes;
  out["rank_buffer_bytes"] = cost.rank_buffer_bytes;
  out["local_page_bytes"] = cost.local_page_bytes;
  out["upper_bound"] = cost.upper_bound;
  out["traffic_total"] = json_of(cost.total);
  out["traffic_per_decode_step"] = json_of(cost.mean_decode_step);
  out["paper"] = {{"row_bytes", cost.paper.row_bytes},
                  {"tokens", cost.paper.tokens},
                  {"shard_capacity_tokens", cost.paper.shard_capacity},
                  {"memory_bytes", cost.paper.bytes},
                  {"remark", paper_remark}};
  out["notes"] = cost.notes;
  fmt::print("{}\n", json_text(out, 2));
}

void print_memory(const RunSpec& spec, std::uint32_t ranks, const PlanCost& cost) {
  const PerRank pages = per_rank(cost.rank_page_bytes), metadata = per_rank(cost.rank_metadata_bytes);
  const auto row = [](const char* what, double mean, double largest) { fmt::print("  {:46} {:>12} {:>12}\n", what, bytes(mean), bytes(largest)); };
  const char* kind = cost.upper_bound ? "  (upper bound)" : spec.placement.layout == Layout::expert ? "  (expectation)" : "";
  fmt::print("\nmemory at its largest                                 mean rank fullest rank{}\n", kind);
  row("page blocks, open pages and padding included", pages.mean, pages.largest);
  row("page tables, slot maps, policy state", metadata.mean, metadata.largest);
  row("exchange buffers, kept attention weights", cost.rank_buffer_bytes, cost.rank_buffer_bytes);
  row("sum", pages.mean + metadata.mean + cost.rank_buffer_bytes, pages.largest + metadata.largest + cost.rank_buffer_bytes);
  fmt::print("  layout local for the same requests: {} on the fullest rank, {:.2f} times this\n", bytes(cost.local_page_bytes),
             pages.largest > 0 ? cost.local_page_bytes / pages.largest : 0.0);
  if (spec.memory.shard_bytes > 0) {
    const double capacity = static_cast<double>(spec.memory.shard_bytes) * spec.cluster.shards_per_rank;
    fmt::print("  memory.shard_bytes allows {} a rank{}\n", bytes(capacity),
               pages.largest > capacity ? ": requests will wait, or evictions must make room" : ", which is enough");
  }
  fmt::print(
      "  paper: M = (2d/rho)(L/(G S) + K S) = {} a rank at S* = sqrt(L/(K G)) = {:.1f} tokens\n         (2d/rho = {}, L = {:.0f} tokens in flight, G "
      "= {}; {})\n",
      bytes(cost.paper.bytes), cost.paper.shard_capacity, bytes(cost.paper.row_bytes), cost.paper.tokens, ranks, paper_remark);
}

void print_traffic(const PlanCost& cost) {
  fmt::print("\ntraffic between ranks, all layers        decode step       whole run\n");
  for (const TrafficClass& c : traffic_classes) {
    if (c.field == &PlannedTraffic::logical) continue;
    fmt::print("  {:35} {:>14} {:>15}\n", c.name, bytes(cost.mean_decode_step.*c.field), bytes(cost.total.*c.field));
  }
  fmt::print("  {:35} {:>14} {:>15}\n", "sum", bytes(cost.mean_decode_step.wire()), bytes(cost.total.wire()));
  fmt::print("  {:35} {:>14} {:>15}\n", "handed over, the own rank included", bytes(cost.mean_decode_step.logical), bytes(cost.total.logical));
}

ExitCode plan(const PlanOptions& options) {
  const RunSpec spec = read_run_spec(options.config, options.overrides);
  const auto trace = open_trace(spec);
  const std::uint32_t ranks = ranks_of(spec, 1);
  PlanCost cost = predict_cost(spec, *trace, ranks);
  cost.notes.insert(cost.notes.begin(), spec.notes.begin(), spec.notes.end());
  if (const std::string unshrunk = unshrunk_codec(spec); !unshrunk.empty()) cost.notes.push_back(unshrunk);
  if (spec.cluster.ranks == 0) cost.notes.emplace_back("cluster.ranks is not given: planned for one rank");
  if (options.json) {
    print_json(spec, ranks, cost);
    return ExitCode::ok;
  }
  fmt::print("plan of {} (modelled, nothing was run)\n  model {}, trace {}, {} ranks, {} shards a rank\n", spec.name, spec.model.name,
             trace->info().path, ranks, spec.cluster.shards_per_rank);
  fmt::print("  {} steps ({} without a prompt chunk), {} tokens, {} queries a layer; most pages in step {} with {} tokens in flight\n", cost.steps,
             cost.decode_steps, cost.tokens, cost.queries, cost.peak_step, cost.peak_tokens);
  print_memory(spec, ranks, cost);
  print_traffic(cost);
  for (const std::string& note : cost.notes) fmt::print("note: {}\n", note);
  return ExitCode::ok;
}

}  // namespace

void add_plan(Command& parent, Action& action) {
  auto options = std::make_shared<PlanOptions>();
  Command* command = parent.add_subcommand("plan", "predict memory per rank and traffic per step of a configuration without running it");
  command->add_option("config", options->config, "YAML file (moekv list keys names every key)")->required();
  command->add_option("overrides", options->overrides, "key.path=value ...: replace keys of the file");
  command->add_flag("--json", options->json, "print JSON, bytes as numbers");
  command->footer(
      "examples:\n  moekv plan configs/quickstart.yaml\n  moekv plan configs/quickstart.yaml placement.layout=expert cluster.ranks=16 --json");
  command->callback([options, &action] { action.run = [options] { return plan(*options); }; });
}

}  // namespace moekv
