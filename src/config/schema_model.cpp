// Keys of `model`: the shape of the decoder, from a file of configs/models or written in place.
#include <algorithm>

#include "config/custom_keys.hpp"
#include "config/schema.hpp"
#include "model/model_file.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t max_layers = 1024;

/// "full", "none" or "window(n)".
bool read_attention(const YamlNode& node, LayerShape& layer, Complaints& complain) {
  if (!expect_scalar(node, "full, none or window(n)", complain)) return false;
  layer.window_tokens = 0;
  if (node.text == "full" || node.text == "none") {
    layer.attention = node.text == "full" ? AttentionKind::full : AttentionKind::none;
    return true;
  }
  if (!node.text.starts_with("window(") || !node.text.ends_with(")")) {
    complain(node.at, fmt::format("unknown kind of attention '{}'", node.text), "use full, none or window(n) with n in tokens");
    return false;
  }
  const auto tokens = parse_unsigned(std::string_view(node.text).substr(7, node.text.size() - 8), "tokens");
  if (!tokens.ok() || tokens.value == 0 || tokens.value > 1U << 30) {
    complain(node.at, fmt::format("'{}' is no window of attention", node.text), "a window has at least 1 token: window(128)");
    return false;
  }
  layer.attention = AttentionKind::window;
  layer.window_tokens = static_cast<std::uint32_t>(tokens.value);
  return true;
}

void read_pattern(const YamlNode& node, RunSpec& spec, Complaints& complain) {
  std::vector<LayerShape> pattern;
  const auto add = [&](const YamlNode& item) {
    LayerShape layer;
    if (!read_attention(item, layer, complain)) return false;
    pattern.push_back(layer);
    return true;
  };
  if (node.kind != NodeKind::sequence && !add(node)) return;
  for (const YamlNode& item : node.items) {
    if (!add(item)) return;
  }
  auto& layers = spec.model.layers;
  if (pattern.empty()) return complain(node.at, "the pattern is empty", "name at least one kind of attention");
  if (layers.empty()) layers.resize(pattern.size());
  if (pattern.size() > layers.size()) {
    return complain(node.at, fmt::format("the pattern has {} entries but the model {} layers", pattern.size(), layers.size()),
                    "correct model.layers.count or the pattern");
  }
  for (std::size_t i = 0; i < layers.size(); ++i) layers[i] = pattern[i % pattern.size()];
}

std::string write_attention(const LayerShape& layer) {
  if (layer.attention == AttentionKind::window) return fmt::format("window({})", layer.window_tokens);
  return layer.attention == AttentionKind::full ? "full" : "none";
}

/// The shortest pattern whose repetition gives the layers.
std::string write_pattern(const RunSpec& spec) {
  const auto& layers = spec.model.layers;
  std::size_t period = 1;
  const auto repeats = [&] {
    for (std::size_t i = period; i < layers.size(); ++i) {
      if (write_attention(layers[i]) != write_attention(layers[i % period])) return false;
    }
    return true;
  };
  while (period < layers.size() && !repeats()) ++period;
  std::string text;
  for (std::size_t i = 0; i < std::min(period, layers.size()); ++i) text += (i > 0 ? ", " : "") + write_attention(layers[i]);
  return "[" + text + "]";
}

Key layer_key(std::string name, std::string type, std::string doc) {
  Key key;
  key.path = "model.layers." + std::move(name);
  key.type = std::move(type);
  key.doc = std::move(doc);
  return key;
}

Key count_key() {
  Key key = layer_key("count", "whole number", "number of layers; default: the length of the pattern");
  key.range = fmt::format("1..{}", max_layers);
  key.read = [](const YamlNode& node, RunSpec& spec, Complaints& complain) {
    std::uint32_t count = 0;
    read_value(node, count, "", Limits{1, max_layers}, complain);
    spec.model.layers.assign(count, LayerShape{});
  };
  key.write = [](const RunSpec& spec) { return fmt::format("{}", spec.model.layers.size()); };
  return key;
}

Key pattern_key() {
  Key key = layer_key("pattern", "list", "attention of the layers, repeated: full, none (holds no KV) or window(n)");
  key.read = read_pattern;
  key.write = write_pattern;
  return key;
}

Key sinks_key() {
  Key key = layer_key("sinks", "true or false", "every attention layer has a learned sink logit per query head (gpt-oss)");
  key.read = [](const YamlNode& node, RunSpec& spec, Complaints& complain) {
    bool sinks = false;
    read_value(node, sinks, "", {}, complain);
    for (LayerShape& layer : spec.model.layers) layer.sinks = sinks && layer.attention != AttentionKind::none;
  };
  key.write = [](const RunSpec& spec) {
    const auto& layers = spec.model.layers;
    return write_value(std::any_of(layers.begin(), layers.end(), [](const LayerShape& layer) { return layer.sinks; }));
  };
  return key;
}

Key dense_key() {
  Key key = layer_key("dense", "list of layers", "layers with a dense FFN instead of experts: [0, 1] or [0-46/2]");
  key.read = [](const YamlNode& node, RunSpec& spec, Complaints& complain) {
    std::vector<std::uint16_t> dense;
    if (!read_layers(node, static_cast<std::uint32_t>(spec.model.layers.size()), dense, complain)) return;
    for (const std::uint16_t l : dense) spec.model.layers[l].moe = false;
  };
  key.write = [](const RunSpec& spec) {
    std::vector<std::uint16_t> dense;
    for (std::size_t l = 0; l < spec.model.layers.size(); ++l) {
      if (!spec.model.layers[l].moe) dense.push_back(static_cast<std::uint16_t>(l));
    }
    return write_layers(dense);
  };
  return key;
}

/// A model in the loop: its file gives the shape, which other keys may repeat.
Key weights_key() {
  Key key = path_key(
      "model.path", "model file with the weights of a decoder, which moekv score runs; it gives the shape",
      +[](RunSpec& s) -> std::string& { return s.model.path; });
  key.read = [read = key.read](const YamlNode& node, RunSpec& spec, Complaints& complain) {
    const std::string name = spec.model.name;
    read(node, spec, complain);
    if (spec.model.path.empty()) return;
    try {
      const std::string path = spec.model.path;
      spec.model = shape_of(ModelFile(path).spec(), path);
    } catch (const UserError& e) {
      for (const Problem& p : e.problems()) complain(node.at, fmt::format("{}: {}", p.where, p.what), p.suggestion);
    }
    if (!name.empty()) spec.model.name = name;
  };
  return key;
}

/// Short form of d_k and d_v.
Key head_dim_key() {
  Key key =
      field_key("model.head_dim", "values", "short for d_k and d_v when both are equal", [](auto& s) -> auto& { return s.model.d_k; }, {1, 4096});
  key.written = false;
  key.read = [](const YamlNode& node, RunSpec& spec, Complaints& complain) {
    read_value(node, spec.model.d_k, "", Limits{1, 4096}, complain);
    spec.model.d_v = spec.model.d_k;
  };
  return key;
}

void add_gate_keys(std::vector<Key>& keys) {
  const auto add = [&](Key key) { keys.push_back(std::move(key)); };
  add(field_key("model.gate.n_experts", "", "routed experts of a MoE layer", [](auto& s) -> auto& { return s.model.gate.n_experts; },
                {1, most_experts}));
  add(field_key("model.gate.top_k", "", "experts chosen per token", [](auto& s) -> auto& { return s.model.gate.top_k; }, {1, 22}));
  add(field_key("model.gate.n_shared", "", "shared experts, always active", [](auto& s) -> auto& { return s.model.gate.n_shared; }, {0, 64}));
  add(field_key("model.gate.score", "", "score function of the gate logits", [](auto& s) -> auto& { return s.model.gate.score; }));
  add(field_key("model.gate.order", "", "pre: scores over all experts, then the k largest; post: scores over the k chosen",
                [](auto& s) -> auto& { return s.model.gate.order; }));
  add(field_key("model.gate.renormalise", "", "weights of the chosen sum to 1 before scale",
                [](auto& s) -> auto& { return s.model.gate.renormalise; }));
  add(field_key("model.gate.scale", "1", "routed scaling factor", [](auto& s) -> auto& { return s.model.gate.scale; }, {0, 1000}));
  add(field_key("model.gate.n_group", "", "groups of experts; 1 = none", [](auto& s) -> auto& { return s.model.gate.n_group; }, {1, most_experts}));
  add(field_key("model.gate.topk_group", "", "groups a token may choose from", [](auto& s) -> auto& { return s.model.gate.topk_group; },
                {1, most_experts}));
}

}  // namespace

void add_model_keys(std::vector<Key>& keys) {
  const auto add = [&](Key key) { keys.push_back(std::move(key)); };
  add(field_key("model.name", "", "a file of configs/models (without .yaml) or its path; a mere label where model.layers is written in place",
                [](auto& s) -> auto& { return s.model.name; }));
  keys.back().decides = false;
  add(weights_key());
  add(count_key());
  add(pattern_key());
  add(sinks_key());
  add(dense_key());
  add(field_key("model.hidden", "values", "width of the residual stream", [](auto& s) -> auto& { return s.model.hidden; }, {1, 1 << 20}));
  add(field_key("model.n_heads", "", "query heads", [](auto& s) -> auto& { return s.model.n_heads; }, {1, 1024}));
  add(field_key("model.n_kv_heads", "", "KV heads; 1 for MLA, whose latent stands for all heads", [](auto& s) -> auto& { return s.model.n_kv_heads; },
                {1, 1024}));
  add(head_dim_key());
  add(field_key("model.latent.d_c", "values", "MLA: latent values of a token; 0 = not MLA", [](auto& s) -> auto& { return s.model.latent.d_c; },
                {0, 4096}));
  add(field_key("model.latent.d_rope", "values", "MLA: rotary values beside the latent", [](auto& s) -> auto& { return s.model.latent.d_rope; },
                {0, 4096}));
  add(field_key("model.d_k", "values", "values of a K row and KV head; for MLA d_c + d_rope (the default there)",
                [](auto& s) -> auto& { return s.model.d_k; }, {1, 4096}));
  add(field_key("model.d_v", "values", "values of a V row and KV head; for MLA d_c (the default there)", [](auto& s) -> auto& { return s.model.d_v; },
                {1, 4096}));
  add(field_key("model.rope_theta", "1", "base of the rotary embedding", [](auto& s) -> auto& { return s.model.rope_theta; }, {1, 1e12}));
  add(field_key("model.softmax_scale", "1", "factor of q.k; 0 = 1/sqrt(d_k), which is wrong for MLA",
                [](auto& s) -> auto& { return s.model.softmax_scale; }, {0, 100}));
  add_gate_keys(keys);
}

}  // namespace moekv
