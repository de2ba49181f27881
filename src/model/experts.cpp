// The FFN part of a decoder: gate, routed and shared experts, dense FFN.
#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "core/id.hpp"
#include "model/decoder.hpp"
#include "rules/codec/element.hpp"
#include "rules/route/gate.hpp"

namespace moekv {
namespace {

/// Matrix e of a tensor [E][rows][columns], or the only one of [rows][columns].
MatrixView matrix(const Tensor& t, std::uint32_t e) {
  const std::size_t axis = t.dims.size() - 2;
  const auto rows = static_cast<std::uint32_t>(t.dims[axis]), columns = static_cast<std::uint32_t>(t.dims[axis + 1]);
  return {t.data.data() + std::size_t{e} * rows * columns * (element_bits(t.type) / 8), t.type, rows, columns};
}

void add_bias(const std::vector<float>& bias, std::uint32_t e, std::size_t width, std::vector<float>& rows) {
  for (std::size_t i = 0; !bias.empty() && i < rows.size(); ++i) rows[i] += bias[e * width + i % width];
}

}  // namespace

void Decoder::choose(const Layer& layer, const float* logits, std::uint16_t* ids, float* weights) const {
  const GateShape& gate = spec_.gate;
  if (layer.choice_bias.empty()) {
    route::select_top(gate, logits, gate.n_experts, gate.top_k, {ids, weights});
  } else {
    float c[route::max_experts];
    float shift = 0.0F, sum = 1.0F;
    if (gate.score == ScoreFunction::softmax) {
      shift = *std::max_element(logits, logits + gate.n_experts);
      sum = route::softmax_sum(logits, gate.n_experts, 1.0F, shift);
    }
    for (std::uint32_t e = 0; e < gate.n_experts; ++e) c[e] = route::score(gate.score, logits[e], shift) / sum + layer.choice_bias[e];
    const std::uint64_t groups = route::best_groups(gate.n_group, gate.topk_group, gate.n_experts, [&](std::uint32_t begin, std::uint32_t end) {
      const route::TopTwo top = route::top_two(c, begin, end);
      return gate.score == ScoreFunction::softmax || end - begin < 2 ? top.first : top.first + top.second;
    });
    route::select_masked(
        groups, gate.n_group, gate.n_experts, [&](std::uint32_t e) { return c[e]; }, route::TopList{ids, weights, gate.top_k});
  }
  route::weigh(gate, logits, gate.n_experts, 1.0F, gate.top_k, ids, weights);
}

void Decoder::gate(std::uint32_t layer, std::span<const float> h, GateOutput& out) const {
  const Layer& l = layers_[layer];
  project(l.router, l.router_bias, h, out.logits);
  const std::size_t n = count(h), k = spec_.gate.top_k, e = spec_.gate.n_experts;
  out.ids.resize(n * k);
  out.weights.resize(n * k);
  for (std::size_t t = 0; t < n; ++t) choose(l, &out.logits[t * e], &out.ids[t * k], &out.weights[t * k]);
}

void Decoder::run_ffn(const Ffn& ffn, std::uint32_t e, std::span<const float> h, std::vector<float>& y) const {
  const std::uint32_t n = count(h), width = ffn.width();
  std::vector<float> g(std::size_t{n} * width), u(std::size_t{n} * width);
  gemm_->multiply(matrix(ffn.gate, e), h.data(), n, g.data());
  gemm_->multiply(matrix(ffn.up, e), h.data(), n, u.data());
  add_bias(ffn.gate_bias, e, width, g);
  add_bias(ffn.up_bias, e, width, u);
  if (spec_.activation == Activation::swiglu) {
    for (std::size_t i = 0; i < g.size(); ++i) g[i] = g[i] * route::sigmoid(g[i]) * u[i];
  } else {
    const auto alpha = static_cast<float>(spec_.swiglu_alpha), limit = static_cast<float>(spec_.swiglu_limit);
    for (std::size_t i = 0; i < g.size(); ++i) {
      const float a = std::min(g[i], limit);
      g[i] = a * route::sigmoid(alpha * a) * (std::clamp(u[i], -limit, limit) + 1.0F);
    }
  }
  y.resize(std::size_t{n} * spec_.hidden);
  gemm_->multiply(matrix(ffn.down, e), g.data(), n, y.data());
  add_bias(ffn.down_bias, e, spec_.hidden, y);
}

void Decoder::add_experts(std::uint32_t layer, std::span<const float> h, std::span<const std::uint16_t> ids, std::span<const float> weights,
                          std::span<float> x) const {
  const Layer& l = layers_[layer];
  const std::size_t k = spec_.gate.top_k, hidden = spec_.hidden;
  std::vector<std::vector<std::uint32_t>> slots(spec_.gate.n_experts);  // [experts]: indices into ids
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] != ExpertId::invalid) slots[ids[i]].push_back(static_cast<std::uint32_t>(i));
  }
  std::vector<float> in, y;
  // A token's experts are added in ascending order, whatever other tokens do.
  for (std::uint32_t e = 0; e < spec_.gate.n_experts; ++e) {
    if (slots[e].empty()) continue;
    in.resize(slots[e].size() * hidden);
    for (std::size_t i = 0; i < slots[e].size(); ++i) {
      const float scale = spec_.weight_on_input ? weights[slots[e][i]] : 1.0F;
      const float* from = &h[slots[e][i] / k * hidden];
      for (std::size_t c = 0; c < hidden; ++c) in[i * hidden + c] = from[c] * scale;
    }
    run_ffn(l.experts, e, in, y);
    for (std::size_t i = 0; i < slots[e].size(); ++i) {
      const float weight = spec_.weight_on_input ? 1.0F : weights[slots[e][i]];
      float* to = &x[slots[e][i] / k * hidden];
      for (std::size_t c = 0; c < hidden; ++c) to[c] += weight * y[i * hidden + c];
    }
  }
  if (l.shared.gate.empty()) return;
  run_ffn(l.shared, 0, h, y);
  for (std::size_t t = 0; t < count(h); ++t) {
    float weight = 1.0F;
    if (!l.shared_router.empty()) {
      double dot = 0;
      for (std::size_t c = 0; c < hidden; ++c) dot += static_cast<double>(h[t * hidden + c]) * static_cast<double>(l.shared_router[c]);
      weight = route::sigmoid(static_cast<float>(dot));
    }
    for (std::size_t c = 0; c < hidden; ++c) x[t * hidden + c] += weight * y[t * hidden + c];
  }
}

void Decoder::add_dense(std::uint32_t layer, std::span<const float> h, std::span<float> x) const {
  std::vector<float> y;
  run_ffn(layers_[layer].dense, 0, h, y);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

}  // namespace moekv
