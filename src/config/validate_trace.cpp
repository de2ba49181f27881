// Combinations of keys of the trace.
#include <fmt/format.h>

#include <filesystem>

#include "config/names.hpp"
#include "config/rule_keys.hpp"
#include "config/validate.hpp"

namespace moekv {
namespace {

void check_synthetic(Checks& c) {
  const RunSpec& s = c.spec();
  const SyntheticSpec& t = s.trace.synthetic;
  if (t.prompt_tokens + std::uint64_t{t.output_tokens} == 0)
    c.refuse({"trace.synthetic.output_tokens", "trace.synthetic.prompt_tokens"}, "requests have neither prompt nor output",
             "give at least one token");
  if (t.preset == "bootstrap" && t.bootstrap_path.empty())
    c.refuse({"trace.synthetic.bootstrap_path", "trace.synthetic.preset"}, "preset bootstrap resamples a native trace and needs its path",
             "give the path of a *.moekv.h5 file");
  if (t.preset == "k_hot" && s.model.gate.n_experts > 0 && t.hot_experts > s.model.gate.n_experts) {
    c.refuse({"trace.synthetic.hot_experts", "trace.synthetic.preset", "model.gate.n_experts"},
             fmt::format("{} hot experts of {}", t.hot_experts, s.model.gate.n_experts), "use at most n_experts");
  }
  if (s.trace.first_request >= t.n_requests)
    c.refuse({"trace.first_request", "trace.synthetic.n_requests"},
             fmt::format("request {} of {} does not exist", s.trace.first_request, t.n_requests), "requests count from 0");
  if (s.payload.qkv == QkvKind::recorded)
    c.refuse({"payload.qkv", "trace.synthetic"}, "a synthetic trace has no recorded q, k, v", "use qkv: generated or auto");
  if (s.batch.load == LoadKind::arrivals && t.arrivals == "none")
    c.refuse({"batch.load", "trace.synthetic.arrivals"}, "load arrivals needs arrival times, and the synthetic trace has none",
             "set trace.synthetic.arrivals: poisson or gamma");
  const bool calibrated = t.preset == "flame" || t.preset == "dsv2lite" || t.preset == "gptoss";
  if (needs_logits(s) && !calibrated) {
    c.refuse({"routing.router", "trace.synthetic.preset"},
             fmt::format("router {} needs gate logits; preset {} has expert ids and weights only", rule_name(s.routing.rule), t.preset),
             "use a calibrated preset (flame, dsv2lite, gptoss) or another router");
  }
}

bool exists(const std::string& path) {
  std::error_code ec;
  return std::filesystem::is_regular_file(path, ec);
}

}  // namespace

void check_trace(Checks& c) {
  const RunSpec& s = c.spec();
  const bool file = c.given("trace.path"), synthetic = c.given("trace.synthetic");
  if (c.given("trace.tokens") || c.given("model.path")) return;  // of check_score
  if (!file && !synthetic) c.refuse({"trace.path", "trace"}, "missing required key", "name a native trace file, or give trace.synthetic");
  if (file && synthetic)
    c.refuse({"trace.path", "trace.synthetic"}, "a run replays trace.path or trace.synthetic, not both",
             "remove one (trace.synthetic=null on the command line)");
  if (file && !exists(s.trace.path))
    c.refuse({"trace.path"}, fmt::format("no such file: {}", s.trace.path), "check the path, or make the trace with moekv trace import or generate");
  if (!s.trace.synthetic.bootstrap_path.empty() && !exists(s.trace.synthetic.bootstrap_path))
    c.refuse({"trace.synthetic.bootstrap_path"}, fmt::format("no such file: {}", s.trace.synthetic.bootstrap_path), "check the path");
  if (synthetic && !file) check_synthetic(c);
  for (std::uint16_t l : s.trace.layers) {
    if (l < s.model.layers.size() && s.model.layers[l].attention == AttentionKind::none) {
      c.refuse({"trace.layers", "model"}, fmt::format("layer {} of '{}' has no attention and holds no KV", l, s.model.name), "leave it out");
    }
  }
}

}  // namespace moekv
