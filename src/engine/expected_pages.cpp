// Sums over the binomial distribution, exactly where its mean is small and by the normal law where it is large.
#include "engine/expected_pages.hpp"

#include <algorithm>
#include <cmath>

namespace moekv {
namespace {

constexpr double exact_mean = 300.0;  // up to this mean the probabilities are summed one by one
/// Whole pages of n entries, and pages begun.
double whole_pages(std::uint64_t n, std::uint32_t slots) {
  const std::uint64_t pages = n / slots;
  return static_cast<double>(pages);
}
double begun_pages(std::uint64_t n, std::uint32_t slots) { return whole_pages(n + slots - 1, slots); }

constexpr std::size_t max_known = 1U << 18;

PageExpectation sum_exactly(std::uint64_t n, double p, std::uint32_t slots) {
  PageExpectation e;
  const double mean = static_cast<double>(n) * p;
  const auto last = std::min<std::uint64_t>(n, static_cast<std::uint64_t>(mean + 12.0 * std::sqrt(mean + 1.0) + 20.0));
  double probability = std::exp(static_cast<double>(n) * std::log1p(-p));
  double begun = 0, whole = 0;  // pages of i entries
  std::uint32_t in_page = 0;    // entries of the last of them
  for (std::uint64_t i = 0; i <= last; ++i) {
    e.ceil += probability * begun;
    e.floor += probability * whole;
    if (in_page == 0) begun += 1;
    if (++in_page == slots) {
      whole += 1;
      in_page = 0;
    }
    probability *= static_cast<double>(n - i) / static_cast<double>(i + 1) * p / (1.0 - p);
  }
  return e;
}

/// Sum over j of P(N > j slots), respectively P(N >= (j + 1) slots), with a continuity correction.
PageExpectation sum_normal(std::uint64_t n, double p, std::uint32_t slots) {
  const double mean = static_cast<double>(n) * p;
  const double sigma = std::sqrt(mean * (1.0 - p));
  const auto above = [&](double x) { return 0.5 * std::erfc((x - mean) / (sigma * std::sqrt(2.0))); };
  const double certain = std::floor(std::max(0.0, mean - 8.0 * sigma) / slots);
  PageExpectation e{certain, certain};
  for (double j = certain; j * slots <= mean + 8.0 * sigma; ++j) {
    e.ceil += above(j * slots + 0.5);
    e.floor += above((j + 1) * slots - 0.5);
  }
  return e;
}

}  // namespace

PageExpectation expected_pages(std::uint64_t n, double p, std::uint32_t slots) {
  if (n == 0 || !(p > 0)) return {};
  if (p >= 1.0) return {begun_pages(n, slots), whole_pages(n, slots)};
  return static_cast<double>(n) * p <= exact_mean && p < 0.9 ? sum_exactly(n, p, slots) : sum_normal(n, p, slots);
}

ChainPages pages_of_counts(const PageRule& rule, std::uint32_t side, std::uint32_t main, std::uint32_t settled) {
  const double sealed = rule.compressed ? whole_pages(settled, rule.slots) : 0.0;
  return {begun_pages(side, rule.slots) + begun_pages(main, rule.slots) - sealed, sealed};
}

ChainPages pages_of_all(const PageRule& rule, std::uint32_t tokens, std::uint32_t prompt) {
  if (!rule.compressed) return pages_of_counts(rule, 0, tokens, 0);
  const std::uint32_t side = std::min(tokens, rule.sink_tokens);
  const std::uint32_t settled = tokens - side - std::min(tokens - side, rule.raw_window_tokens);
  const std::uint32_t in_prompt = prompt - std::min(prompt, rule.sink_tokens);
  const std::uint32_t left_over = in_prompt % rule.slots;
  const bool closes = rule.raw_window_tokens == 0 && tokens >= prompt && left_over >= rule.min_sealed_entries;
  if (!closes) return pages_of_counts(rule, side, tokens - side, settled);
  ChainPages pages = pages_of_counts(rule, side, tokens - side - in_prompt, tokens - side - in_prompt);
  pages.sealed += whole_pages(in_prompt, rule.slots) + 1.0;
  return pages;
}

ChainPages ExpectedChain::operator()(std::uint32_t tokens, double p, std::uint32_t per_token) {
  if (known_.size() > max_known) known_.clear();
  const auto [it, added] = known_.try_emplace({std::uint64_t{tokens} << 32 | per_token, p});
  if (!added) return it->second;
  const std::uint32_t side = rule_.compressed ? std::min(tokens, rule_.sink_tokens) : 0;
  const std::uint32_t main = tokens - side;
  const std::uint32_t settled = main - std::min(main, rule_.raw_window_tokens);
  ChainPages& pages = it->second;
  pages.sealed = rule_.compressed ? expected_pages(std::uint64_t{settled} * per_token, p, rule_.slots).floor : 0.0;
  pages.raw = expected_pages(std::uint64_t{side} * per_token, p, rule_.slots).ceil +
              expected_pages(std::uint64_t{main} * per_token, p, rule_.slots).ceil - pages.sealed;
  return pages;
}

}  // namespace moekv
