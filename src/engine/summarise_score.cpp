// Loss of a model in the loop and its change against the reference, with an interval from a bootstrap over sequences.
#include <cmath>
#include <map>
#include <string>

#include "engine/statistics.hpp"
#include "engine/summary_list.hpp"

namespace moekv {
namespace {

using enum ClaimClass;

void add_change(std::span<const TokenRecord> tokens, const ScoreSpec& score, const std::string& suffix, const std::string& which, SummaryList& list) {
  double reference = 0, change = 0, kl = 0, same = 0;
  std::map<std::int64_t, ClusterSum> by_request;
  for (const TokenRecord& t : tokens) {
    reference += t.nll_reference;
    change += t.nll - t.nll_reference;
    kl += t.kl;
    same += t.same_top1;
    ClusterSum& s = by_request[t.request];
    s.sum += t.nll - t.nll_reference;
    s.weight += 1;
  }
  const auto n = static_cast<double>(tokens.size());
  std::vector<ClusterSum> sequences;
  for (const auto& [request, s] : by_request) sequences.push_back(s);
  const ConfidenceInterval interval = bootstrap_interval(sequences, score.resamples, score.seed);
  list.add_ratio("nll_reference" + suffix, {"nat", measured, "nll of the reference, the same model with dense attention" + which}, reference, n);
  list.add("perplexity_reference" + suffix, {"1", measured, "exp(nll_reference)" + which}, std::exp(reference / n));
  list.add_ratio("nll_change" + suffix, {"nat", measured, "nll - nll_reference, paired by token" + which}, change, n);
  list.add("nll_change_low" + suffix, {"nat", measured, "lower end of the 95 % interval of nll_change, a bootstrap over sequences" + which},
           interval.low);
  list.add("nll_change_high" + suffix, {"nat", measured, "upper end of the 95 % interval of nll_change, a bootstrap over sequences" + which},
           interval.high);
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
  if (!tail.empty()) list.add_ratio("attention_drift_tail", {"1", measured, "attention_drift_tail, mean over layers"}, drift_tail, n);
}

}  // namespace moekv
