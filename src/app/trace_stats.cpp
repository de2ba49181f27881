// moekv trace stats: prints the statistics of a native trace and stores them in it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/command.hpp"
#include "core/json_text.hpp"
#include "trace/stats.hpp"

namespace moekv {
namespace {

struct StatsOptions {
  std::string file;
  bool store = false, json = false, layers = false;
};

nlohmann::json number(double value) { return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr); }

nlohmann::json to_json(const LayerStats& layer) {
  nlohmann::json out;
  for_each_field(LayerStats::fields, [&](const auto& field) { out[std::string(field.name)] = number(layer.*field.member); });
  for (const double v : layer.reuse_by_rank) out["reuse_by_rank"].push_back(number(v));
  for (const double v : layer.weight_by_rank) out["weight_by_rank"].push_back(number(v));
  return out;
}

void print_json(const std::string& file, const TraceStats& stats) {
  nlohmann::json out = {{"file", file},         {"tokens", stats.n_tokens},      {"requests", stats.n_requests}, {"experts", stats.n_experts},
                        {"top_k", stats.top_k}, {"moe_layers", stats.moe_layers}};
  for (const LayerStats& layer : stats.layers) out["per_layer"].push_back(to_json(layer));
  out["median_over_layers"] = to_json(stats.median);
  for_each_field(LayerStats::fields, [&](const auto& field) { out["definitions"][std::string(field.name)] = field.doc; });
  fmt::print("{}\n", json_text(out, 2));
}

std::string cell(double value) { return std::isfinite(value) ? fmt::format("{:9.4f}", value) : fmt::format("{:>9}", "-"); }

/// Smallest, middle and largest value over the layers, then the meaning.
void print_summary(const TraceStats& stats) {
  fmt::print("{:<24}{:>9} {:>9} {:>9}  over layers\n", "", "min", "median", "max");
  for_each_field(LayerStats::fields, [&](const auto& field) {
    std::vector<double> values;
    for (const LayerStats& layer : stats.layers)
      if (std::isfinite(layer.*field.member)) values.push_back(layer.*field.member);
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    const double none = LayerStats::undefined;
    fmt::print("{:<24}{} {} {}  {}{}\n", field.name, cell(values.empty() ? none : *low), cell(stats.median.*field.member),
               cell(values.empty() ? none : *high), field.doc, field.unit == "1" ? "" : fmt::format(" ({})", field.unit));
  });
  const auto ranks = [](const char* name, const std::vector<double>& values) {
    if (values.empty()) return;
    fmt::print("{:<24}", name);
    for (const double v : values) fmt::print(" {:.4f}", v);
    fmt::print("\n");
  };
  ranks("reuse_by_rank", stats.median.reuse_by_rank);
  ranks("weight_by_rank", stats.median.weight_by_rank);
}

void print_layers(const TraceStats& stats) {
  fmt::print("\n{:<24}", "model layer");
  for (const std::uint16_t layer : stats.moe_layers) fmt::print(" {:>9}", layer);
  fmt::print("\n");
  for_each_field(LayerStats::fields, [&](const auto& field) {
    fmt::print("{:<24}", field.name);
    for (const LayerStats& layer : stats.layers) fmt::print(" {}", cell(layer.*field.member));
    fmt::print("\n");
  });
}

ExitCode show_stats(const StatsOptions& o) {
  const auto trace = open_native_trace(o.file);
  if (!trace->info().has_routing()) throw UserError(o.file, "is a request trace: it has no routing rows", "moekv trace info shows its requests");
  const TraceStats stats = compute_stats(*trace);
  if (o.json) {
    print_json(o.file, stats);
  } else {
    fmt::print("{}: {} requests, {} tokens, {} MoE layers, {} of {} experts\n", o.file, stats.n_requests, stats.n_tokens, stats.layers.size(),
               stats.top_k, stats.n_experts);
    print_summary(stats);
    if (o.layers) print_layers(stats);
  }
  if (o.store) store_stats(o.file, stats);
  return ExitCode::ok;
}

}  // namespace

void add_trace_stats(Command& parent, Action& action) {
  auto options = std::make_shared<StatsOptions>();
  Command* command = parent.add_subcommand("stats", "load skew, locality, cacheability and layer structure of a trace");
  command->footer("Example: moekv trace stats trace.moekv.h5 --layers");
  command->add_option("file", options->file, "native trace file")->required();
  command->add_flag("--store", options->store, "also write them to the file's group /stats");
  command->add_flag("--json", options->json, "print JSON with every layer and every definition");
  command->add_flag("--layers", options->layers, "also print every layer");
  command->callback([options, &action] { action.run = [options] { return show_stats(*options); }; });
}

}  // namespace moekv
