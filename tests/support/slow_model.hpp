// The oracle of a decoder: a whole forward pass of one sequence in double, written from the description of the format and nothing else.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "support/tiny_model.hpp"

namespace moekv::testing {

class SlowModel {
 public:
  using Row = std::vector<double>;

  SlowModel(const std::string& path, TinyModel m) : m_(std::move(m)) {
    const h5::File file = h5::File::open(path);
    read(file, "");
  }

  /// -ln p(tokens[t + 1]) after tokens[0 .. t], for every t with a successor.
  std::vector<double> losses(const std::vector<std::uint32_t>& tokens) {
    const std::size_t n = tokens.size() - 1;
    std::vector<Row> x;
    for (std::size_t t = 0; t < n; ++t) x.push_back(row("embed", tokens[t], m_.hidden));
    for (std::uint32_t l = 0; l < m_.n_layers; ++l) layer(l, x);
    std::vector<double> out;
    for (std::size_t t = 0; t < n; ++t) {
      const Row logits = times(m_.tied ? "embed" : "head", norm(x[t], w_.at("norm")), m_.vocab);
      double sum = 0;
      for (const double z : logits) sum += std::exp(z);
      out.push_back(std::log(sum) - logits[tokens[t + 1]]);
    }
    return out;
  }

 private:
  void read(const h5::Group& group, const std::string& prefix) {
    for (const std::string& name : group.names()) {
      if (group.is_group(name)) {
        read(group.group(name), prefix + name + "/");
        continue;
      }
      const h5::Dataset d = group.dataset(name);
      Row& values = w_[prefix + name];
      if (d.type() == h5::Type::u16) {
        for (const std::uint16_t bits : d.read<std::uint16_t>()) values.push_back(float_from_bf16(bits));
      } else {
        for (const float x : d.read<float>()) values.push_back(x);
      }
    }
  }

  [[nodiscard]] bool has(const std::string& name) const { return w_.contains(name); }
  [[nodiscard]] Row row(const std::string& name, std::size_t i, std::size_t width) const {
    const auto first = w_.at(name).begin() + static_cast<std::ptrdiff_t>(i * width);
    return {first, first + static_cast<std::ptrdiff_t>(width)};
  }
  /// W x for matrix e of a dataset, plus its bias where there is one.
  [[nodiscard]] Row times(const std::string& name, const Row& x, std::size_t rows, std::size_t e = 0) const {
    Row y(rows);
    for (std::size_t r = 0; r < rows; ++r) {
      const Row w = row(name, e * rows + r, x.size());
      y[r] = std::inner_product(w.begin(), w.end(), x.begin(), 0.0) + (has(name + "_bias") ? w_.at(name + "_bias")[e * rows + r] : 0.0);
    }
    return y;
  }
  static Row norm(const Row& x, const Row& weight) {
    double mean = 0;
    for (const double v : x) mean += v * v / static_cast<double>(x.size());
    Row y;
    for (std::size_t i = 0; i < x.size(); ++i) y.push_back(x[i] / std::sqrt(mean + 1e-5) * weight[i]);
    return y;
  }

  /// Angle of channel pair i at a position, and the factor of its cos and sin.
  [[nodiscard]] std::pair<double, double> angle(std::size_t i, double position) const {
    double f = std::pow(100.0, -2.0 * static_cast<double>(i) / m_.rope_dim);
    if (!m_.yarn) return {position * f, 1};
    const auto dim = [&](double turns) { return m_.rope_dim * std::log(m_.yarn_original / (turns * 2 * std::numbers::pi)) / (2 * std::log(100.0)); };
    const double from = dim(m_.yarn_fast), to = dim(m_.yarn_slow);
    const double low = std::max(0.0, m_.yarn_truncate ? std::floor(from) : from);
    const double high = std::min(m_.rope_dim - 1.0, m_.yarn_truncate ? std::ceil(to) : to);
    const double share = std::clamp((static_cast<double>(i) - low) / std::max(high - low, 0.001), 0.0, 1.0);
    f = share * f / 4 + (1 - share) * f;
    return {position * f, m_.yarn_factor_of_attention > 0 ? m_.yarn_factor_of_attention : 0.1 * std::log(4.0) + 1};
  }
  void turn(Row& x, std::size_t heads, std::size_t position) const {
    for (std::size_t h = 0; h < heads; ++h) {
      for (std::size_t i = 0; i < m_.rope_dim / 2; ++i) {
        const bool half = m_.rope_style == "half";
        double& a = x[h * m_.head_dim + (half ? i : 2 * i)];
        double& b = x[h * m_.head_dim + (half ? i + m_.rope_dim / 2 : 2 * i + 1)];
        const auto [phi, scale] = angle(i, static_cast<double>(position));
        const double u = a * std::cos(phi) - b * std::sin(phi), v = a * std::sin(phi) + b * std::cos(phi);
        a = u * scale;
        b = v * scale;
      }
    }
  }
  void norm_heads(Row& x, const std::string& name, std::size_t heads) const {
    if (!has(name)) return;
    const std::size_t width = m_.head_norm == TinyModel::HeadNorm::whole ? heads * m_.head_dim : m_.head_dim;
    for (std::size_t at = 0; at < x.size(); at += width) {
      const auto first = x.begin() + static_cast<std::ptrdiff_t>(at);
      const Row y = norm(Row(first, first + static_cast<std::ptrdiff_t>(width)), w_.at(name));
      std::copy(y.begin(), y.end(), first);
    }
  }

  void layer(std::uint32_t l, std::vector<Row>& x) {
    const std::string at = "layers/" + std::to_string(l) + "/", attn = at + "attn/";
    const std::size_t d = m_.head_dim, group = m_.n_heads / m_.n_kv_heads;
    const double scale = m_.attention_scale > 0 ? m_.attention_scale : 1 / std::sqrt(static_cast<double>(d));
    std::vector<Row> q, k, v;
    for (std::size_t t = 0; t < x.size(); ++t) {
      const Row h = norm(x[t], w_.at(attn + "norm"));
      q.push_back(times(attn + "q", h, m_.n_heads * d));
      k.push_back(times(attn + "k", h, m_.n_kv_heads * d));
      v.push_back(times(attn + "v", h, m_.n_kv_heads * d));
      norm_heads(q[t], attn + "q_norm", m_.n_heads);
      norm_heads(k[t], attn + "k_norm", m_.n_kv_heads);
      if (m_.rope_style == "none" || (l == 2 && m_.skips_rope)) continue;
      turn(q[t], m_.n_heads, t);
      turn(k[t], m_.n_kv_heads, t);
    }
    for (std::size_t t = 0; t < x.size(); ++t) {
      Row o(m_.n_heads * d);
      const std::size_t first = l == 1 && m_.window > 0 && t + 1 > m_.window ? t + 1 - m_.window : 0;
      for (std::size_t h = 0; h < m_.n_heads; ++h) {
        Row weight;
        double sum = m_.sinks ? std::exp(w_.at(attn + "sinks")[h]) : 0;
        for (std::size_t s = first; s <= t; ++s) {
          double z = 0;
          for (std::size_t i = 0; i < d; ++i) z += q[t][h * d + i] * k[s][h / group * d + i];
          weight.push_back(std::exp(z * scale));
          sum += weight.back();
        }
        for (std::size_t s = first; s <= t; ++s) {
          for (std::size_t i = 0; i < d; ++i) o[h * d + i] += weight[s - first] / sum * v[s][h / group * d + i];
        }
      }
      const Row y = times(attn + "o", o, m_.hidden);
      for (std::size_t i = 0; i < m_.hidden; ++i) x[t][i] += y[i];
      feed_forward(at + "ffn/", x[t]);
    }
  }

  [[nodiscard]] Row expert(const std::string& name, const Row& h, std::size_t width, std::size_t e) const {
    Row g = times(name + "gate", h, width, e), u = times(name + "up", h, width, e);
    for (std::size_t i = 0; i < width; ++i) {
      if (m_.clamped) {
        const double a = std::min(g[i], 0.8);
        g[i] = a / (1 + std::exp(-1.702 * a)) * (std::clamp(u[i], -0.8, 0.8) + 1);
      } else {
        g[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
      }
    }
    return times(name + "down", g, m_.hidden, e);
  }

  [[nodiscard]] double score(double z) const {
    if (m_.gate_score == "sigmoid") return 1 / (1 + std::exp(-z));
    if (m_.gate_score == "sqrtsoftplus") return std::sqrt(std::log1p(std::exp(z)));
    return std::exp(z);
  }

  /// (expert, weight) pairs of one token.
  [[nodiscard]] std::vector<std::pair<std::size_t, double>> gate(const std::string& at, const Row& h) const {
    const Row z = times(at + "router", h, m_.n_experts);
    Row s, c;
    for (const double value : z) s.push_back(score(value));
    const double all = std::accumulate(s.begin(), s.end(), 0.0);
    for (std::size_t e = 0; e < z.size(); ++e) {
      const double own = m_.gate_score == "softmax" ? s[e] / all : s[e];
      c.push_back(own + (m_.choice_bias ? w_.at(at + "choice_bias")[e] : 0));
    }
    const std::size_t size = m_.n_experts / m_.n_group;
    std::vector<std::pair<double, std::size_t>> groups, best;
    for (std::size_t g = 0; g < m_.n_group; ++g) {
      Row own(c.begin() + static_cast<std::ptrdiff_t>(g * size), c.begin() + static_cast<std::ptrdiff_t>((g + 1) * size));
      std::sort(own.rbegin(), own.rend());
      groups.emplace_back(-(m_.gate_score == "softmax" || size < 2 ? own[0] : own[0] + own[1]), g);
    }
    std::sort(groups.begin(), groups.end());
    for (std::size_t i = 0; i < m_.topk_group; ++i) {
      for (std::size_t e = groups[i].second * size; e < (groups[i].second + 1) * size; ++e) best.emplace_back(-c[e], e);
    }
    std::sort(best.begin(), best.end());
    best.resize(m_.top_k);
    double chosen = 0;
    for (const auto& [key, e] : best) chosen += s[e];
    const bool over_chosen = m_.renormalise || (m_.gate_score == "softmax" && m_.gate_order == "post");
    const double divisor = over_chosen ? chosen : m_.gate_score == "softmax" ? all : 1;
    std::vector<std::pair<std::size_t, double>> out;
    for (const auto& [key, e] : best) out.emplace_back(e, s[e] / divisor * m_.gate_scale);
    return out;
  }

  void feed_forward(const std::string& at, Row& x) const {
    const Row h = norm(x, w_.at(at + "norm"));
    const auto add = [&](const Row& y, double weight) {
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += weight * y[i];
    };
    if (!has(at + "router")) return add(expert(at, h, m_.width + 3, 0), 1);
    for (const auto& [e, weight] : gate(at, h)) {
      Row in = h;
      if (m_.weight_on_input) std::transform(in.begin(), in.end(), in.begin(), [w = weight](double v) { return v * w; });
      add(expert(at + "experts_", in, m_.width, e), m_.weight_on_input ? 1 : weight);
    }
    if (!m_.shared) return;
    double open = 1;
    if (m_.shared_router) {
      const Row& w = w_.at(at + "shared_router");
      open = 1 / (1 + std::exp(-std::inner_product(w.begin(), w.end(), h.begin(), 0.0)));
    }
    add(expert(at + "shared_", h, m_.width - 3, 0), open);
  }

  TinyModel m_;
  std::map<std::string, Row> w_;
};

}  // namespace moekv::testing
