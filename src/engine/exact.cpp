// Double-precision attention: every sum in the order of its channels and positions, whatever is computed side by side.
#include "engine/exact.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>

#include "trace/sum_kernels.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t made_at_once = 256;  // positions whose keys and values are made at once

/// A query head: softmax over its positions so far, relative to the largest logit.
struct Lane {
  const float* q;            // [d_k]
  std::uint32_t begin, end;  // positions
  double* logits;            // [end - begin]; in the end weights
  const float* sink;         // null: it has none
  double* o;                 // [d_v], in the end
  double most = -std::numeric_limits<double>::infinity(), sum = 0;

  /// Those of the positions [first, first + n) that it sees are [first + from, first + to).
  [[nodiscard]] std::uint32_t from(std::uint32_t first) const { return begin > first ? begin - first : 0; }
  [[nodiscard]] std::uint32_t to(std::uint32_t first, std::uint32_t n) const { return end > first ? std::min(end - first, n) : 0; }
};

/// Up to n_side_by_side heads that share keys and values. Sums run in the order of channels and positions.
class Team {
 public:
  Team(std::uint32_t kv_head, std::span<const Lane> lanes, std::uint32_t d_k, std::uint32_t d_v)
      : kv_head_(kv_head),
        lanes_(lanes.begin(), lanes.end()),
        d_k_(d_k),
        d_v_(d_v),
        columns_(std::size_t{d_k} * n_side_by_side),
        values_(lanes.size() * d_v) {
    for (std::size_t l = 0; l < lanes.size(); ++l) {
      for (std::uint32_t d = 0; d < d_k; ++d) columns_[std::size_t{d} * n_side_by_side + l] = static_cast<double>(lanes[l].q[d]);
    }
  }

  [[nodiscard]] std::uint32_t kv_head() const { return kv_head_; }
  /// Positions [first, first + n), n_side_by_side at most; their keys are [n][k_stride], their values [n][v_stride].
  void add(std::uint32_t first, std::uint32_t n, const float* keys, std::size_t k_stride, const float* values, std::size_t v_stride, double scale) {
    if (std::none_of(lanes_.begin(), lanes_.end(), [&](const Lane& lane) { return lane.begin < first + n && first < lane.end; })) return;
    double dots[n_side_by_side * n_side_by_side];
    dot_columns(columns_.data(), d_k_, keys, k_stride, n, dots);
    double shrinks[n_side_by_side * n_side_by_side], weights[n_side_by_side * n_side_by_side];
    bool all_see_all = true;
    for (std::size_t l = 0; l < lanes_.size(); ++l) {
      Lane& lane = lanes_[l];
      all_see_all = all_see_all && lane.begin <= first && first + n <= lane.end;
      for (std::uint32_t i = lane.from(first); i < lane.to(first, n); ++i)
        std::tie(shrinks[l * n + i], weights[l * n + i]) = weigh(lane, first + i, dots[i * n_side_by_side + l] * scale);
    }
    const auto n_lanes = static_cast<std::uint32_t>(lanes_.size());
    if (all_see_all) return add_weighted_rows(values, v_stride, n, shrinks, weights, n_lanes, d_v_, values_.data());
    for (std::size_t l = 0; l < lanes_.size(); ++l) {
      const std::uint32_t from = lanes_[l].from(first), to = lanes_[l].to(first, n);
      if (from < to)
        add_weighted_rows(values + from * v_stride, v_stride, to - from, &shrinks[l * n + from], &weights[l * n + from], 1, d_v_, &values_[l * d_v_]);
    }
  }
  /// After the last position.
  void finish() {
    for (std::size_t l = 0; l < lanes_.size(); ++l) {
      const Lane& lane = lanes_[l];
      const double total = lane.sum + (lane.sink != nullptr ? std::exp(static_cast<double>(*lane.sink) - lane.most) : 0.0);
      for (std::uint32_t d = 0; d < d_v_; ++d) lane.o[d] = values_[l * d_v_ + d] / total;
      for (std::uint32_t i = 0; i < lane.end - lane.begin; ++i) lane.logits[i] = std::exp(lane.logits[i] - lane.most) / total;
    }
  }

 private:
  /// By what the values so far are multiplied, and then the position's own.
  static std::pair<double, double> weigh(Lane& lane, std::uint32_t position, double logit) {
    lane.logits[position - lane.begin] = logit;
    const double shrink = logit > lane.most ? std::exp(lane.most - logit) : 1.0;
    lane.most = std::max(lane.most, logit);
    const double weight = std::exp(logit - lane.most);
    lane.sum = lane.sum * shrink + weight;
    return {shrink, weight};
  }

  std::uint32_t kv_head_;
  std::vector<Lane> lanes_;
  std::uint32_t d_k_, d_v_;
  std::vector<double> columns_;  // queries: [d_k][n_side_by_side], zero where there is no lane
  std::vector<double> values_;   // [lanes][d_v]
};

/// Adds those of the heads of all queries that share a key-value head; `results` have room.
void add_teams(const ModelShape& model, std::span<const ExactQuery> queries, std::uint32_t kv_head, std::vector<ExactResult>& results,
               std::vector<Team>& teams) {
  std::vector<Lane> lanes;
  for (std::size_t i = 0; i < queries.size(); ++i) {
    const ExactQuery& query = queries[i];
    const std::size_t n = query.position + 1 - query.begin();
    for (std::size_t h = std::size_t{kv_head} * model.group_size(); h < std::size_t{kv_head + 1} * model.group_size(); ++h)
      lanes.push_back({query.q + h * model.d_k, query.begin(), query.position + 1, &results[i].weights[h * n],
                       query.sinks != nullptr ? query.sinks + h : nullptr, &results[i].o[h * model.d_v]});
  }
  for (std::size_t first = 0; first < lanes.size(); first += n_side_by_side)
    teams.emplace_back(kv_head, std::span(lanes).subspan(first, std::min<std::size_t>(n_side_by_side, lanes.size() - first)), model.d_k, model.d_v);
}

}  // namespace

std::vector<ExactResult> exact_attention(QkvSource& qkv, const ModelShape& model, std::span<const ExactQuery> queries, int n_threads) {
  std::vector<ExactResult> results(queries.size());
  if (queries.empty()) return results;
  for (std::size_t i = 0; i < queries.size(); ++i) {
    results[i].o.resize(std::size_t{model.n_heads} * model.d_v);
    results[i].weights.resize(std::size_t{model.n_heads} * (queries[i].position + 1 - queries[i].begin()));
  }
  std::vector<Team> teams;
  for (std::uint32_t kv = 0; kv < model.n_kv_heads; ++kv) add_teams(model, queries, kv, results, teams);
  const auto earlier = [](const ExactQuery& a, const ExactQuery& b) { return a.position < b.position; };
  const ExactQuery& last = *std::max_element(queries.begin(), queries.end(), earlier);
  const std::uint32_t begin = std::min_element(queries.begin(), queries.end(), earlier)->begin(), end = last.position + 1;
  const std::size_t k_stride = std::size_t{model.n_kv_heads} * model.d_k;
  const std::size_t v_stride = model.mla() ? k_stride : std::size_t{model.n_kv_heads} * model.d_v;
  const std::size_t n_made = std::min(made_at_once, end - begin);
  std::vector<float> k(n_made * k_stride), v(model.mla() ? 0 : n_made * v_stride);
  for (std::uint32_t first = begin; first < end; first += made_at_once) {
    const std::uint32_t n = std::min(made_at_once, end - first);
    const TokenExperts experts{last.experts != nullptr ? last.experts + std::size_t{first} * last.top_k : nullptr, last.top_k};
    qkv.keys_values(last.layer, last.request, first, first + n, experts, k.data(), model.mla() ? nullptr : v.data());
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_threads) if (teams.size() > 1)
    for (Team& team : teams) {
      const float* keys = &k[std::size_t{team.kv_head()} * model.d_k];
      const float* values = model.mla() ? keys : &v[std::size_t{team.kv_head()} * model.d_v];
      for (std::uint32_t i = 0; i < n; i += n_side_by_side)
        team.add(first + i, std::min(n_side_by_side, n - i), keys + i * k_stride, k_stride, values + i * v_stride, v_stride, last.scale);
    }
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_threads) if (teams.size() > 1)
  for (Team& team : teams) team.finish();
  return results;
}

ExactResult exact_attention(QkvSource& qkv, const ModelShape& model, const ExactQuery& query) {
  return std::move(exact_attention(qkv, model, std::span(&query, 1)).front());
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
