// moekv trace generate: writes a synthetic trace file.
#include <fmt/format.h>

#include <memory>

#include "app/command.hpp"
#include "config/reader.hpp"
#include "io/pending_file.hpp"
#include "trace/native_file.hpp"
#include "trace/save_trace.hpp"
#include "trace/synthetic.hpp"

namespace moekv {
namespace {

struct GenerateOptions {
  std::string out;
  std::string model;
  std::uint32_t experts = 0, topk = 0, layers = 0;
  std::string level = "weights";
  SyntheticSpec spec;
};

RoutingLevel level_named(const std::string& name) {
  if (name == "ids") return RoutingLevel::ids;
  return name == "logits" ? RoutingLevel::logits : RoutingLevel::weights;
}

/// The named model, or layers of experts alone; single numbers override the model's.
ModelShape shape_of(const GenerateOptions& o) {
  ModelShape shape;
  if (!o.model.empty()) shape = read_model(o.model);
  if (o.layers > 0) shape.layers.assign(o.layers, LayerShape{});
  if (o.experts > 0) shape.gate.n_experts = o.experts;
  if (o.topk > 0) shape.gate.top_k = o.topk;
  const bool bare = o.spec.preset != "bootstrap" && (shape.layers.empty() || shape.gate.n_experts == 0 || shape.gate.top_k == 0);
  if (bare) throw UserError("<command line>", "the shape of the model is not given", "use --model NAME, or --experts E --topk K --layers L");
  return shape;
}

/// What the sum of a token's weights is, for the checks of readers.
WeightKind weight_kind_of(const GenerateOptions& o, const GateShape& gate, RoutingLevel level) {
  if (level == RoutingLevel::ids) return WeightKind::none;
  if (o.spec.preset == "bootstrap") return native::NativeFile(o.spec.bootstrap_path).weight_kind;
  if (o.spec.preset != "flame" && o.spec.preset != "dsv2lite" && o.spec.preset != "gptoss") return WeightKind::renorm;
  if (gate.score != ScoreFunction::softmax) return WeightKind::sigmoid;
  if (gate.scale != 1.0F) return WeightKind::none;
  return gate.renormalise || gate.order == ScoreOrder::post ? WeightKind::renorm : WeightKind::raw_softmax;
}

ExitCode generate_trace(const GenerateOptions& o) {
  require_apart(o.out, {&o.spec.bootstrap_path, 1});
  const ModelShape shape = shape_of(o);
  const auto trace = make_synthetic_trace(o.spec, shape);
  WriterSpec writer;
  writer.info = trace->info();
  writer.info.level = level_named(o.level);
  if (writer.info.level > trace->info().level)
    throw UserError("<command line>", fmt::format("--level {}: preset {} has no {}", o.level, o.spec.preset, o.level), "use --level weights or ids");
  writer.weight_kind = weight_kind_of(o, shape.gate, writer.info.level);
  writer.generator = "moekv trace generate";
  writer.seed = static_cast<std::int64_t>(o.spec.seed);
  save_trace(*trace, o.out, writer);
  std::uint64_t n_tokens = 0;
  for (std::uint32_t r = 0; r < trace->n_requests(); ++r) n_tokens += trace->request(RequestId(r)).total_tokens();
  fmt::print("{}: {} requests, {} tokens, {} MoE layers, {} of {} experts, level {}\n", o.out, trace->n_requests(), n_tokens,
             writer.info.moe_layers.size(), writer.info.top_k, writer.info.n_experts, o.level);
  return ExitCode::ok;
}

void add_request_options(Command& command, SyntheticSpec& spec) {
  command.add_option("--requests", spec.n_requests, "number of requests")->capture_default_str();
  command.add_option("--prompt-tokens", spec.prompt_tokens, "prompt length (the median with --length-sigma)")->capture_default_str();
  command.add_option("--output-tokens", spec.output_tokens, "output length (the median with --length-sigma)")->capture_default_str();
  command.add_option("--length-sigma", spec.length_sigma, "lognormal spread of both lengths; 0 = all equal")->capture_default_str();
  command.add_option("--arrivals", spec.arrivals, "none, poisson or gamma")->capture_default_str();
  command.add_option("--rate", spec.rate_per_s, "arrivals per second")->capture_default_str();
  command.add_option("--arrival-cv", spec.arrival_cv, "coefficient of variation of gamma gaps")->capture_default_str();
  command.add_option("--domains", spec.n_domains, "domains that the requests take turns in")->capture_default_str();
  command.add_option("--seed", spec.seed, "seed of every draw")->capture_default_str();
}

void add_preset_options(Command& command, SyntheticSpec& spec) {
  command.add_option("--preset", spec.preset, "flame, dsv2lite, gptoss (calibrated), uniform, zipf, k_hot, power_law, deepep_ratio, bootstrap")
      ->capture_default_str();
  command.add_option("--zipf-s", spec.zipf_s, "zipf: exponent")->capture_default_str();
  command.add_option("--hot-experts", spec.hot_experts, "k_hot: number of hot experts")->capture_default_str();
  command.add_option("--hot-share", spec.hot_share, "k_hot: their share of the choices")->capture_default_str();
  command.add_option("--power-alpha", spec.power_alpha, "power_law: exponent")->capture_default_str();
  command.add_option("--overload-ratio", spec.overload_ratio, "deepep_ratio: load of one rank of 8 over the mean")->capture_default_str();
  command.add_option("--from", spec.bootstrap_path, "bootstrap: native trace whose 64-token blocks are drawn");
}

}  // namespace

void add_trace_generate(Command& parent, Action& action) {
  auto options = std::make_shared<GenerateOptions>();
  Command* command = parent.add_subcommand("generate", "write a synthetic trace");
  command->footer("Example: moekv trace generate -o trace.moekv.h5 --preset gptoss --model gpt-oss-20b --requests 32");
  command->add_option("-o,--out", options->out, "file to write (native format)")->required();
  command->add_option("--model", options->model, "model file of configs/models (moekv list models) or its path");
  command->add_option("--experts", options->experts, "experts per MoE layer");
  command->add_option("--topk", options->topk, "experts per token");
  command->add_option("--layers", options->layers, "MoE layers");
  command->add_option("--level", options->level, "what to store: ids, weights or logits")
      ->one_of({"ids", "weights", "logits"})
      ->capture_default_str();
  add_preset_options(*command, options->spec);
  add_request_options(*command, options->spec);
  command->callback([options, &action] { action.run = [options] { return generate_trace(*options); }; });
}

}  // namespace moekv
