// make_synthetic_trace: checks the specification, lays out requests and hands rows to the generator of the preset.
#include "trace/synthetic.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/rng.hpp"
#include "trace/native_format.hpp"
#include "trace/synthetic_detail.hpp"

namespace moekv {
namespace {

constexpr std::string_view label = "synthetic trace";

class SyntheticSource final : public TraceSource {
 public:
  SyntheticSource(TraceInfo info, std::vector<RequestInfo> requests, std::unique_ptr<synthetic::RowGenerator> rows)
      : info_(std::move(info)), requests_(std::move(requests)), rows_(std::move(rows)) {}

  [[nodiscard]] const TraceInfo& info() const override { return info_; }
  [[nodiscard]] std::uint32_t n_requests() const override { return static_cast<std::uint32_t>(requests_.size()); }
  [[nodiscard]] RequestInfo request(RequestId r) const override { return requests_.at(r.value); }

  void read(RequestId r, std::uint32_t begin, std::uint32_t end, std::uint32_t layer_begin, std::uint32_t layer_end, WantLogits want,
            RoutingRows& out) override {
    MOEKV_EXPECT(begin <= end && end <= requests_.at(r.value).total_tokens() && layer_begin <= layer_end && layer_end <= info_.moe_layers.size());
    out.begin = begin;
    out.end = end;
    out.layer_begin = layer_begin;
    out.layer_end = layer_end;
    const std::size_t rows = static_cast<std::size_t>(end - begin) * (layer_end - layer_begin);
    out.ids.resize(rows * info_.top_k);
    out.weights.resize(rows * info_.top_k);
    const bool logits = want == WantLogits::yes && info_.level >= RoutingLevel::candidates;
    out.logits.resize(logits ? rows * info_.n_experts : 0);
    rows_->fill(r.value, logits ? WantLogits::yes : WantLogits::no, out);
  }

 private:
  TraceInfo info_;
  std::vector<RequestInfo> requests_;
  std::unique_ptr<synthetic::RowGenerator> rows_;
};

void check_shape(const ModelShape& shape, std::vector<Problem>& problems) {
  const auto say = [&](std::string what, std::string hint) { problems.push_back({std::string(label), std::move(what), std::move(hint)}); };
  if (std::none_of(shape.layers.begin(), shape.layers.end(), [](const LayerShape& l) { return l.moe; }))
    say("the model has no MoE layer", "give a model file, or experts, top-k and layers");
  if (shape.layers.size() > native::most_layers) say(fmt::format("{} layers", shape.layers.size()), fmt::format("at most {}", native::most_layers));
  if (shape.gate.n_experts < 1 || shape.gate.n_experts > most_experts)
    say(fmt::format("{} experts", shape.gate.n_experts), fmt::format("use 1..{}", most_experts));
  if (shape.gate.top_k < 1 || shape.gate.top_k > std::min(shape.gate.n_experts, native::most_top_k))
    say(fmt::format("top-k {} of {} experts", shape.gate.top_k, shape.gate.n_experts),
        fmt::format("use 1..{}", std::min(shape.gate.n_experts, native::most_top_k)));
}

/// Digest of everything the rows depend on.
std::string digest_of(const SyntheticSpec& s, const synthetic::Frame& f) {
  const std::string text =
      fmt::format("{} {} {} {} {:a} {} {:a} {:a} {:a} {:a} {:a} {:a} {:a} {} {} | {} {} {} {} {} {} {:a} {} {}", s.preset, s.n_requests,
                  s.prompt_tokens, s.output_tokens, s.length_sigma, s.arrivals, s.rate_per_s, s.arrival_cv, s.zipf_s, s.hot_experts, s.hot_share,
                  s.power_alpha, s.overload_ratio, s.n_domains, s.seed, f.n_layers, f.gate.n_experts, f.gate.top_k, static_cast<int>(f.gate.score),
                  static_cast<int>(f.gate.order), f.gate.renormalise, f.gate.scale, f.gate.n_group, f.gate.topk_group);
  std::uint64_t low = 1, high = 2;
  for (const char c : text) {
    low = hash_words(low, static_cast<unsigned char>(c));
    high = hash_words(high, static_cast<unsigned char>(c));
  }
  return fmt::format("{:016x}{:016x}", high, low);
}

TraceInfo describe(const SyntheticSpec& spec, const ModelShape& shape, const synthetic::Frame& frame) {
  TraceInfo info;
  info.path = "synthetic:" + spec.preset;
  info.model_name = shape.name;
  info.workload = "synthetic";
  info.source = "moekv synthetic generator, preset " + spec.preset;
  info.digest = digest_of(spec, frame);
  info.level = synthetic::is_calibrated(spec.preset) ? RoutingLevel::logits : RoutingLevel::weights;
  info.n_experts = frame.gate.n_experts;
  info.top_k = frame.gate.top_k;
  for (std::size_t l = 0; l < shape.layers.size(); ++l)
    if (shape.layers[l].moe) info.moe_layers.push_back(static_cast<std::uint16_t>(l));
  info.shape = shape;
  return info;
}

}  // namespace

std::unique_ptr<TraceSource> make_synthetic_trace(const SyntheticSpec& spec, const ModelShape& shape) {
  std::vector<Problem> problems;
  const bool bootstrap = spec.preset == "bootstrap";
  if (!bootstrap && !synthetic::is_calibrated(spec.preset) && !synthetic::is_independent(spec.preset))
    problems.push_back(
        {std::string(label), fmt::format("unknown preset '{}'", spec.preset),
         suggest_name(spec.preset, {"flame", "dsv2lite", "gptoss", "uniform", "zipf", "k_hot", "power_law", "deepep_ratio", "bootstrap"})});
  if (bootstrap && spec.bootstrap_path.empty())
    problems.push_back({std::string(label), "preset bootstrap without a recorded trace", "name a native trace file"});
  if (!bootstrap) check_shape(shape, problems);
  synthetic::check_requests(spec, problems);
  if (!problems.empty()) throw UserError(std::move(problems));
  if (bootstrap) return synthetic::make_bootstrap(spec, shape, open_native_trace(spec.bootstrap_path));

  const auto n_layers = std::count_if(shape.layers.begin(), shape.layers.end(), [](const LayerShape& l) { return l.moe; });
  const synthetic::Frame frame{spec, shape.gate, static_cast<std::uint32_t>(n_layers)};
  if (synthetic::is_independent(spec.preset)) synthetic::check_independent(frame, problems);
  if (!problems.empty()) throw UserError(std::move(problems));
  auto rows = synthetic::is_calibrated(spec.preset) ? synthetic::make_calibrated(frame) : synthetic::make_independent(frame);
  return std::make_unique<SyntheticSource>(describe(spec, shape, frame), synthetic::make_requests(spec), std::move(rows));
}

}  // namespace moekv
