// What a layer's experts say about the next layer's: recall of a guess from co-occurrence, mutual information of the heaviest.
#include <algorithm>
#include <cmath>

#include "rules/route/gate.hpp"
#include "trace/stats_detail.hpp"

namespace moekv::stats {

PairStats::PairStats(std::uint32_t n_experts, std::uint32_t top_k)
    : n_experts_(n_experts),
      top_k_(top_k),
      together_(static_cast<std::size_t>(n_experts) * n_experts),
      top_together_(together_.size()),
      score_(n_experts),
      scratch_(top_k),
      guess_(top_k),
      popular_(top_k) {}

void PairStats::add(const SequenceView& here, const SequenceView& next) {
  for (std::uint32_t t = 0; t < here.n_tokens; ++t) {
    for (std::uint32_t i = 0; i < top_k_; ++i) {
      if (here.token(t)[i] == ExpertId::invalid) continue;
      std::uint32_t* row = &together_[static_cast<std::size_t>(here.token(t)[i]) * n_experts_];
      for (std::uint32_t j = 0; j < top_k_; ++j)
        if (next.token(t)[j] != ExpertId::invalid) ++row[next.token(t)[j]];
    }
    const std::uint16_t a = here.token(t)[here.top_slot(t)], b = next.token(t)[next.top_slot(t)];
    if (a != ExpertId::invalid && b != ExpertId::invalid) ++top_together_[static_cast<std::size_t>(a) * n_experts_ + b];
  }
}

void PairStats::prepare(const std::vector<std::uint64_t>& load, const std::vector<std::uint64_t>& next_load) {
  inverse_load_.resize(n_experts_);
  for (std::uint32_t e = 0; e < n_experts_; ++e) inverse_load_[e] = load[e] > 0 ? 1.0F / static_cast<float>(load[e]) : 0.0F;
  route::TopList list{popular_.data(), scratch_.data(), top_k_};
  for (std::uint32_t e = 0; e < n_experts_; ++e) list.offer(static_cast<float>(next_load[e]), e);
}

void PairStats::add_guesses(const SequenceView& here, const SequenceView& next, const std::vector<std::uint64_t>& load,
                            const std::vector<std::uint64_t>& next_load) {
  if (inverse_load_.empty()) prepare(load, next_load);
  for (std::uint32_t t = 0; t < here.n_tokens; ++t) {
    std::fill(score_.begin(), score_.end(), 0.0F);
    for (std::uint32_t i = 0; i < top_k_; ++i) {
      const std::uint16_t e = here.token(t)[i];
      if (e == ExpertId::invalid) continue;
      const std::uint32_t* row = &together_[static_cast<std::size_t>(e) * n_experts_];
      for (std::uint32_t f = 0; f < n_experts_; ++f) score_[f] += static_cast<float>(row[f]) * inverse_load_[e];
    }
    route::TopList list{guess_.data(), scratch_.data(), top_k_};
    for (std::uint32_t f = 0; f < n_experts_; ++f) list.offer(score_[f], f);
    const std::uint16_t *begin = next.token(t), *end = begin + top_k_;
    for (const std::uint16_t g : guess_) right_ += std::find(begin, end, g) != end ? 1 : 0;
    for (const std::uint16_t g : popular_) popular_right_ += std::find(begin, end, g) != end ? 1 : 0;
    guesses_ += top_k_;
  }
}

void PairStats::finish(LayerStats& out) const {
  if (guesses_ == 0) return;
  out.next_recall = static_cast<double>(right_) / static_cast<double>(guesses_);
  out.next_popularity = static_cast<double>(popular_right_) / static_cast<double>(guesses_);
  std::vector<double> a(n_experts_), b(n_experts_);
  double total = 0.0;
  for (std::size_t i = 0; i < top_together_.size(); ++i) {
    a[i / n_experts_] += top_together_[i];
    b[i % n_experts_] += top_together_[i];
    total += top_together_[i];
  }
  double information = 0.0, entropy = 0.0;
  for (std::size_t i = 0; i < top_together_.size(); ++i) {
    const double n = top_together_[i];
    if (n > 0.0) information += n / total * std::log(n * total / (a[i / n_experts_] * b[i % n_experts_]));
  }
  for (const double n : b)
    if (n > 0.0) entropy -= n / total * std::log(n / total);
  if (entropy > 0.0) out.top1_information = information / entropy;
}

}  // namespace moekv::stats
