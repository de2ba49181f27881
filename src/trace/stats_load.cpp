// Load skew, baselines, gate weights, co-activation and expert-parallel imbalance of one layer.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_set>

#include "core/rng.hpp"
#include "trace/stats_detail.hpp"

namespace moekv::stats {
namespace {

constexpr std::uint32_t rank_counts[] = {8, 16};
constexpr std::uint32_t slots_per_batch = 8 + 16;

double gini(const std::vector<double>& ascending, double sum) {
  double weighted = 0.0;
  const auto n = static_cast<double>(ascending.size());
  for (std::size_t i = 0; i < ascending.size(); ++i) weighted += static_cast<double>(i + 1) * ascending[i];
  return 2.0 * weighted / (n * sum) - (n + 1.0) / n;
}

/// Minus the least-squares slope of ln load over ln rank of the first n ranks, loads above 0 only.
double zipf_slope(const std::vector<double>& descending, std::size_t n) {
  double sx = 0, sy = 0, sxx = 0, sxy = 0, count = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (descending[i] <= 0.0) break;
    const double x = std::log(static_cast<double>(i + 1)), y = std::log(descending[i]);
    sx += x;
    sy += y;
    sxx += x * x;
    sxy += x * y;
    count += 1;
  }
  return count < 2 ? LayerStats::undefined : -(count * sxy - sx * sy) / (count * sxx - sx * sx);
}

double mean_imbalance(const std::vector<std::uint32_t>& load, std::uint32_t n_batches, std::uint32_t first, std::uint32_t n_ranks) {
  double total = 0.0;
  std::uint32_t counted = 0;
  for (std::uint32_t b = 0; b < n_batches; ++b) {
    const auto at = load.begin() + b * slots_per_batch + first;
    const double sum = std::accumulate(at, at + n_ranks, 0.0);
    if (sum <= 0.0) continue;
    total += static_cast<double>(*std::max_element(at, at + n_ranks)) * n_ranks / sum;
    ++counted;
  }
  return counted == 0 ? LayerStats::undefined : total / counted;
}

}  // namespace

std::uint32_t SequenceView::top_slot(std::uint32_t t) const {
  if (weights == nullptr) return 0;
  return static_cast<std::uint32_t>(std::max_element(token_weights(t), token_weights(t) + top_k) - token_weights(t));
}

void SequenceView::slots_by_weight(std::uint32_t t, std::vector<std::uint32_t>& order) const {
  std::iota(order.begin(), order.end(), 0U);
  if (weights == nullptr) return;
  const float* w = token_weights(t);
  std::stable_sort(order.begin(), order.end(), [w](std::uint32_t a, std::uint32_t b) { return w[a] > w[b]; });
}

Batches draw_batches(std::uint64_t n_tokens, std::uint32_t batch_tokens, std::uint32_t n_batches) {
  Batches batches{batch_tokens, n_tokens < batch_tokens ? 0 : n_batches, {}};
  for (std::uint32_t b = 0; b < batches.n_batches; ++b) {
    std::unordered_set<std::uint64_t> tokens;
    for (std::uint64_t i = 0; tokens.size() < batch_tokens; ++i) tokens.insert(hash_words(1, batch_tokens, b, i) % n_tokens);
    for (const std::uint64_t t : tokens) batches.draws.push_back({t, b});
  }
  std::sort(batches.draws.begin(), batches.draws.end(), [](const auto& a, const auto& b) { return a.token < b.token; });
  return batches;
}

LoadStats::LoadStats(std::uint32_t n_experts, std::uint32_t top_k, const std::vector<Batches>& batches)
    : n_experts_(n_experts),
      top_k_(top_k),
      batches_(batches),
      load_(n_experts),
      pairs_(static_cast<std::size_t>(n_experts) * n_experts),
      sequence_load_(n_experts),
      sorted_weight_(top_k) {
  for (const Batches& b : batches) rank_load_.emplace_back(static_cast<std::size_t>(b.n_batches) * slots_per_batch);
}

void LoadStats::add_weights(const SequenceView& s, std::uint32_t t) {
  const float* w = s.token_weights(t);
  const double sum = std::accumulate(w, w + top_k_, 0.0);
  if (!(sum > 0.0)) return;
  std::vector<float> sorted(w, w + top_k_);
  std::sort(sorted.rbegin(), sorted.rend());
  for (std::uint32_t i = 0; i < top_k_; ++i) sorted_weight_[i] += sorted[i] / sum;
  weight_sum_ += sum;
  ++n_weighted_;
}

void LoadStats::add_batches(const SequenceView& s) {
  for (std::size_t b = 0; b < batches_.size(); ++b) {
    const auto& draws = batches_[b].draws;
    auto at = std::lower_bound(draws.begin(), draws.end(), s.first_token, [](const auto& d, std::uint64_t t) { return d.token < t; });
    for (; at != draws.end() && at->token < s.first_token + s.n_tokens; ++at) {
      std::uint32_t* load = &rank_load_[b][static_cast<std::size_t>(at->batch) * slots_per_batch];
      const std::uint16_t* ids = s.token(static_cast<std::uint32_t>(at->token - s.first_token));
      for (std::uint32_t i = 0; i < top_k_; ++i) {
        if (ids[i] == ExpertId::invalid) continue;
        ++load[ids[i] * 8U / n_experts_];
        ++load[8 + ids[i] * 16U / n_experts_];
      }
    }
  }
}

void LoadStats::add(const SequenceView& s) {
  std::fill(sequence_load_.begin(), sequence_load_.end(), 0U);
  for (std::uint32_t t = 0; t < s.n_tokens; ++t) {
    const std::uint16_t* ids = s.token(t);
    for (std::uint32_t i = 0; i < top_k_; ++i) {
      if (ids[i] == ExpertId::invalid) continue;
      ++sequence_load_[ids[i]];
      for (std::uint32_t j = i + 1; j < top_k_; ++j) {
        if (ids[j] == ExpertId::invalid) continue;
        ++pairs_[static_cast<std::size_t>(std::min(ids[i], ids[j])) * n_experts_ + std::max(ids[i], ids[j])];
      }
    }
    if (s.weights != nullptr) add_weights(s, t);
  }
  const double n = s.n_tokens;
  double same = 0.0;
  for (std::uint32_t e = 0; e < n_experts_; ++e) {
    load_[e] += sequence_load_[e];
    same += static_cast<double>(sequence_load_[e]) * (static_cast<double>(sequence_load_[e]) - 1.0);
  }
  if (s.n_tokens > 1) {
    any_two_ += n * same / (n * (n - 1.0) * top_k_);
    any_two_tokens_ += n;
  }
  n_tokens_ += s.n_tokens;
  n_sequences_ += s.n_tokens > 0 ? 1 : 0;
  add_batches(s);
}

void LoadStats::add_divergence(const SequenceView& s) {
  std::fill(sequence_load_.begin(), sequence_load_.end(), 0U);
  for (std::uint32_t t = 0; t < s.n_tokens; ++t)
    for (std::uint32_t i = 0; i < top_k_; ++i)
      if (s.token(t)[i] != ExpertId::invalid) ++sequence_load_[s.token(t)[i]];
  const double all = std::accumulate(load_.begin(), load_.end(), 0.0), mine = std::accumulate(sequence_load_.begin(), sequence_load_.end(), 0.0);
  if (mine <= 0.0) return;
  for (std::uint32_t e = 0; e < n_experts_; ++e) {
    const double p = static_cast<double>(load_[e]) / all, q = sequence_load_[e] / mine, m = 0.5 * (p + q);
    if (p > 0.0) divergence_ += 0.5 * p * std::log2(p / m);
    if (q > 0.0) divergence_ += 0.5 * q * std::log2(q / m);
  }
}

void LoadStats::finish_load(LayerStats& out) const {
  std::vector<double> sorted(load_.begin(), load_.end());
  std::sort(sorted.begin(), sorted.end());
  const double sum = std::accumulate(sorted.begin(), sorted.end(), 0.0), n = n_experts_, tokens = static_cast<double>(n_tokens_);
  if (sum <= 0.0) return;
  out.max_over_mean = sorted.back() * n / sum;
  out.min_over_mean = sorted.front() * n / sum;
  out.gini = gini(sorted, sum);
  double entropy = 0.0, both = 0.0;
  for (const double x : sorted) {
    if (x > 0.0) entropy -= x / sum * std::log(x / sum);
    both += (x / tokens) * (x / tokens);
  }
  out.entropy_norm = n > 1 ? entropy / std::log(n) : LayerStats::undefined;
  std::reverse(sorted.begin(), sorted.end());
  out.zipf = zipf_slope(sorted, sorted.size());
  out.zipf_head = zipf_slope(sorted, sorted.size() / 2);
  out.reuse_uniform = top_k_ / n;
  out.reuse_popularity = both / top_k_;
}

void LoadStats::finish_pairs(LayerStats& out) const {
  std::vector<double> lift, count;
  const auto tokens = static_cast<double>(n_tokens_);
  for (std::uint32_t a = 0; a < n_experts_; ++a) {
    for (std::uint32_t b = a + 1; b < n_experts_; ++b) {
      const double together = pairs_[static_cast<std::size_t>(a) * n_experts_ + b];
      count.push_back(together);
      const double independent = static_cast<double>(load_[a]) * static_cast<double>(load_[b]) / tokens;
      if (independent > 0.0) lift.push_back(together / independent);
    }
  }
  if (lift.empty() || top_k_ < 2) return;
  std::sort(lift.begin(), lift.end());
  const double at = 0.99 * static_cast<double>(lift.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const double above = lift[std::min(below + 1, lift.size() - 1)];
  out.lift_p99 = lift[below] + (at - static_cast<double>(below)) * (above - lift[below]);
  std::sort(count.rbegin(), count.rend());
  const auto n_top = std::max<std::ptrdiff_t>(1, std::lround(0.02 * static_cast<double>(count.size())));
  out.pair_share = std::accumulate(count.begin(), count.begin() + n_top, 0.0) / std::accumulate(count.begin(), count.end(), 0.0);
}

void LoadStats::finish(LayerStats& out) const {
  finish_load(out);
  finish_pairs(out);
  if (any_two_tokens_ > 0.0) out.reuse_sequence = any_two_ / any_two_tokens_;
  if (n_sequences_ > 0) out.js_sequence = divergence_ / static_cast<double>(n_sequences_);
  if (n_weighted_ > 0) {
    out.weight_sum = weight_sum_ / static_cast<double>(n_weighted_);
    out.weight_by_rank = sorted_weight_;
    for (double& w : out.weight_by_rank) w /= static_cast<double>(n_weighted_);
  }
  double LayerStats::*const targets[2][2] = {{&LayerStats::ep8_64, &LayerStats::ep16_64}, {&LayerStats::ep8_1024, &LayerStats::ep16_1024}};
  for (std::size_t b = 0; b < batches_.size(); ++b)
    for (std::size_t r = 0; r < 2; ++r)
      if (n_experts_ >= rank_counts[r]) out.*targets[b][r] = mean_imbalance(rank_load_[b], batches_[b].n_batches, r == 0 ? 0 : 8, rank_counts[r]);
}

}  // namespace moekv::stats
