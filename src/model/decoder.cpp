// The parts of a decoder around attention: embedding, projections, rotary embedding, norms, head.
#include "model/decoder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "rules/codec/element.hpp"

namespace moekv {
namespace {

/// Matrix e of a tensor of several, or the only one.
MatrixView view(const Tensor& t) { return {t.data.data(), t.type, static_cast<std::uint32_t>(t.dims[0]), static_cast<std::uint32_t>(t.dims[1])}; }

/// y = x / sqrt(mean(x^2) + eps) * weight for one row.
void rms_norm(const float* x, const float* weight, std::size_t n, double eps, float* y) {
  double squares = 0;
  for (std::size_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  const auto scale = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(n) + eps));
  for (std::size_t i = 0; i < n; ++i) y[i] = x[i] * scale * weight[i];
}

void norm_rows(std::span<const float> x, const std::vector<float>& weight, double eps, std::vector<float>& y) {
  y.resize(x.size());
  const std::size_t width = weight.size();
  for (std::size_t at = 0; at < x.size(); at += width) rms_norm(&x[at], weight.data(), width, eps, &y[at]);
}

void add_bias(const std::vector<float>& bias, std::vector<float>& rows) {
  for (std::size_t i = 0; !bias.empty() && i < rows.size(); ++i) rows[i] += bias[i % bias.size()];
}

/// Channel at which a frequency turns `rotations` times over the original context (YaRN).
double correction_dim(const RopeSpec& rope, double rotations) {
  return rope.dim * std::log(rope.yarn_original_tokens / (rotations * 2 * std::numbers::pi)) / (2 * std::log(rope.theta));
}

}  // namespace

Decoder::Decoder(const ModelFile& file, std::unique_ptr<Gemm> gemm) : spec_(file.spec()), gemm_(std::move(gemm)) {
  embed_ = file.read("embed");
  head_ = file.read("head");
  norm_ = file.read("norm").values();
  for (std::size_t l = 0; l < spec_.layers.size(); ++l) {
    const std::string attn = fmt::format("layers/{}/attn/", l), ffn = fmt::format("layers/{}/ffn/", l);
    const auto values = [&](const std::string& name) { return file.read(name).values(); };
    const auto read_ffn = [&](const std::string& prefix) {
      return Ffn{file.read(prefix + "gate"),   file.read(prefix + "up"),   file.read(prefix + "down"),
                 values(prefix + "gate_bias"), values(prefix + "up_bias"), values(prefix + "down_bias")};
    };
    Layer layer;
    layer.attention_norm = values(attn + "norm");
    layer.q = file.read(attn + "q");
    layer.k = file.read(attn + "k");
    layer.v = file.read(attn + "v");
    layer.o = file.read(attn + "o");
    layer.q_bias = values(attn + "q_bias");
    layer.k_bias = values(attn + "k_bias");
    layer.v_bias = values(attn + "v_bias");
    layer.o_bias = values(attn + "o_bias");
    layer.q_norm = values(attn + "q_norm");
    layer.k_norm = values(attn + "k_norm");
    layer.sinks = values(attn + "sinks");
    layer.ffn_norm = values(ffn + "norm");
    layer.router = file.read(ffn + "router");
    layer.router_bias = values(ffn + "router_bias");
    layer.choice_bias = values(ffn + "choice_bias");
    layer.shared_router = values(ffn + "shared_router");
    layer.experts = read_ffn(ffn + "experts_");
    layer.shared = read_ffn(ffn + "shared_");
    layer.dense = read_ffn(ffn);
    layers_.push_back(std::move(layer));
  }
  make_frequencies();
}

void Decoder::make_frequencies() {
  const RopeSpec& rope = spec_.rope;
  if (rope.style == RopeStyle::none) return;
  const std::uint32_t pairs = rope.dim / 2;
  for (std::uint32_t i = 0; i < pairs; ++i) frequencies_.push_back(std::pow(rope.theta, -2.0 * i / rope.dim));
  if (rope.yarn_factor <= 0) return;
  double low = correction_dim(rope, rope.yarn_beta_fast), high = correction_dim(rope, rope.yarn_beta_slow);
  if (rope.yarn_truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, rope.dim - 1.0);
  if (low == high) high += 0.001;
  for (std::uint32_t i = 0; i < pairs; ++i) {
    const double interpolated = std::clamp((i - low) / (high - low), 0.0, 1.0);  // slow channels are stretched, fast ones stay
    frequencies_[i] = frequencies_[i] / rope.yarn_factor * interpolated + frequencies_[i] * (1 - interpolated);
  }
  rope_scale_ = rope.yarn_attention_factor > 0 ? rope.yarn_attention_factor : rope.yarn_factor > 1 ? 0.1 * std::log(rope.yarn_factor) + 1 : 1;
}

RopeAngles Decoder::angles(std::span<const std::uint32_t> positions) const {
  RopeAngles out;
  for (const std::uint32_t p : positions) {
    for (const double f : frequencies_) {
      out.cos.push_back(static_cast<float>(std::cos(p * f) * rope_scale_));
      out.sin.push_back(static_cast<float>(std::sin(p * f) * rope_scale_));
    }
  }
  return out;
}

void Decoder::turn(std::vector<float>& rows, std::uint32_t n_heads, const RopeAngles& angles) const {
  const std::size_t pairs = frequencies_.size(), width = std::size_t{n_heads} * spec_.head_dim;
  const bool interleaved = spec_.rope.style == RopeStyle::interleaved;
  for (std::size_t t = 0; t * width < rows.size(); ++t) {
    for (std::uint32_t h = 0; h < n_heads; ++h) {
      float* head = &rows[t * width + std::size_t{h} * spec_.head_dim];
      for (std::size_t i = 0; i < pairs; ++i) {
        float& a = head[interleaved ? 2 * i : i];
        float& b = head[interleaved ? 2 * i + 1 : i + pairs];
        const float c = angles.cos[t * pairs + i], s = angles.sin[t * pairs + i], x = a;
        a = x * c - b * s;
        b = b * c + x * s;
      }
    }
  }
}

void Decoder::project(const Tensor& w, const std::vector<float>& bias, std::span<const float> h, std::vector<float>& out) const {
  const MatrixView matrix = view(w);
  const auto n = static_cast<std::uint32_t>(h.size() / matrix.columns);
  out.resize(std::size_t{n} * matrix.rows);
  gemm_->multiply(matrix, h.data(), n, out.data());
  add_bias(bias, out);
}

void Decoder::norm_heads(const std::vector<float>& weight, std::uint32_t n_heads, std::vector<float>& rows) const {
  if (weight.empty()) return;
  const std::size_t width = weight.size() == spec_.head_dim ? spec_.head_dim : std::size_t{n_heads} * spec_.head_dim;
  for (std::size_t at = 0; at < rows.size(); at += width) rms_norm(&rows[at], weight.data(), width, spec_.norm_eps, &rows[at]);
}

void Decoder::embed(std::span<const std::uint32_t> tokens, std::vector<float>& x) const {
  const std::size_t bytes = element_bits(embed_.type) / 8;
  x.resize(tokens.size() * spec_.hidden);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const std::byte* row = embed_.data.data() + tokens[t] * bytes * spec_.hidden;
    for (std::uint32_t i = 0; i < spec_.hidden; ++i) x[t * spec_.hidden + i] = load_raw(embed_.type, row, i);
  }
}

void Decoder::attention_inputs(std::uint32_t layer, std::span<const float> x, const RopeAngles& angles, AttentionInputs out) const {
  const Layer& l = layers_[layer];
  std::vector<float> h;
  norm_rows(x, l.attention_norm, spec_.norm_eps, h);
  project(l.q, l.q_bias, h, out.q);
  project(l.k, l.k_bias, h, out.k);
  project(l.v, l.v_bias, h, out.v);
  norm_heads(l.q_norm, spec_.n_heads, out.q);
  norm_heads(l.k_norm, spec_.n_kv_heads, out.k);
  if (!spec_.layers[layer].rope) return;
  turn(out.q, spec_.n_heads, angles);
  turn(out.k, spec_.n_kv_heads, angles);
}

void Decoder::add_attention(std::uint32_t layer, std::span<const float> o, std::span<float> x) const {
  std::vector<float> y;
  project(layers_[layer].o, layers_[layer].o_bias, o, y);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

void Decoder::ffn_input(std::uint32_t layer, std::span<const float> x, std::vector<float>& h) const {
  norm_rows(x, layers_[layer].ffn_norm, spec_.norm_eps, h);
}

void Decoder::head(std::span<const float> x, std::vector<float>& logits) const {
  std::vector<float> h;
  norm_rows(x, norm_, spec_.norm_eps, h);
  project(head_.empty() ? embed_ : head_, {}, h, logits);
}

}  // namespace moekv
