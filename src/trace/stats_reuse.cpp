// Locality of one layer: reuse between tokens, runs, and what windows of consecutive tokens hold.
#include <algorithm>

#include "trace/stats_detail.hpp"

namespace moekv::stats {
namespace {

double ratio(double part, double whole) { return whole > 0.0 ? part / whole : LayerStats::undefined; }

}  // namespace

ReuseStats::ReuseStats(std::uint32_t n_experts, std::uint32_t top_k)
    : top_k_(top_k), words_((n_experts + 63) / 64), ring_(words_ * ring_tokens), kept_by_rank_(top_k), top_count_(n_experts) {}

void ReuseStats::add_predecessor(const SequenceView& s, std::uint32_t t) {
  std::uint64_t shared = 0;
  for (std::uint32_t i = 0; i < top_k_; ++i) shared += held(t - 1, s.token(t)[i]) ? 1 : 0;
  disjoint_ += shared == 0 ? 1 : 0;
  ++n_followers_;
  const std::uint16_t before = s.token(t - 1)[s.top_slot(t - 1)], now = s.token(t)[s.top_slot(t)];
  repeats_ += before != ExpertId::invalid && before == now ? 1 : 0;
  starts_ -= shared;
}

void ReuseStats::add(const SequenceView& s) {
  std::vector<std::uint32_t> order(top_k_);
  for (std::uint32_t t = 0; t < s.n_tokens; ++t) {
    const std::uint16_t* ids = s.token(t);
    std::uint64_t* bits = &ring_[t % ring_tokens * words_];
    std::fill(bits, bits + words_, 0);
    for (std::uint32_t i = 0; i < top_k_; ++i) {
      if (ids[i] == ExpertId::invalid) continue;
      bits[ids[i] / 64] |= 1ULL << (ids[i] % 64);
      ++selections_;
      ++starts_;
    }
    for (std::size_t n = 0; n < std::size(lags) && t >= lags[n]; ++n) {
      for (std::uint32_t i = 0; i < top_k_; ++i) shared_[n] += held(t - lags[n], ids[i]) ? 1 : 0;
      possible_[n] += top_k_;
    }
    if (ids[s.top_slot(t)] != ExpertId::invalid) ++top_count_[ids[s.top_slot(t)]];
    ++n_tokens_;
    if (t == 0) continue;
    add_predecessor(s, t);
    s.slots_by_weight(t - 1, order);
    for (std::uint32_t i = 0; i < top_k_; ++i) kept_by_rank_[i] += held(t, s.token(t - 1)[order[i]]) ? 1 : 0;
  }
}

void ReuseStats::finish(LayerStats& out) const {
  double* const reuse[] = {&out.reuse_lag_1,  &out.reuse_lag_2,  &out.reuse_lag_4,  &out.reuse_lag_8,
                           &out.reuse_lag_16, &out.reuse_lag_64, &out.reuse_lag_128};
  for (std::size_t n = 0; n < std::size(lags); ++n) *reuse[n] = ratio(static_cast<double>(shared_[n]), static_cast<double>(possible_[n]));
  const auto followers = static_cast<double>(n_followers_), tokens = static_cast<double>(n_tokens_);
  out.no_overlap = ratio(static_cast<double>(disjoint_), followers);
  out.top1_repeat = ratio(static_cast<double>(repeats_), followers);
  out.run_tokens = ratio(static_cast<double>(selections_), static_cast<double>(starts_));
  double independent = 0.0;
  for (const std::uint64_t n : top_count_) independent += static_cast<double>(n) / tokens * (static_cast<double>(n) / tokens);
  out.top1_independent = n_tokens_ > 0 ? independent : LayerStats::undefined;
  for (const std::uint64_t kept : kept_by_rank_) out.reuse_by_rank.push_back(ratio(static_cast<double>(kept), followers));
}

WindowStats::WindowStats(std::uint32_t n_experts, std::uint32_t top_k, std::uint32_t window_tokens)
    : n_experts_(n_experts),
      top_k_(top_k),
      window_tokens_(window_tokens),
      count_(n_experts),
      with_count_(window_tokens + 1),
      sum_(n_experts),
      sum_squares_(n_experts) {}

void WindowStats::add(const SequenceView& s) {
  const std::uint32_t whole = s.n_tokens / window_tokens_ * window_tokens_;
  for (std::uint32_t t = 0; t < whole; ++t) {
    for (std::uint32_t i = 0; i < top_k_; ++i) {
      const std::uint16_t id = s.token(t)[i];
      if (id != ExpertId::invalid && count_[id]++ == 0) touched_.push_back(id);
    }
    if ((t + 1) % window_tokens_ == 0) close_window();
  }
}

/// F1 of the n most used experts against the window's selections is 2 covered / (n W + selections); the best n is found going down the counts.
void WindowStats::close_window() {
  ++n_windows_;
  distinct_ += touched_.size();
  std::fill(with_count_.begin(), with_count_.end(), 0U);
  double selections = 0.0;
  for (const std::uint16_t e : touched_) {
    const std::uint64_t n = count_[e];
    sum_[e] += n;
    sum_squares_[e] += n * n;
    selections += static_cast<double>(n);
    ++with_count_[n];
    count_[e] = 0;
  }
  touched_.clear();
  double covered = 0.0, chosen = 0.0, best = 0.0;
  for (std::uint32_t n = window_tokens_; n > 0; --n) {
    for (std::uint32_t i = 0; i < with_count_[n]; ++i) {
      covered += n;
      chosen += 1.0;
      best = std::max(best, 2.0 * covered / (chosen * window_tokens_ + selections));
    }
  }
  f1_ += best;
}

double WindowStats::distinct_share() const { return ratio(static_cast<double>(distinct_), static_cast<double>(n_windows_) * n_experts_); }

double WindowStats::fano() const {
  if (n_windows_ < 2) return LayerStats::undefined;
  const auto windows = static_cast<double>(n_windows_);
  double variance = 0.0, binomial = 0.0;
  for (std::uint32_t e = 0; e < n_experts_; ++e) {
    const double mean = static_cast<double>(sum_[e]) / windows, p = mean / window_tokens_;
    variance += (static_cast<double>(sum_squares_[e]) - windows * mean * mean) / (windows - 1.0);
    binomial += window_tokens_ * p * (1.0 - p);
  }
  return ratio(variance, binomial);
}

double WindowStats::best_f1() const { return ratio(f1_, static_cast<double>(n_windows_)); }

}  // namespace moekv::stats
