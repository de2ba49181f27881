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

/// Keys [n][stride] as [d_k][n_side_by_side], zero from n on.
void lay_side_by_side(const float* keys, std::size_t stride, std::uint32_t n, std::uint32_t d_k, double* out) {
  for (std::uint32_t d = 0; d < d_k; ++d) {
    for (std::uint32_t i = 0; i < n_side_by_side; ++i) out[d * n_side_by_side + i] = i < n ? static_cast<double>(keys[i * stride + d]) : 0.0;
  }
}

/// Softmax over the positions so far, relative to the largest logit, and the values weighted by it.
struct RunningHead {
  double most = -std::numeric_limits<double>::infinity(), sum = 0;
  double* o;  // [d_v]

  /// The next n positions, n_side_by_side at most; values are [n][stride].
  void add(const double* logits, std::uint32_t n, const float* values, std::size_t stride, std::uint32_t d_v) {
    double shrinks[n_side_by_side], weights[n_side_by_side];
    for (std::uint32_t i = 0; i < n; ++i) {
      shrinks[i] = logits[i] > most ? std::exp(most - logits[i]) : 1.0;
      most = std::max(most, logits[i]);
      weights[i] = std::exp(logits[i] - most);
      sum = sum * shrinks[i] + weights[i];
    }
    add_weighted_rows(values, stride, n, shrinks, weights, d_v, o);
  }
};

}  // namespace

ExactResult exact_attention(QkvSource& qkv, const ModelShape& model, const ExactQuery& query) {
  const std::uint32_t begin = query.begin();
  const std::size_t n = query.position + 1 - begin;
  ExactResult result;
  result.o.assign(std::size_t{model.n_heads} * model.d_v, 0.0);
  result.weights.resize(model.n_heads * n);
  std::vector<RunningHead> heads(model.n_heads);
  for (std::uint32_t h = 0; h < model.n_heads; ++h) heads[h].o = &result.o[std::size_t{h} * model.d_v];
  const std::size_t k_stride = std::size_t{model.n_kv_heads} * model.d_k, v_stride = std::size_t{model.n_kv_heads} * model.d_v;
  const std::size_t at_once = std::min<std::size_t>(made_at_once, n);
  std::vector<float> k(at_once * k_stride), v(model.mla() ? 0 : at_once * v_stride);
  std::vector<double> side(std::size_t{n_side_by_side} * model.d_k);
  const auto add_positions = [&](std::uint32_t kv, std::uint32_t in_block, std::uint32_t position, std::uint32_t count) {
    const float* keys = &k[in_block * k_stride + std::size_t{kv} * model.d_k];
    lay_side_by_side(keys, k_stride, count, model.d_k, side.data());
    for (std::uint32_t h = kv * model.group_size(); h < (kv + 1) * model.group_size(); ++h) {
      double logits[n_side_by_side];
      dot_columns(side.data(), &query.q[std::size_t{h} * model.d_k], model.d_k, logits);
      for (std::uint32_t i = 0; i < count; ++i) logits[i] *= query.scale;
      std::copy_n(logits, count, &result.weights[h * n + (position - begin)]);
      if (model.mla())
        heads[h].add(logits, count, keys, k_stride, model.d_v);
      else
        heads[h].add(logits, count, &v[in_block * v_stride + std::size_t{kv} * model.d_v], v_stride, model.d_v);
    }
  };
  for (std::uint32_t first = begin; first <= query.position; first += made_at_once) {
    const std::uint32_t end = std::min(first + made_at_once, query.position + 1);
    const TokenExperts experts{query.experts != nullptr ? query.experts + std::size_t{first} * query.top_k : nullptr, query.top_k};
    qkv.keys_values(query.layer, query.request, first, end, experts, k.data(), model.mla() ? nullptr : v.data());
    for (std::uint32_t kv = 0; kv < model.n_kv_heads; ++kv) {
      for (std::uint32_t p = first; p < end; p += n_side_by_side) add_positions(kv, p - first, p, std::min(n_side_by_side, end - p));
    }
  }
  for (std::uint32_t h = 0; h < model.n_heads; ++h) {
    const RunningHead& head = heads[h];
    const double total = head.sum + (query.sinks != nullptr ? std::exp(static_cast<double>(query.sinks[h]) - head.most) : 0.0);
    for (std::uint32_t d = 0; d < model.d_v; ++d) head.o[d] /= total;
    for (std::size_t i = 0; i < n; ++i) result.weights[h * n + i] = std::exp(result.weights[h * n + i] - head.most) / total;
  }
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
