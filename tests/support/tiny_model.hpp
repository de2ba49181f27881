// Random model files of a few hundred weights with any combination of the format's options, for tests.
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/rng.hpp"
#include "io/hdf5.hpp"
#include "rules/codec/element.hpp"

namespace moekv::testing {

/// Options of a tiny decoder: what stands in its attributes, and which optional datasets it has.
struct TinyModel {
  std::uint32_t n_layers = 3, hidden = 24, vocab = 19, n_heads = 4, n_kv_heads = 2, head_dim = 12, n_experts = 6, top_k = 2, width = 10;
  std::string rope_style = "half";
  std::uint32_t rope_dim = 12;
  bool yarn = false, yarn_truncate = true;
  std::uint32_t yarn_original = 16;
  double yarn_fast = 32, yarn_slow = 1, yarn_factor_of_attention = 0;
  bool tied = false, biases = false, sinks = false, router_bias = false, choice_bias = false, expert_biases = false;
  bool shared = false, shared_router = false, clamped = false, weight_on_input = false, dense_first = false, head = true;
  enum class HeadNorm : std::uint8_t { none, each, whole } head_norm = HeadNorm::none;
  std::uint32_t window = 0;  // of layer 1
  bool skips_rope = false;   // layer 2
  double attention_scale = 0;
  std::string gate_score = "softmax", gate_order = "pre";
  bool renormalise = true;
  double gate_scale = 1;
  std::uint32_t n_group = 1, topk_group = 1;
  ElementFormat type = ElementFormat::fp32;
  std::uint64_t seed = 3;
};

class TinyWriter {
 public:
  TinyWriter(const std::string& path, TinyModel m) : file_(h5::File::create(path)), m_(std::move(m)) {}

  void write() {
    attributes();
    const std::uint64_t q = std::uint64_t{m_.n_heads} * m_.head_dim, kv = std::uint64_t{m_.n_kv_heads} * m_.head_dim, h = m_.hidden;
    put("embed", {m_.vocab, h}, 1.0);
    if (!m_.tied) put("head", {m_.vocab, h}, 2.0 / std::sqrt(h));
    put("norm", {h}, 0.3, 1.0);
    for (std::uint32_t l = 0; l < m_.n_layers; ++l) {
      const std::string at = "layers/" + std::to_string(l) + "/";
      h5::Group group = file_.create_group("layers/" + std::to_string(l));
      if (l == 1 && m_.window > 0) group.set("window_tokens", m_.window);
      if (l == 2 && m_.skips_rope) group.set("rope", 0);
      attention(at + "attn/", q, kv, h);
      put(at + "ffn/norm", {h}, 0.3, 1.0);
      if (l == 0 && m_.dense_first) {
        ffn(at + "ffn/", "", h, m_.width + 3, 0);
      } else {
        experts(at + "ffn/", h);
      }
    }
    file_.close();
  }

 private:
  void attributes() {
    file_.set("format", "moekv-model");
    file_.set("format_version", 1);
    file_.set("name", "tiny");
    const std::map<std::string, std::uint32_t> sizes{
        {"n_layers", m_.n_layers},         {"hidden", m_.hidden},       {"vocab", m_.vocab}, {"n_heads", m_.n_heads},   {"n_kv_heads", m_.n_kv_heads},
        {"head_dim", m_.head_dim},         {"n_experts", m_.n_experts}, {"top_k", m_.top_k}, {"rope_dim", m_.rope_dim}, {"gate_n_group", m_.n_group},
        {"gate_topk_group", m_.topk_group}};
    for (const auto& [name, value] : sizes) file_.set(name, value);
    file_.set("norm_eps", 1e-5);
    file_.set("rope_style", m_.rope_style);
    file_.set("rope_theta", 100.0);
    if (m_.attention_scale > 0) file_.set("attention_scale", m_.attention_scale);
    if (m_.yarn) {
      file_.set("rope_scaling", "yarn");
      file_.set("yarn_factor", 4.0);
      file_.set("yarn_original_tokens", m_.yarn_original);
      file_.set("yarn_beta_fast", m_.yarn_fast);
      file_.set("yarn_beta_slow", m_.yarn_slow);
      if (!m_.yarn_truncate) file_.set("yarn_truncate", 0);
      if (m_.yarn_factor_of_attention > 0) file_.set("yarn_attention_factor", m_.yarn_factor_of_attention);
    }
    file_.set("gate_score", m_.gate_score);
    file_.set("gate_order", m_.gate_order);
    file_.set("gate_renormalise", m_.renormalise ? 1 : 0);
    file_.set("gate_scale", m_.gate_scale);
    if (m_.weight_on_input) file_.set("gate_weight_on", "input");
    if (m_.clamped) {
      file_.set("activation", "swiglu_clamped");
      file_.set("swiglu_limit", 0.8);
    }
  }

  void attention(const std::string& at, std::uint64_t q, std::uint64_t kv, std::uint64_t h) {
    const double scale = 2.0 / std::sqrt(h);
    put(at + "norm", {h}, 0.3, 1.0);
    put(at + "q", {q, h}, 1.5 * scale);
    put(at + "k", {kv, h}, 1.5 * scale);
    put(at + "v", {kv, h}, scale);
    put(at + "o", {h, q}, scale);
    if (m_.biases) {
      put(at + "q_bias", {q}, 0.5);
      put(at + "k_bias", {kv}, 0.5);
      put(at + "v_bias", {kv}, 0.5);
      put(at + "o_bias", {h}, 0.5);
    }
    if (m_.head_norm != TinyModel::HeadNorm::none) {
      const bool whole = m_.head_norm == TinyModel::HeadNorm::whole;
      put(at + "q_norm", {whole ? q : m_.head_dim}, 0.3, 1.0);
      put(at + "k_norm", {whole ? kv : m_.head_dim}, 0.3, 1.0);
    }
    if (m_.sinks) put(at + "sinks", {m_.n_heads}, 1.0);
  }

  void ffn(const std::string& at, const std::string& prefix, std::uint64_t h, std::uint64_t width, std::uint64_t e) {
    const auto dims = [&](std::uint64_t rows, std::uint64_t columns) { return e > 0 ? h5::Dims{e, rows, columns} : h5::Dims{rows, columns}; };
    put(at + prefix + "gate", dims(width, h), 2.0 / std::sqrt(h));
    put(at + prefix + "up", dims(width, h), 2.0 / std::sqrt(h));
    put(at + prefix + "down", dims(h, width), 2.0 / std::sqrt(width));
  }

  void experts(const std::string& at, std::uint64_t h) {
    put(at + "router", {m_.n_experts, h}, 3.0 / std::sqrt(h));
    if (m_.router_bias) put(at + "router_bias", {m_.n_experts}, 0.5);
    if (m_.choice_bias) put(at + "choice_bias", {m_.n_experts}, 0.3);
    ffn(at, "experts_", h, m_.width, m_.n_experts);
    if (m_.expert_biases) {
      put(at + "experts_gate_bias", {m_.n_experts, m_.width}, 0.4);
      put(at + "experts_up_bias", {m_.n_experts, m_.width}, 0.4);
      put(at + "experts_down_bias", {m_.n_experts, h}, 0.4);
    }
    if (m_.shared) ffn(at, "shared_", h, m_.width - 3, 0);
    if (m_.shared_router) put(at + "shared_router", {h}, 0.5);
  }

  /// Uniform values in middle +- scale.
  void put(const std::string& name, const h5::Dims& dims, double scale, double middle = 0) {
    std::uint64_t n = 1;
    for (const std::uint64_t d : dims) n *= d;
    std::vector<float> values;
    for (std::uint64_t i = 0; i < n; ++i) {
      const double u = uniform_float(static_cast<std::uint32_t>(hash_words(m_.seed, std::hash<std::string>()(name), i)));
      values.push_back(static_cast<float>(middle + scale * (2 * u - 1)));
    }
    if (m_.type == ElementFormat::fp32) {
      file_.write(name, std::span<const float>(values), dims);
    } else if (m_.type == ElementFormat::fp16) {
      std::vector<h5::Half> half;
      for (const float x : values) half.push_back({fp16_from_float(x)});
      file_.write(name, std::span<const h5::Half>(half), dims);
    } else {
      std::vector<std::uint16_t> bits;
      for (const float x : values) bits.push_back(bf16_from_float(x));
      file_.write(name, std::span<const std::uint16_t>(bits), dims).set("encoding", "bf16");
    }
  }

  h5::File file_;
  TinyModel m_;
};

inline void write_tiny_model(const std::string& path, const TinyModel& m) { TinyWriter(path, m).write(); }

}  // namespace moekv::testing
