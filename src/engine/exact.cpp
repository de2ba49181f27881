// Double-precision attention: every sum in the order of its channels and positions, whatever is computed side by side.
#include "engine/exact.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "trace/sum_kernels.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t made_at_once = 256;  // positions whose keys and values are made at once

/// Heads that share keys and values, over one position after the other: softmax relative to the largest logit so far, and the values weighted by it.
/// Sums run in the order of channels and positions.
class HeadGroup {
 public:
  /// `q` is [n_heads][d_k]; `o` [n_heads][d_v], zero before the first position.
  HeadGroup(const float* q, std::uint32_t n_heads, std::uint32_t d_k, std::uint32_t d_v, double* o)
      : n_heads_(n_heads), d_k_(d_k), d_v_(d_v), o_(o), heads_(n_heads), columns_(std::size_t{n_sets()} * d_k * n_side_by_side) {
    for (std::uint32_t h = 0; h < n_heads; ++h) {
      double* column = set(h / n_side_by_side) + h % n_side_by_side;
      for (std::uint32_t d = 0; d < d_k; ++d) column[std::size_t{d} * n_side_by_side] = static_cast<double>(q[std::size_t{h} * d_k + d]);
    }
  }

  /// The next n positions, at_once at most: keys are [n][k_stride], values [n][v_stride]. Head h's logits are left at logits + h * stride.
  void add(std::uint32_t n, const float* keys, std::size_t k_stride, const float* values, std::size_t v_stride, double scale, double* logits,
           std::size_t stride) {
    double dots[at_once * n_side_by_side];
    for (std::uint32_t s = 0; s < n_sets(); ++s) {
      dot_columns(set(s), d_k_, keys, k_stride, n, dots);
      for (std::uint32_t h = s * n_side_by_side; h < std::min((s + 1) * n_side_by_side, n_heads_); ++h) {
        for (std::uint32_t i = 0; i < n; ++i) logits[h * stride + i] = dots[i * n_side_by_side + h % n_side_by_side] * scale;
      }
    }
    shrinks_.resize(std::size_t{n_heads_} * n);
    weights_.resize(std::size_t{n_heads_} * n);
    for (std::uint32_t h = 0; h < n_heads_; ++h) weigh(h, n, logits + h * stride);
    add_weighted_rows(values, v_stride, n, shrinks_.data(), weights_.data(), n_heads_, d_v_, o_);
  }
  /// After the last position: turns values into outputs and logits [n] into weights. `sink`: a logit without a key, or null.
  void finish(std::uint32_t h, const float* sink, double* logits, std::size_t n) {
    const Head& head = heads_[h];
    const double total = head.sum + (sink != nullptr ? std::exp(static_cast<double>(*sink) - head.most) : 0.0);
    for (std::uint32_t d = 0; d < d_v_; ++d) o_[std::size_t{h} * d_v_ + d] /= total;
    for (std::size_t i = 0; i < n; ++i) logits[i] = std::exp(logits[i] - head.most) / total;
  }
  static constexpr std::uint32_t at_once = n_side_by_side;

 private:
  struct Head {
    double most = -std::numeric_limits<double>::infinity(), sum = 0;
  };
  [[nodiscard]] std::uint32_t n_sets() const { return (n_heads_ + n_side_by_side - 1) / n_side_by_side; }
  [[nodiscard]] double* set(std::uint32_t s) { return &columns_[std::size_t{s} * d_k_ * n_side_by_side]; }
  void weigh(std::uint32_t h, std::uint32_t n, const double* logits) {
    Head& head = heads_[h];
    for (std::uint32_t i = 0; i < n; ++i) {
      const double shrink = logits[i] > head.most ? std::exp(head.most - logits[i]) : 1.0;
      head.most = std::max(head.most, logits[i]);
      const double weight = std::exp(logits[i] - head.most);
      head.sum = head.sum * shrink + weight;
      shrinks_[std::size_t{h} * n + i] = shrink;
      weights_[std::size_t{h} * n + i] = weight;
    }
  }

  std::uint32_t n_heads_, d_k_, d_v_;
  double* o_;
  std::vector<Head> heads_;
  std::vector<double> columns_;            // queries: [sets][d_k][n_side_by_side], zero where there is no head
  std::vector<double> shrinks_, weights_;  // of the positions being added [n_heads][n]
};

}  // namespace

ExactResult exact_attention(QkvSource& qkv, const ModelShape& model, const ExactQuery& query) {
  const std::uint32_t begin = query.begin(), group = model.group_size();
  const std::size_t n = query.position + 1 - begin;
  ExactResult result;
  result.o.assign(std::size_t{model.n_heads} * model.d_v, 0.0);
  result.weights.resize(model.n_heads * n);
  std::vector<HeadGroup> groups;
  groups.reserve(model.n_kv_heads);
  for (std::uint32_t first = 0; first < model.n_heads; first += group)
    groups.emplace_back(query.q + std::size_t{first} * model.d_k, group, model.d_k, model.d_v, &result.o[std::size_t{first} * model.d_v]);
  const std::size_t k_stride = std::size_t{model.n_kv_heads} * model.d_k, v_stride = model.mla() ? k_stride : std::size_t{model.n_kv_heads} * model.d_v;
  const std::size_t n_made = std::min<std::size_t>(made_at_once, n);
  std::vector<float> k(n_made * k_stride), v(model.mla() ? 0 : n_made * v_stride);
  for (std::uint32_t first = begin; first <= query.position; first += made_at_once) {
    const std::uint32_t end = std::min(first + made_at_once, query.position + 1);
    const TokenExperts experts{query.experts != nullptr ? query.experts + std::size_t{first} * query.top_k : nullptr, query.top_k};
    qkv.keys_values(query.layer, query.request, first, end, experts, k.data(), model.mla() ? nullptr : v.data());
    for (std::uint32_t kv = 0; kv < model.n_kv_heads; ++kv) {
      for (std::uint32_t p = first; p < end; p += HeadGroup::at_once) {
        const float* keys = &k[(p - first) * k_stride + std::size_t{kv} * model.d_k];
        const float* values = model.mla() ? keys : &v[(p - first) * v_stride + std::size_t{kv} * model.d_v];
        groups[kv].add(std::min(HeadGroup::at_once, end - p), keys, k_stride, values, v_stride, query.scale,
                       &result.weights[std::size_t{kv} * group * n + (p - begin)], n);
      }
    }
  }
  for (std::uint32_t h = 0; h < model.n_heads; ++h)
    groups[h / group].finish(h % group, query.sinks != nullptr ? query.sinks + h : nullptr, &result.weights[h * n], n);
  return result;
}

Fidelity compare_with_exact(const ExactResult& exact, const ModelShape& model, std::uint32_t begin, std::span<const HeadReads> reads, const float* o,
                            std::uint32_t top_k) {
  Fidelity f;
  double error = 0, norm = 0, dot = 0, norm_o = 0;
  for (std::size_t i = 0; i < exact.o.size(); ++i) {
    const double a = exact.o[i], b = static_cast<double>(o[i]);
    error += (a - b) * (a - b);
    norm += a * a;
    norm_o += b * b;
    dot += a * b;
    f.max_abs_err = std::max(f.max_abs_err, std::abs(a - b));
  }
  f.out_err = norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
  f.cosine = norm > 0 && norm_o > 0 ? dot / std::sqrt(norm * norm_o) : 0.0;
  const std::size_t n = exact.weights.size() / model.n_heads;
  std::vector<std::uint8_t> was_read(n);
  std::vector<std::uint32_t> order(n);
  const std::size_t top = std::min<std::size_t>(top_k, n);
  for (std::uint32_t h = 0; h < model.n_heads; ++h) {
    const double* w = &exact.weights[h * n];
    std::fill(was_read.begin(), was_read.end(), 0);
    for (const HeadReads& r : reads) {
      if (h < r.first_head || h - r.first_head >= r.n_heads) continue;
      for (const std::uint32_t p : r.positions) {
        if (p >= begin && p - begin < n) was_read[p - begin] = 1;
      }
    }
    double kept = 0, total = 0;
    for (std::size_t i = 0; i < n; ++i) {
      total += w[i];
      kept += was_read[i] != 0 ? w[i] : 0.0;
    }
    const double mass = total > 0 ? kept / total : 0.0;  // of the keys; a learned sink has no key
    f.mass_kept += mass;
    f.kl += -std::log(std::max(mass, 1e-300));
    std::iota(order.begin(), order.end(), 0U);
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(top), order.end(),
                      [&](std::uint32_t a, std::uint32_t b) { return w[a] != w[b] ? w[a] > w[b] : a > b; });
    double found = 0;
    for (std::size_t i = 0; i < top; ++i) found += was_read[order[i]];
    f.topk_recall += top > 0 ? found / static_cast<double>(top) : 0.0;
  }
  f.mass_kept /= model.n_heads;
  f.kl /= model.n_heads;
  f.topk_recall /= model.n_heads;
  return f;
}

}  // namespace moekv
