// `moekv trace info`: what a native trace holds, and with --check every broken rule and every warning.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "app/command.hpp"
#include "core/json_text.hpp"
#include "core/text.hpp"
#include "core/units.hpp"
#include "trace/native_file.hpp"
#include "trace/native_format.hpp"
#include "trace/validate.hpp"

namespace moekv {
namespace {

using Json = nlohmann::ordered_json;

struct InfoOptions {
  std::string path;
  bool check = false;
  bool json = false;
};

Json dataset_facts(const native::NativeFile& trace) {
  Json list = Json::array();
  for (const char* group : {"tokens", "routing", "kv"}) {
    if (!trace.has(group)) continue;
    const h5::Group members = trace.file.group(group);
    for (const auto& name : members.names()) {
      const std::string path = std::string(group) + "/" + name;
      if (members.is_group(name)) continue;
      const h5::Dataset data = trace.file.dataset(path);
      list.push_back({{"name", path}, {"type", h5::to_string(data.type())}, {"shape", data.dims()}, {"stored_bytes", data.stored_bytes()}});
    }
  }
  return list;
}

Json request_facts(const native::NativeFile& trace) {
  std::uint64_t prompt = 0;
  std::uint32_t longest = 0;
  std::int64_t first = -1;
  std::int64_t last = -1;
  for (const RequestInfo& r : trace.requests) {
    prompt += r.prompt_tokens;
    longest = std::max(longest, r.total_tokens());
    if (r.arrival_ns < 0) continue;
    first = first < 0 ? r.arrival_ns : std::min(first, r.arrival_ns);
    last = std::max(last, r.arrival_ns);
  }
  return {{"n_requests", trace.requests.size()}, {"n_tokens", trace.n_tokens}, {"prompt_tokens", prompt}, {"output_tokens", trace.n_tokens - prompt},
          {"longest_request_tokens", longest},   {"first_arrival_ns", first},  {"last_arrival_ns", last}};
}

Json model_facts(const native::NativeFile& trace) {
  const TraceInfo& t = trace.info;
  const ModelShape& s = t.shape;
  return {{"name", t.model_name},       {"n_layers", s.n_layers()},
          {"moe_layers", t.moe_layers}, {"n_experts", t.n_experts},
          {"top_k", t.top_k},           {"n_heads", s.n_heads},
          {"n_kv_heads", s.n_kv_heads}, {"head_dim_k", s.d_k},
          {"head_dim_v", s.d_v},        {"attn", s.mla() ? "mla" : "gqa"},
          {"kv_layers", t.kv_layers}};
}

Json facts_of(const native::NativeFile& trace) {
  constexpr const char* levels[] = {"ids", "weights", "candidates", "logits"};
  const TraceInfo& t = trace.info;
  Json j;
  j["path"] = t.path;
  j["digest"] = t.digest;
  j["routing_level"] = levels[static_cast<int>(t.level)];
  j["weight_kind"] = native::weight_kinds[static_cast<std::size_t>(trace.weight_kind)];
  j["order"] = native::token_orders[static_cast<std::size_t>(trace.order)];
  j["pseudo_logits"] = t.pseudo_logits;
  j["joined"] = t.joined;
  j["workload"] = t.workload;
  j["source"] = t.source;
  j["source_uri"] = t.source_uri;
  j["license"] = t.license;
  j["model"] = model_facts(trace);
  j["requests"] = request_facts(trace);
  j["datasets"] = dataset_facts(trace);
  j["import_log"] = trace.has("provenance/import_log") ? trace.file.dataset("provenance/import_log").read_texts() : std::vector<std::string>{};
  return j;
}

/// Layer lists are long: "0-23" instead of all of them.
std::string layer_ranges(const std::vector<std::uint16_t>& layers) {
  std::string text;
  for (std::size_t i = 0; i < layers.size();) {
    std::size_t last = i;
    while (last + 1 < layers.size() && layers[last + 1] == layers[last] + 1) ++last;
    text += (text.empty() ? "" : ", ") + (last > i ? fmt::format("{}-{}", layers[i], layers[last]) : fmt::format("{}", layers[i]));
    i = last + 1;
  }
  return text.empty() ? "none" : text;
}

void print_facts(const native::NativeFile& trace, const Json& facts) {
  const TraceInfo& t = trace.info;
  const Json& requests = facts["requests"];
  const auto line = [](std::string_view name, const std::string& value) {
    if (!value.empty()) fmt::print("{:<10}{}\n", name, printable(value));
  };
  line("trace", t.path);
  line("digest", t.digest);
  line("model", fmt::format("{}: {} experts, top {}, MoE layers {}", t.model_name.empty() ? "unnamed" : t.model_name, t.n_experts, t.top_k,
                            layer_ranges(t.moe_layers)));
  line("rows", fmt::format("{} requests, {} tokens ({} prompt, {} output), longest {}, order {}", requests["n_requests"].get<std::uint64_t>(),
                           trace.n_tokens, requests["prompt_tokens"].get<std::uint64_t>(), requests["output_tokens"].get<std::uint64_t>(),
                           requests["longest_request_tokens"].get<std::uint64_t>(), facts["order"].get<std::string>()));
  line("level", fmt::format("{}, weights {}{}{}", facts["routing_level"].get<std::string>(), facts["weight_kind"].get<std::string>(),
                            t.pseudo_logits ? ", pseudo-logits" : "", t.joined ? ", joined from shorter recordings" : ""));
  line("q, k, v",
       t.kv_layers.empty() ? "not recorded" : fmt::format("layers {} ({})", layer_ranges(t.kv_layers), t.shape.mla() ? "latent" : "grouped heads"));
  line("source", t.source.empty() ? t.source_uri : t.source + (t.source_uri.empty() ? "" : ", " + t.source_uri));
  line("license", t.license);
  line("workload", t.workload);
  for (const Json& d : facts["datasets"]) {
    fmt::print("  {:<20} {:<5} [{}]  {}\n", printable(d["name"].get<std::string>()), d["type"].get<std::string>(),
               fmt::join(d["shape"].get<h5::Dims>(), " x "), format_bytes(d["stored_bytes"].get<std::int64_t>()));
  }
  for (const Json& entry : facts["import_log"]) line("import", entry.get<std::string>());
}

Json problems_json(const std::vector<Problem>& problems) {
  Json list = Json::array();
  for (const Problem& p : problems) list.push_back({{"where", p.where}, {"what", p.what}, {"suggestion", p.suggestion}});
  return list;
}

ExitCode show_info(const InfoOptions& options) {
  TraceReport report;
  const native::NativeFile trace(options.path);
  Json facts = facts_of(trace);
  if (options.check) report = validate_trace(options.path);
  if (options.json) {
    if (options.check) {
      facts["errors"] = problems_json(report.errors);
      facts["warnings"] = problems_json(report.warnings);
    }
    fmt::print("{}\n", json_text(facts, 2));
    return report.errors.empty() ? ExitCode::ok : ExitCode::usage;
  }
  if (!report.errors.empty()) throw UserError(report.errors);
  print_facts(trace, facts);
  for (const Problem& p : report.warnings) fmt::print("{}: warning: {} ({})\n", printable(p.where), printable(p.what), p.suggestion);
  if (options.check) fmt::print("checked: every row is sound, {} warning{}\n", report.warnings.size(), report.warnings.size() == 1 ? "" : "s");
  return ExitCode::ok;
}

}  // namespace

void add_trace_info(Command& parent, Action& action) {
  auto options = std::make_shared<InfoOptions>();
  Command* info = parent.add_subcommand("info", "show what a native trace holds");
  info->add_option("FILE", options->path, "native trace (*.moekv.h5)")->required();
  info->add_flag("--check", options->check, "read every row: broken rules are errors (exit 2), spoilt recordings warnings");
  info->add_flag("--json", options->json, "print JSON");
  info->footer("example: moekv trace info --check traces/gptoss.moekv.h5");
  info->callback([options, &action] { action.run = [options] { return show_info(*options); }; });
}

}  // namespace moekv
