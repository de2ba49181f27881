// Detection of warm-up, interleaving, duplicate layers and dead experts in streaming rows.
#include "trace/traps.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "core/rng.hpp"

namespace moekv {
namespace {

constexpr std::uint64_t max_sampled_tokens = 16384;
constexpr std::uint32_t max_sampled_layers = 4;

std::string join(const std::vector<std::uint16_t>& values) {
  std::string text;
  for (const auto v : values) text += (text.empty() ? "" : ", ") + std::to_string(v);
  return text;
}

std::string percent(std::uint64_t part, std::uint64_t whole) {
  return fmt::format("{:.1f} %", 100.0 * static_cast<double>(part) / static_cast<double>(std::max<std::uint64_t>(whole, 1)));
}

}  // namespace

std::uint64_t set_signature(const std::uint16_t* ids, std::uint32_t n_layers, std::uint32_t top_k) {
  std::uint64_t signature = 0;
  for (std::uint32_t l = 0; l < n_layers; ++l) {
    std::uint64_t set = 0;
    for (std::uint32_t j = 0; j < top_k; ++j) set += mix64(ids[l * top_k + j]);
    signature = mix64(signature ^ set);
  }
  return signature;
}

TrapDetector::TrapDetector(std::vector<std::uint16_t> layers, std::uint32_t n_experts, std::uint32_t top_k)
    : layers_(std::move(layers)),
      n_experts_(n_experts),
      top_k_(top_k),
      n_words_((n_experts + 63) / 64),
      layer_hash_(layers_.size(), 0),
      load_(layers_.size() * n_experts, 0) {
  const auto n = static_cast<std::uint32_t>(layers_.size());
  const std::uint32_t step = (n + max_sampled_layers - 1) / max_sampled_layers;
  for (std::uint32_t l = 0; l < n; l += step) sampled_.push_back(l);
  history_.resize((max_lag + 1) * sampled_.size() * n_words_);
}

void TrapDetector::add(const std::uint16_t* ids, const float* weights) {
  const auto n_layers = static_cast<std::uint32_t>(layers_.size());
  const std::uint64_t signature = set_signature(ids, n_layers, top_k_);
  const bool repeated = n_tokens_ > 0 && signature == signature_;
  if (!repeated) {
    if (run_ >= warmup_run_tokens) warmup_tokens_ += run_;
    run_ = 0;
  }
  signature_ = signature;
  ++run_;
  ++n_tokens_;
  for (std::uint32_t l = 0; l < n_layers; ++l) {
    bool sorted = true;
    for (std::uint32_t j = 0; j < top_k_; ++j) {
      const std::uint16_t id = ids[l * top_k_ + j];
      layer_hash_[l] = mix64(layer_hash_[l] ^ id);
      if (id < n_experts_) ++load_[l * n_experts_ + id];
      if (weights == nullptr) continue;
      sorted = sorted && (j == 0 || weights[l * top_k_ + j] <= weights[l * top_k_ + j - 1]);
    }
    if (weights == nullptr) continue;
    ++n_rows_;
    n_unsorted_ += sorted ? 0 : 1;
  }
  if (!repeated && n_sampled_tokens_ < max_sampled_tokens) add_lags(ids);
}

void TrapDetector::add_lags(const std::uint16_t* ids) {
  const std::size_t row = sampled_.size() * n_words_;
  std::uint64_t* now = history_.data() + n_history_ % (max_lag + 1) * row;
  std::fill_n(now, row, 0);
  for (std::size_t s = 0; s < sampled_.size(); ++s) {
    for (std::uint32_t j = 0; j < top_k_; ++j) {
      const std::uint16_t id = ids[sampled_[s] * top_k_ + j];
      if (id < n_experts_) now[s * n_words_ + id / 64] |= std::uint64_t{1} << (id % 64);
    }
  }
  for (std::uint64_t lag = 1; lag <= std::min<std::uint64_t>(max_lag, n_history_); ++lag) {
    const std::uint64_t* then = history_.data() + (n_history_ - lag) % (max_lag + 1) * row;
    for (std::size_t i = 0; i < row; ++i) shared_[lag] += static_cast<std::uint64_t>(std::popcount(now[i] & then[i]));
    compared_[lag] += sampled_.size() * top_k_;
  }
  ++n_history_;
  ++n_sampled_tokens_;
}

std::uint32_t TrapDetector::interleaving() const {
  const auto reuse = [&](std::uint32_t lag) {
    return static_cast<double>(shared_[lag]) / static_cast<double>(std::max<std::uint64_t>(compared_[lag], 1));
  };
  std::uint32_t best = 0;
  for (std::uint32_t lag = 2; lag <= max_lag; ++lag) {
    const auto n = static_cast<double>(std::min(compared_[1], compared_[lag]));
    if (n < 512.0) continue;
    const double first = reuse(1), here = reuse(lag);
    const double noise = std::sqrt(std::max(here * (1.0 - here), 1e-6) / n);
    if (here > 1.3 * first && here - first > 5.0 * noise && (best == 0 || here > reuse(best) * 1.02)) best = lag;
  }
  return best;
}

std::vector<std::string> TrapDetector::warnings() const {
  std::vector<std::string> found;
  if (const auto n = warmup_tokens(); n > 0) {
    found.push_back(fmt::format(
        "{} of {} tokens ({}) lie in runs of at least {} tokens with one identical expert set: warm-up rows? (--drop-warmup leaves them out)", n,
        n_tokens_, percent(n, n_tokens_), warmup_run_tokens));
  }
  if (const auto s = interleaving(); s > 0) {
    found.push_back(
        fmt::format("experts are reused {:.2f} times as often {} tokens apart than by the next token: {} sequences alternate? (--deinterleave {})",
                    static_cast<double>(shared_[s]) * static_cast<double>(compared_[1]) /
                        std::max(1.0, static_cast<double>(shared_[1]) * static_cast<double>(compared_[s])),
                    s, s, s));
  }
  std::map<std::uint64_t, std::vector<std::uint16_t>> same;
  for (std::size_t l = 0; l < layers_.size() && n_tokens_ >= 8; ++l) same[layer_hash_[l]].push_back(layers_[l]);
  for (const auto& [hash, layers] : same) {
    if (layers.size() > 1)
      found.push_back(fmt::format("layers {} have identical routing: a copy of one layer? (--layers leaves layers out)", join(layers)));
  }
  std::uint64_t dead = 0;
  for (const auto n : load_) dead += n == 0 ? 1 : 0;
  if (n_tokens_ * top_k_ >= 16ULL * n_experts_ && 2 * dead > load_.size()) {
    found.push_back(
        fmt::format("{} of the (layer, expert) pairs are never chosen: is n_experts = {} right?", percent(dead, load_.size()), n_experts_));
  }
  return found;
}

std::vector<std::string> TrapDetector::notes() const {
  std::vector<std::string> found;
  if (n_unsorted_ > 0)
    found.push_back(fmt::format("slots are not sorted by weight in {} of the rows; the input's order is kept", percent(n_unsorted_, n_rows_)));
  return found;
}

}  // namespace moekv
