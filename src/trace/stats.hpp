// Statistics of a routing trace: load skew, locality, cacheability, layer-to-layer structure, per layer and as the median over layers.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "core/field.hpp"
#include "trace/source.hpp"

namespace moekv {

/// One routing layer. NaN where a value is undefined (too few tokens, no next layer, cache larger than the experts, no weights).
/// S(t) is the set of experts of token t; absent slots count nowhere. Windows lie end to end inside a request; a last short one is left out.
struct LayerStats {
  static constexpr double undefined = std::numeric_limits<double>::quiet_NaN();
  double max_over_mean = undefined, min_over_mean = undefined, gini = undefined, entropy_norm = undefined, zipf = undefined, zipf_head = undefined;
  double reuse_lag_1 = undefined, reuse_lag_2 = undefined, reuse_lag_4 = undefined, reuse_lag_8 = undefined, reuse_lag_16 = undefined;
  double reuse_lag_64 = undefined, reuse_lag_128 = undefined, reuse_uniform = undefined, reuse_popularity = undefined, reuse_sequence = undefined;
  double top1_repeat = undefined, top1_independent = undefined, no_overlap = undefined, run_tokens = undefined;
  double distinct_8 = undefined, distinct_32 = undefined, distinct_128 = undefined;
  double lru_hit_k = undefined, lru_hit_2k = undefined, lru_hit_3k = undefined, lru_hit_4k = undefined, lru_hit_quarter = undefined,
         lru_hit_half = undefined;
  double opt_forced_hit_k = undefined, opt_forced_hit_2k = undefined, opt_forced_hit_3k = undefined, opt_forced_hit_4k = undefined;
  double opt_forced_hit_quarter = undefined, opt_forced_hit_half = undefined;
  double srp_4 = undefined, srp_16 = undefined, srp_64 = undefined;
  double next_recall = undefined, next_popularity = undefined, top1_information = undefined;
  double lift_p99 = undefined, pair_share = undefined, js_sequence = undefined, fano_32 = undefined;
  double ep8_64 = undefined, ep8_1024 = undefined, ep16_64 = undefined, ep16_1024 = undefined;
  double weight_sum = undefined;
  std::vector<double> reuse_by_rank;   // [top_k] P(the expert of gate rank i is in S(t + 1)); slot order where there are no weights
  std::vector<double> weight_by_rank;  // [top_k] mean of the sorted weights, each token's divided by their sum

  using S = LayerStats;
  static constexpr auto fields = std::tuple{
      Param{"max_over_mean", &S::max_over_mean, "1", "largest expert load over the mean load; a load is a count of selections"},
      Param{"min_over_mean", &S::min_over_mean, "1", "smallest expert load over the mean load"},
      Param{"gini", &S::gini, "1", "Gini coefficient of the loads"},
      Param{"entropy_norm", &S::entropy_norm, "1", "entropy of the loads over ln E"},
      Param{"zipf", &S::zipf, "1", "minus the slope of ln load over ln rank, loads above 0"},
      Param{"zipf_head", &S::zipf_head, "1", "the same over the first half of the ranks"},
      Param{"reuse_lag_1", &S::reuse_lag_1, "1", "mean of |S(t) and S(t-1)|/k over tokens with a predecessor, pooled over requests"},
      Param{"reuse_lag_2", &S::reuse_lag_2, "1", "the same at lag 2"},
      Param{"reuse_lag_4", &S::reuse_lag_4, "1", "the same at lag 4"},
      Param{"reuse_lag_8", &S::reuse_lag_8, "1", "the same at lag 8"},
      Param{"reuse_lag_16", &S::reuse_lag_16, "1", "the same at lag 16"},
      Param{"reuse_lag_64", &S::reuse_lag_64, "1", "the same at lag 64"},
      Param{"reuse_lag_128", &S::reuse_lag_128, "1", "the same at lag 128"},
      Param{"reuse_uniform", &S::reuse_uniform, "1", "baseline k/E"},
      Param{"reuse_popularity", &S::reuse_popularity, "1", "baseline of two independent tokens with the trace's loads"},
      Param{"reuse_sequence", &S::reuse_sequence, "1", "baseline of any two tokens of one request, requests weighted by tokens"},
      Param{"top1_repeat", &S::top1_repeat, "1", "P(the heaviest expert is that of the previous token)"},
      Param{"top1_independent", &S::top1_independent, "1", "the same for two independent tokens"},
      Param{"no_overlap", &S::no_overlap, "1", "P(S(t) and S(t-1) are disjoint)"},
      Param{"run_tokens", &S::run_tokens, "1", "mean number of consecutive tokens that keep an expert"},
      Param{"distinct_8", &S::distinct_8, "1", "distinct experts in windows of 8 tokens over E"},
      Param{"distinct_32", &S::distinct_32, "1", "the same for 32 tokens"},
      Param{"distinct_128", &S::distinct_128, "1", "the same for 128 tokens"},
      Param{"lru_hit_k", &S::lru_hit_k, "1",
            "hits over accesses of an LRU cache of k experts, emptied at each request; accesses in stored slot order"},
      Param{"lru_hit_2k", &S::lru_hit_2k, "1", "the same, 2k experts"},
      Param{"lru_hit_3k", &S::lru_hit_3k, "1", "the same, 3k experts"},
      Param{"lru_hit_4k", &S::lru_hit_4k, "1", "the same, 4k experts"},
      Param{"lru_hit_quarter", &S::lru_hit_quarter, "1", "the same, floor(E/4) experts"},
      Param{"lru_hit_half", &S::lru_hit_half, "1", "the same, floor(E/2) experts"},
      Param{"opt_forced_hit_k", &S::opt_forced_hit_k, "1", "the same accesses under Belady's rule with forced admission, k experts"},
      Param{"opt_forced_hit_2k", &S::opt_forced_hit_2k, "1", "the same, 2k experts"},
      Param{"opt_forced_hit_3k", &S::opt_forced_hit_3k, "1", "the same, 3k experts"},
      Param{"opt_forced_hit_4k", &S::opt_forced_hit_4k, "1", "the same, 4k experts"},
      Param{"opt_forced_hit_quarter", &S::opt_forced_hit_quarter, "1", "the same, floor(E/4) experts"},
      Param{"opt_forced_hit_half", &S::opt_forced_hit_half, "1", "the same, floor(E/2) experts"},
      Param{"srp_4", &S::srp_4, "1", "segment routing best performance: largest F1 of one fixed set of experts for windows of 4 tokens"},
      Param{"srp_16", &S::srp_16, "1", "the same for 16 tokens"},
      Param{"srp_64", &S::srp_64, "1", "the same for 64 tokens"},
      Param{"next_recall", &S::next_recall, "1",
            "share of the next layer's experts among the k with the largest sum of P(next|e) over this layer's e"},
      Param{"next_popularity", &S::next_popularity, "1", "the same when the next layer's k most loaded are guessed"},
      Param{"top1_information", &S::top1_information, "1",
            "mutual information of this and the next layer's heaviest expert over the entropy of the next"},
      Param{"lift_p99", &S::lift_p99, "1", "99th percentile over expert pairs of P(both)/(P(one) P(other))"},
      Param{"pair_share", &S::pair_share, "1", "share of the most frequent 2 % of pairs in all pairs of one token"},
      Param{"js_sequence", &S::js_sequence, "bit", "Jensen-Shannon divergence of a request's load from the trace's, mean over requests"},
      Param{"fano_32", &S::fano_32, "1", "variance of expert counts in windows of 32 tokens over that of a binomial, both summed over experts"},
      Param{"ep8_64", &S::ep8_64, "1", "most loaded of 8 contiguous expert ranks over the mean, random batches of 64 tokens"},
      Param{"ep8_1024", &S::ep8_1024, "1", "the same, batches of 1024"},
      Param{"ep16_64", &S::ep16_64, "1", "16 ranks, batches of 64"},
      Param{"ep16_1024", &S::ep16_1024, "1", "16 ranks, batches of 1024"},
      Param{"weight_sum", &S::weight_sum, "1", "mean sum of a token's stored weights"}};
};

struct TraceStats {
  std::uint64_t n_tokens = 0;
  std::uint32_t n_requests = 0;
  std::uint32_t n_experts = 0;
  std::uint32_t top_k = 0;
  std::vector<std::uint16_t> moe_layers;  // model layer of each entry of `layers`
  std::vector<LayerStats> layers;
  LayerStats median;  // of each field over the layers where it is defined
};

/// Reads the trace twice. Memory: one request's rows of a group of layers and 12 E^2 bytes per layer of the group; at most about 512 MB
/// for traces whose single layer needs less. A pure function of the trace (random batches are seeded).
[[nodiscard]] TraceStats compute_stats(TraceSource& trace);

/// Writes the group /stats of a native trace file, replacing an older one: per field a dataset [layers] with unit, definition and the median
/// as attributes. Works on a copy that is renamed into place, so the file is never half written. Throws UserError or SystemError.
void store_stats(const std::string& path, const TraceStats& stats);

}  // namespace moekv
