// Straightforward double-precision attention: written to be read, not to be fast.
#include "engine/exact.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace moekv {

ExactResult exact_attention(QkvSource& qkv, const ModelShape& model, const ExactQuery& query) {
  constexpr std::uint32_t block = 256;
  const std::uint32_t begin = query.begin();
  const std::size_t n = query.position + 1 - begin;
  ExactResult result;
  result.o.assign(std::size_t{model.n_heads} * model.d_v, 0.0);
  result.weights.resize(model.n_heads * n);
  std::vector<double> most(model.n_heads, -std::numeric_limits<double>::infinity()), sum(model.n_heads, 0.0);
  std::vector<float> k(std::size_t{block} * model.n_kv_heads * model.d_k), v(model.mla() ? 0 : std::size_t{block} * model.n_kv_heads * model.d_v);
  for (std::uint32_t first = begin; first <= query.position; first += block) {
    const std::uint32_t end = std::min(first + block, query.position + 1);
    const TokenExperts experts{query.experts != nullptr ? query.experts + std::size_t{first} * query.top_k : nullptr, query.top_k};
    qkv.keys_values(query.layer, query.request, first, end, experts, k.data(), model.mla() ? nullptr : v.data());
    for (std::uint32_t h = 0; h < model.n_heads; ++h) {
      const std::uint32_t kv = h / model.group_size();
      double* o = &result.o[std::size_t{h} * model.d_v];
      for (std::uint32_t p = first; p < end; ++p) {
        const std::size_t row = std::size_t{p - first} * model.n_kv_heads + kv;
        double logit = 0;
        for (std::uint32_t d = 0; d < model.d_k; ++d) logit += static_cast<double>(query.q[h * model.d_k + d]) * static_cast<double>(k[row * model.d_k + d]);
        logit *= query.scale;
        result.weights[h * n + (p - begin)] = logit;
        if (logit > most[h]) {
          const double shrink = std::exp(most[h] - logit);
          sum[h] *= shrink;
          for (std::uint32_t d = 0; d < model.d_v; ++d) o[d] *= shrink;
          most[h] = logit;
        }
        const double w = std::exp(logit - most[h]);
        sum[h] += w;
        const float* value = model.mla() ? &k[row * model.d_k] : &v[row * model.d_v];
        for (std::uint32_t d = 0; d < model.d_v; ++d) o[d] += w * static_cast<double>(value[d]);
      }
    }
  }
  for (std::uint32_t h = 0; h < model.n_heads; ++h) {
    const double total = sum[h] + (query.sinks != nullptr ? std::exp(static_cast<double>(query.sinks[h]) - most[h]) : 0.0);
    for (std::uint32_t d = 0; d < model.d_v; ++d) result.o[std::size_t{h} * model.d_v + d] /= total;
    for (std::size_t i = 0; i < n; ++i) result.weights[h * n + i] = std::exp(result.weights[h * n + i] - most[h]) / total;
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
