// Pseudo logits: invented gate logits that give the recorded choice, for routers that need unselected scores (routing.md section 4.1).
#pragma once

#include <cstdint>
#include <vector>

#include "trace/writer.hpp"

namespace moekv {

/// Selected z = ln w (logit(w) for sigmoid weights, ln of a rank profile without weights), w at least `weight_floor`.
/// Unselected z = lowest selected - Exp(mean gap) + ln(p_e / p_mean), kept at least 1/16 and at most 16 below the lowest selected.
class PseudoLogits {
 public:
  PseudoLogits(std::uint32_t n_layers, std::uint32_t n_experts, std::uint32_t top_k, WeightKind kind, double weight_floor, std::uint64_t seed);
  /// First pass: loads and gaps of `n_tokens` rows; weights may be empty.
  void observe(std::uint32_t n_tokens, const std::vector<std::uint16_t>& ids, const std::vector<float>& weights);
  /// Second pass: fills block.logits (and block.weights where there were none) of tokens at positions `position`.. of `request`. A pure
  /// function of (seed, request, position, layer, expert).
  void fill(std::uint32_t request, std::uint32_t position, TokenBlock& block) const;

 private:
  [[nodiscard]] double selected_logit(const TokenBlock& block, std::size_t row, std::uint32_t slot) const;
  void fill_row(std::uint32_t request, std::uint32_t position, std::size_t row, TokenBlock& block) const;

  std::uint32_t n_layers_, n_experts_, top_k_;
  WeightKind kind_;
  double weight_floor_;
  std::uint64_t seed_;
  std::vector<std::uint64_t> load_;  // [layers][experts]
  double gap_sum_ = 0;
  std::uint64_t n_gaps_ = 0;
};

}  // namespace moekv
