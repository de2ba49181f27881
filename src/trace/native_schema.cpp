// The attributes of a native trace and its /model group.
#include "trace/native_schema.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "io/guarded_driver.hpp"
#include "trace/native_format.hpp"

namespace moekv::native {
namespace {

std::string now_utc() { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))); }

bool strictly_ascending(const std::vector<std::uint16_t>& v) {
  return std::is_sorted(v.begin(), v.end()) && std::adjacent_find(v.begin(), v.end()) == v.end();
}

void write_model(h5::Group model, const TraceInfo& trace) {
  const ModelShape& s = trace.shape;
  model.set("n_layers", s.n_layers());
  model.set("n_moe_layers", static_cast<std::uint32_t>(trace.moe_layers.size()));
  model.set("hidden", s.hidden);
  model.set("n_heads", s.n_heads);
  model.set("n_kv_heads", s.n_kv_heads);
  model.set("head_dim_k", s.d_k);
  model.set("head_dim_v", s.d_v);
  model.set("attn", attention_kinds[s.mla() ? 1 : 0]);
  model.set("kv_lora_rank", s.latent.d_c);
  model.set("rope_dim", s.latent.d_rope);
  model.set("rope_theta", s.rope_theta);
  model.set("n_experts", trace.n_experts);
  model.set("top_k", trace.top_k);
  model.set("n_shared", s.gate.n_shared);
  model.set("score_func", score_functions[static_cast<std::size_t>(s.gate.score)]);
  model.set("softmax_order", score_orders[static_cast<std::size_t>(s.gate.order)]);
  model.set("norm_topk", static_cast<std::uint8_t>(s.gate.renormalise));
  model.set("scale", s.gate.scale);
  model.set("n_group", s.gate.n_group);
  model.set("topk_group", s.gate.topk_group);
  model.write("moe_layer_ids", std::vector<std::int16_t>(trace.moe_layers.begin(), trace.moe_layers.end()));
}

}  // namespace

std::string clipped(const std::string& text) {
  constexpr std::string_view mark = "...";
  if (text.size() < h5::most_guarded_text_bytes) return text;
  return text.substr(0, h5::most_guarded_text_bytes - 1 - mark.size()) + std::string(mark);
}

std::vector<Problem> problems_of(const WriterSpec& spec, const std::string& path) {
  std::vector<Problem> problems;
  const auto refuse = [&](std::string what) { problems.push_back({path, std::move(what), ""}); };
  const TraceInfo& t = spec.info;
  const ModelShape& s = t.shape;
  if (!t.has_routing()) {
    if (t.n_experts != 0 || t.top_k != 0 || t.level != RoutingLevel::ids || !t.kv_layers.empty()) {
      refuse("a trace needs at least one MoE layer for experts, weights, logits or q, k, v");
    }
    return problems;
  }
  if (t.n_experts < 1 || t.n_experts > most_experts) refuse(fmt::format("n_experts {} is outside 1..{}", t.n_experts, most_experts));
  if (t.top_k < 1 || t.top_k > most_top_k || t.top_k > t.n_experts) {
    refuse(fmt::format("top_k {} is outside 1..{} or above n_experts {}", t.top_k, most_top_k, t.n_experts));
  }
  if (!strictly_ascending(t.moe_layers) || !strictly_ascending(t.kv_layers)) refuse("layer numbers must ascend");
  const std::uint32_t n_layers = s.n_layers() > 0 ? s.n_layers() : most_layers;
  for (const auto* layers : {&t.moe_layers, &t.kv_layers}) {
    if (!layers->empty() && layers->back() >= n_layers) refuse(fmt::format("layer {} is not below the model's {} layers", layers->back(), n_layers));
  }
  if (t.level == RoutingLevel::candidates && (t.n_candidates < t.top_k || t.n_candidates > t.n_experts)) {
    refuse(fmt::format("n_candidates {} is outside top_k..n_experts", t.n_candidates));
  }
  const bool latent_fits = !s.mla() || (s.n_kv_heads == 1 && s.d_k == s.latent.d_c + s.latent.d_rope && s.d_v == s.latent.d_c);
  if (!t.kv_layers.empty() && (s.n_heads == 0 || s.n_kv_heads == 0 || s.d_k == 0 || s.d_v == 0 || !latent_fits)) {
    refuse("recorded q, k, v need the model's heads and head dimensions");
  }
  return problems;
}

void write_facts(h5::File& file, const WriterSpec& spec) {
  const TraceInfo& t = spec.info;
  file.set("format", format_name);
  file.set("version", std::vector<std::int32_t>{format_major, format_minor});
  file.set("created_utc", spec.created_utc.empty() ? now_utc() : spec.created_utc);
  file.set("generator", clipped(spec.generator));
  file.set("source", clipped(t.source));
  file.set("source_uri", clipped(t.source_uri));
  file.set("source_commit", clipped(spec.source_commit));
  file.set("license", clipped(t.license));
  file.set("model_name", clipped(t.model_name));
  file.set("workload", clipped(t.workload));
  file.set("source_sha256", clipped(spec.source_sha256));
  file.set("seed", spec.seed);
  file.set("order", token_orders[0]);
  file.set("routing_level", static_cast<std::int32_t>(t.level));
  file.set("weight_kind", weight_kinds[static_cast<std::size_t>(spec.weight_kind)]);
  file.set("pseudo_logits", static_cast<std::uint8_t>(t.pseudo_logits));
  file.set("joined", static_cast<std::uint8_t>(t.joined));
  write_model(file.create_group("model"), t);
}

}  // namespace moekv::native
