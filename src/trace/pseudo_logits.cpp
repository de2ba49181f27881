// Logits that are consistent with a recorded choice, its weights and the experts' popularity.
#include "trace/pseudo_logits.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "core/id.hpp"
#include "core/rng.hpp"

namespace moekv {
namespace {

constexpr double smallest_weight = 0x1p-24;  // of a stored half
constexpr double nearest_below = 1.0 / 16.0, farthest_below = 16.0;

}  // namespace

PseudoLogits::PseudoLogits(std::uint32_t n_layers, std::uint32_t n_experts, std::uint32_t top_k, WeightKind kind, double weight_floor,
                           std::uint64_t seed)
    : n_layers_(n_layers),
      n_experts_(n_experts),
      top_k_(top_k),
      kind_(kind),
      weight_floor_(std::max(weight_floor, smallest_weight)),
      seed_(seed),
      load_(std::size_t{n_layers} * n_experts, 0) {}

/// Without weights: ln of 1 / (rank + 2), close to the measured profiles.
double PseudoLogits::selected_logit(const TokenBlock& block, std::size_t row, std::uint32_t slot) const {
  if (block.weights.empty()) return -std::log(static_cast<double>(slot) + 2.0);
  const double w = std::max(static_cast<double>(block.weights[row * top_k_ + slot]), weight_floor_);
  if (kind_ != WeightKind::sigmoid) return std::log(w);
  const double p = std::min(w, 1.0 - 1e-4);
  return std::log(p / (1.0 - p));
}

void PseudoLogits::observe(std::uint32_t n_tokens, const std::vector<std::uint16_t>& ids, const std::vector<float>& weights) {
  TokenBlock view;
  view.weights = weights;
  std::vector<double> chosen;
  for (std::size_t row = 0; row < std::size_t{n_tokens} * n_layers_; ++row) {
    chosen.clear();
    for (std::uint32_t j = 0; j < top_k_; ++j) {
      const std::uint16_t id = ids[row * top_k_ + j];
      if (id >= n_experts_) continue;
      ++load_[row % n_layers_ * n_experts_ + id];
      chosen.push_back(selected_logit(view, row, j));
    }
    if (chosen.size() < 2) continue;
    const auto [low, high] = std::ranges::minmax(chosen);
    gap_sum_ += high - low;
    n_gaps_ += chosen.size() - 1;
  }
}

void PseudoLogits::fill_row(std::uint32_t request, std::uint32_t position, std::size_t row, TokenBlock& block) const {
  const auto layer = static_cast<std::uint32_t>(row % n_layers_);
  float* z = block.logits.data() + row * n_experts_;
  double lowest = 0.0;
  std::vector<bool> selected(n_experts_, false);
  bool any = false;
  for (std::uint32_t j = 0; j < top_k_; ++j) {
    const std::uint16_t id = block.ids[row * top_k_ + j];
    if (id >= n_experts_) continue;
    const double value = selected_logit(block, row, j);
    z[id] = static_cast<float>(value);
    selected[id] = true;
    lowest = any ? std::min(lowest, value) : value;
    any = true;
  }
  const double mean_gap = n_gaps_ > 0 ? std::max(gap_sum_ / static_cast<double>(n_gaps_), 1e-3) : 0.5;
  double mean_load = 0;
  for (std::uint32_t e = 0; e < n_experts_; ++e) mean_load += static_cast<double>(load_[layer * n_experts_ + e]) / n_experts_;
  Draw4 draw{};
  for (std::uint32_t e = 0; e < n_experts_; ++e) {
    if (e % 4 == 0) draw = draw4(seed_, Stream::pseudo_logits, request, position, layer << 16 | e);
    if (selected[e]) continue;
    const double below = -std::log(static_cast<double>(uniform_open(draw.v[e % 4]))) * mean_gap;
    const double popularity = std::log((static_cast<double>(load_[layer * n_experts_ + e]) + 1.0) / (mean_load + 1.0));
    z[e] = static_cast<float>(lowest - std::clamp(below - popularity, nearest_below, farthest_below));
  }
}

void PseudoLogits::fill(std::uint32_t request, std::uint32_t position, TokenBlock& block) const {
  const std::size_t n_rows = std::size_t{block.n_tokens} * n_layers_;
  block.logits.assign(n_rows * n_experts_, 0.0F);
  for (std::size_t row = 0; row < n_rows; ++row) fill_row(request, position + static_cast<std::uint32_t>(row / n_layers_), row, block);
  if (!block.weights.empty()) return;
  MOEKV_EXPECT(top_k_ > 0);
  block.weights.resize(n_rows * top_k_);
  for (std::size_t i = 0; i < block.weights.size(); ++i) {  // the rank profile, normalised over the slots
    double sum = 0;
    for (std::uint32_t j = 0; j < top_k_; ++j) sum += 1.0 / (j + 2.0);
    block.weights[i] = block.ids[i] < n_experts_ ? static_cast<float>(1.0 / (static_cast<double>(i % top_k_) + 2.0) / sum) : 0.0F;
  }
}

}  // namespace moekv
