// Softmax over the vocabulary in double, a block of tokens at a time.
#include "model/predictions.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moekv {
namespace {

constexpr std::size_t rows_at_once = 64;  // tokens whose logits are in memory at once

/// ln of the sum of exp(logits); NaN where one of them is not finite.
double log_sum(std::span<const float> logits) {
  const auto most = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0;
  bool finite = true;
  for (const float z : logits) {
    sum += std::exp(static_cast<double>(z) - most);
    finite = finite && std::isfinite(z);
  }
  return finite ? most + std::log(sum) : std::numeric_limits<double>::quiet_NaN();
}

Prediction compare(std::span<const float> own, std::span<const float> reference, std::uint32_t target) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const double own_sum = log_sum(own);
  Prediction p{own_sum - static_cast<double>(own[target]), nan, nan, nan};
  if (reference.empty()) return p;
  const double reference_sum = log_sum(reference);
  p.nll_reference = reference_sum - static_cast<double>(reference[target]);
  p.kl = 0;
  for (std::size_t i = 0; i < own.size(); ++i) {
    const double log_p = static_cast<double>(reference[i]) - reference_sum, log_q = static_cast<double>(own[i]) - own_sum;
    p.kl += std::exp(log_p) * (log_p - log_q);
  }
  const auto top = [](std::span<const float> z) { return std::max_element(z.begin(), z.end()) - z.begin(); };
  p.same_top1 = top(own) == top(reference) ? 1 : 0;
  return p;
}

}  // namespace

std::vector<Prediction> predict(const Decoder& decoder, std::span<const float> x, std::span<const float> reference,
                                std::span<const std::uint32_t> targets) {
  const std::size_t vocab = decoder.spec().vocab, hidden = decoder.spec().hidden;
  std::vector<Prediction> out(targets.size());
  std::vector<float> own, other;
  for (std::size_t first = 0; first < targets.size(); first += rows_at_once) {
    const std::size_t n = std::min(rows_at_once, targets.size() - first);
    decoder.head(x.subspan(first * hidden, n * hidden), own);
    if (!reference.empty()) decoder.head(reference.subspan(first * hidden, n * hidden), other);
#pragma omp parallel for schedule(static)
    for (std::size_t i = 0; i < n; ++i) {
      const auto row = [&](const std::vector<float>& z) { return z.empty() ? std::span<const float>() : std::span(z).subspan(i * vocab, vocab); };
      out[first + i] = compare(row(own), row(other), targets[first + i]);
    }
  }
  return out;
}

}  // namespace moekv
