// Accumulators behind compute_stats: each sees whole requests of one layer and writes its fields of LayerStats at the end.
#pragma once

#include <cstdint>
#include <vector>

#include "core/id.hpp"
#include "trace/stats.hpp"

namespace moekv::stats {

/// The rows of one request at one layer. Pointers are borrowed; `stride` is the distance of consecutive tokens in elements.
struct SequenceView {
  const std::uint16_t* ids;
  const float* weights;  // null when the trace has none
  std::uint32_t n_tokens;
  std::uint32_t top_k;
  std::size_t stride;
  std::uint64_t first_token;  // index of the first token in the whole trace

  [[nodiscard]] const std::uint16_t* token(std::uint32_t t) const { return ids + t * stride; }
  [[nodiscard]] const float* token_weights(std::uint32_t t) const { return weights + t * stride; }
  /// The slot with the largest weight, lowest slot on ties; slot 0 without weights.
  [[nodiscard]] std::uint32_t top_slot(std::uint32_t t) const;
  /// Slots in descending weight, ties by slot; slot order without weights. `order` is [top_k].
  void slots_by_weight(std::uint32_t t, std::vector<std::uint32_t>& order) const;
};

/// Tokens of seeded random batches of the whole trace, ascending by token.
struct Batches {
  struct Draw {
    std::uint64_t token;
    std::uint32_t batch;
  };
  std::uint32_t batch_tokens = 0;
  std::uint32_t n_batches = 0;  // 0 when the trace has fewer tokens than a batch
  std::vector<Draw> draws;
};
[[nodiscard]] Batches draw_batches(std::uint64_t n_tokens, std::uint32_t batch_tokens, std::uint32_t n_batches);

/// Loads, weights, co-activation, baselines and expert-parallel imbalance.
class LoadStats {
 public:
  LoadStats(std::uint32_t n_experts, std::uint32_t top_k, const std::vector<Batches>& batches);
  void add(const SequenceView& s);
  /// Second pass: needs the loads of the whole trace.
  void add_divergence(const SequenceView& s);
  void finish(LayerStats& out) const;
  [[nodiscard]] const std::vector<std::uint64_t>& load() const { return load_; }

 private:
  void add_weights(const SequenceView& s, std::uint32_t t);
  void add_batches(const SequenceView& s);
  void finish_load(LayerStats& out) const;
  void finish_pairs(LayerStats& out) const;

  std::uint32_t n_experts_, top_k_;
  const std::vector<Batches>& batches_;
  std::uint64_t n_tokens_ = 0, n_sequences_ = 0;
  std::vector<std::uint64_t> load_;
  std::vector<std::uint32_t> pairs_;  // [E][E], upper triangle
  std::vector<std::uint32_t> sequence_load_;
  double any_two_ = 0.0, any_two_tokens_ = 0.0, divergence_ = 0.0;
  std::vector<double> sorted_weight_;
  double weight_sum_ = 0.0;
  std::uint64_t n_weighted_ = 0;
  std::vector<std::vector<std::uint32_t>> rank_load_;  // [batches][n_batches * 24]: 8 ranks, then 16
};

/// Reuse between tokens at several lags, repeats, runs.
class ReuseStats {
 public:
  ReuseStats(std::uint32_t n_experts, std::uint32_t top_k);
  void add(const SequenceView& s);
  void finish(LayerStats& out) const;

 private:
  static constexpr std::uint32_t lags[] = {1, 2, 4, 8, 16, 64, 128};
  static constexpr std::uint32_t ring_tokens = 129;
  [[nodiscard]] bool held(std::uint32_t t, std::uint16_t id) const {
    return id != ExpertId::invalid && (ring_[t % ring_tokens * words_ + id / 64] >> (id % 64) & 1U) != 0;
  }
  void add_predecessor(const SequenceView& s, std::uint32_t t);

  std::uint32_t top_k_;
  std::size_t words_;
  std::vector<std::uint64_t> ring_;  // membership bits of the last 129 tokens
  std::uint64_t shared_[std::size(lags)] = {}, possible_[std::size(lags)] = {};
  std::uint64_t n_followers_ = 0, disjoint_ = 0, repeats_ = 0, selections_ = 0, starts_ = 0, n_tokens_ = 0;
  std::vector<std::uint64_t> kept_by_rank_, top_count_;
};

/// Distinct experts, bursts and best fixed sets in windows of one length.
class WindowStats {
 public:
  WindowStats(std::uint32_t n_experts, std::uint32_t top_k, std::uint32_t window_tokens);
  void add(const SequenceView& s);
  [[nodiscard]] double distinct_share() const;
  [[nodiscard]] double fano() const;
  [[nodiscard]] double best_f1() const;

 private:
  void close_window();
  std::uint32_t n_experts_, top_k_, window_tokens_;
  std::uint64_t n_windows_ = 0, distinct_ = 0;
  double f1_ = 0.0;
  std::vector<std::uint32_t> count_, with_count_;
  std::vector<std::uint16_t> touched_;
  std::vector<std::uint64_t> sum_, sum_squares_;
};

/// Hits of LRU and of Belady's rule with forced admission, for all cache sizes of LayerStats.
class CacheStats {
 public:
  CacheStats(std::uint32_t n_experts, std::uint32_t top_k);
  void add(const SequenceView& s);
  void finish(LayerStats& out) const;

 private:
  static constexpr std::size_t n_sizes = 6;  // k, 2k, 3k, 4k, E/4, E/2
  void add_lru();
  void add_belady(std::size_t size_index);
  std::uint32_t n_experts_;
  std::uint32_t sizes_[n_sizes];
  std::uint64_t belady_hits_[n_sizes] = {}, accesses_ = 0;
  std::vector<std::uint16_t> access_, stack_, cached_;
  std::vector<std::uint32_t> next_use_;     // [accesses] index of the next access of the same expert
  std::vector<std::uint32_t> expert_next_;  // [E]
  std::vector<std::uint64_t> depth_hits_;   // [E] LRU stack distances
};

/// What a layer says about the next one.
class PairStats {
 public:
  PairStats(std::uint32_t n_experts, std::uint32_t top_k);
  void add(const SequenceView& here, const SequenceView& next);
  /// Second pass: guesses of the next layer's experts from the counts of the first.
  void add_guesses(const SequenceView& here, const SequenceView& next, const std::vector<std::uint64_t>& load,
                   const std::vector<std::uint64_t>& next_load);
  void finish(LayerStats& out) const;

 private:
  void prepare(const std::vector<std::uint64_t>& load, const std::vector<std::uint64_t>& next_load);
  std::uint32_t n_experts_, top_k_;
  std::vector<std::uint32_t> together_, top_together_;  // [E here][E next]
  std::vector<float> inverse_load_, score_, scratch_;
  std::vector<std::uint16_t> guess_, popular_;
  std::uint64_t right_ = 0, popular_right_ = 0, guesses_ = 0;
};

}  // namespace moekv::stats
