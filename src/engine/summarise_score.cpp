// Loss of a model in the loop and its change against the reference, with an interval from a bootstrap over sequences.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "core/rng.hpp"
#include "engine/statistics.hpp"
#include "engine/summary_list.hpp"

namespace moekv {
namespace {

using enum ClaimClass;

/// Change of the loss of one sequence.
struct Sequence {
  double change = 0, tokens = 0;
};

/// 2.5th and 97.5th percentile of the mean change per token over sequences drawn with replacement.
std::pair<double, double> interval(const std::vector<Sequence>& sequences, const ScoreSpec& score) {
  std::vector<double> means;
  for (std::uint32_t b = 0; b < score.resamples; ++b) {
    Sequence sum;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const Sequence& drawn = sequences[hash_words(score.seed, 0x626FU, b, i) % sequences.size()];
      sum.change += drawn.change;
      sum.tokens += drawn.tokens;
    }
    means.push_back(sum.change / sum.tokens);
  }
  if (std::any_of(means.begin(), means.end(), [](double m) { return std::isnan(m); })) return {std::nan(""), std::nan("")};
  std::sort(means.begin(), means.end());
  return {percentile(means, 2.5), percentile(means, 97.5)};
}

void add_change(std::span<const TokenRecord> tokens, const ScoreSpec& score, const std::string& suffix, const std::string& which, SummaryList& list) {
  double reference = 0, change = 0, kl = 0, same = 0;
  std::map<std::int64_t, Sequence> by_request;
  for (const TokenRecord& t : tokens) {
    reference += t.nll_reference;
    change += t.nll - t.nll_reference;
    kl += t.kl;
    same += t.same_top1;
    Sequence& s = by_request[t.request];
    s.change += t.nll - t.nll_reference;
    s.tokens += 1;
  }
  const auto n = static_cast<double>(tokens.size());
  std::vector<Sequence> sequences;
  for (const auto& [request, s] : by_request) sequences.push_back(s);
  const auto [low, high] = interval(sequences, score);
  list.add_ratio("nll_reference" + suffix, {"nat", measured, "nll of the reference, the same model with dense attention" + which}, reference, n);
  list.add("perplexity_reference" + suffix, {"1", measured, "exp(nll_reference)" + which}, std::exp(reference / n));
  list.add_ratio("nll_change" + suffix, {"nat", measured, "nll - nll_reference, paired by token" + which}, change, n);
  list.add("nll_change_low" + suffix, {"nat", measured, "2.5th percentile of nll_change over bootstrap resamples of sequences" + which}, low);
  list.add("nll_change_high" + suffix, {"nat", measured, "97.5th percentile of nll_change over bootstrap resamples of sequences" + which}, high);
  list.add_ratio("kl_reference" + suffix, {"nat", measured, "KL(reference || this run) of the next-token distribution, mean over tokens" + which}, kl,
                 n);
  list.add_ratio("top1_agreement" + suffix, {"1", measured, "tokens whose most likely successor is the reference's" + which}, same, n);
}

void add_part(std::span<const TokenRecord> tokens, const ScoreSpec& score, const std::string& suffix, const std::string& which, SummaryList& list) {
  double nll = 0;
  for (const TokenRecord& t : tokens) nll += t.nll;
  const auto n = static_cast<double>(tokens.size());
  list.add("n_scored" + suffix, {"1", ClaimClass::counted, "tokens that were predicted" + which}, n);
  list.add_ratio("nll" + suffix, {"nat", measured, "-ln p(next token), mean over tokens" + which}, nll, n);
  list.add("perplexity" + suffix, {"1", measured, "exp(nll)" + which}, std::exp(nll / n));
  if (score.reference == ScoreReference::dense) add_change(tokens, score, suffix, which, list);
}

}  // namespace

void add_score(const RunSpec& spec, const RunOutcome& outcome, SummaryList& list) {
  if (outcome.tokens.empty()) return;
  add_part(outcome.tokens, spec.score, "", "", list);
  std::map<std::int64_t, std::int64_t> prompts;
  for (const RequestRecord& r : outcome.requests) prompts[r.request] = r.prompt_tokens;
  std::vector<TokenRecord> tail;
  for (const TokenRecord& t : outcome.tokens) {
    const std::int64_t from = spec.score.from_position > 0 ? spec.score.from_position : prompts[t.request];
    if (t.position >= from) tail.push_back(t);
  }
  if (!tail.empty()) add_part(tail, spec.score, "_tail", ", positions from score.from_position on", list);
  if (outcome.drifts.empty()) return;
  double drift = 0, drift_tail = 0;
  for (const DriftRecord& d : outcome.drifts) {
    drift += d.attention_drift;
    drift_tail += d.attention_drift_tail;
  }
  const auto n = static_cast<double>(outcome.drifts.size());
  list.add_ratio("attention_drift", {"1", measured, "attention_drift, mean over layers"}, drift, n);
  list.add_ratio("attention_drift_tail", {"1", measured, "attention_drift_tail, mean over layers"}, drift_tail, n);
}

}  // namespace moekv
