// Gate arithmetic shared by every rule that chooses from logits: score functions, top-k selection, group limits, weights of the chosen.
#pragma once

#include <cstdint>
#include <limits>

#include "core/error.hpp"
#include "core/hd.hpp"
#include "core/id.hpp"
#include "core/math.hpp"
#include "core/model_shape.hpp"
#include "rules/route/rule.hpp"

namespace moekv::route {

/// Groups are kept as bits of one word; no known model has more than 8.
inline constexpr std::uint32_t max_groups = 64;

/// The finite value a logit counts as: NaN and -infinity are the lowest of all, so an unlisted expert is chosen last.
MOEKV_HD float finite_logit(float z) {
  constexpr float limit = 1e38F;
  if (!(z > -limit)) return -limit;
  return z < limit ? z : limit;
}

MOEKV_HD float sigmoid(float z) {
  const float e = exp_fixed(z < 0.0F ? z : -z);
  return z < 0.0F ? e / (1.0F + e) : 1.0F / (1.0F + e);
}

/// sqrt(ln(1 + e^z)), the score of DeepSeek-V4.
MOEKV_HD float sqrtsoftplus(float z) {
  const float e = exp_fixed(z < 0.0F ? z : -z);
  const float u = 1.0F + e;
  const float log1p = u == 1.0F ? e : log_fixed(u) * (e / (u - 1.0F));  // exact ratio undoes the rounding of 1 + e
  return sqrt_fixed((z > 0.0F ? z : 0.0F) + log1p);
}

/// Unnormalised score of one expert. Softmax needs `shift`, the largest logit of its set; the others ignore it.
MOEKV_HD float score(ScoreFunction f, float z, float shift) {
  switch (f) {
    case ScoreFunction::sigmoid:
      return sigmoid(z);
    case ScoreFunction::sqrtsoftplus:
      return sqrtsoftplus(z);
    default:
      return exp_fixed(z - shift);
  }
}

/// A descending list of at most k (key, id), ties by lowest id when ids are offered in ascending order. Arrays are borrowed.
template <class T>
struct TopListOf {
  std::uint16_t* ids;
  T* keys;
  std::uint32_t k;
  std::uint32_t n = 0;

  MOEKV_HD void offer(T key, std::uint32_t id) {
    if (n == k && !(key > keys[n - 1])) return;
    std::uint32_t at = n < k ? n++ : k - 1;
    for (; at > 0 && key > keys[at - 1]; --at) {
      keys[at] = keys[at - 1];
      ids[at] = ids[at - 1];
    }
    keys[at] = key;
    ids[at] = static_cast<std::uint16_t>(id);
  }
  /// Marks the slots that stayed empty.
  MOEKV_HD void close() const {
    for (std::uint32_t i = n; i < k; ++i) ids[i] = ExpertId::invalid;
  }
};
using TopList = TopListOf<float>;

/// First expert of group g when n_experts are divided into n_group runs of nearly equal length.
MOEKV_HD std::uint32_t group_begin(std::uint32_t n_experts, std::uint32_t n_group, std::uint32_t g) {
  return static_cast<std::uint32_t>(static_cast<std::uint64_t>(n_experts) * g / n_group);
}

/// The two largest finite values of x[begin, end); -1e38 where there is none.
struct TopTwo {
  float first = -1e38F, second = -1e38F;
};
MOEKV_HD TopTwo top_two(const float* x, std::uint32_t begin, std::uint32_t end) {
  TopTwo top;
  for (std::uint32_t e = begin; e < end; ++e) {
    const float value = finite_logit(x[e]);
    top.second = value > top.first ? top.first : (value > top.second ? value : top.second);
    top.first = value > top.first ? value : top.first;
  }
  return top;
}

/// Group score of DeepSeek: the largest softmax score (V2), or the sum of the two largest scores (V3).
MOEKV_HD float group_score(ScoreFunction f, const float* z, std::uint32_t begin, std::uint32_t end) {
  const TopTwo top = top_two(z, begin, end);
  return f == ScoreFunction::softmax ? top.first : score(f, top.first, 0.0F) + score(f, top.second, 0.0F);
}

/// Bits of the `keep` best of n_group groups by score(begin, end) of their experts, ties by lowest group; all bits where there is no limit.
template <class Score>
MOEKV_HD std::uint64_t best_groups(std::uint32_t n_group, std::uint32_t keep, std::uint32_t n_experts, Score score_of) {
  MOEKV_EXPECT(n_group <= max_groups);
  if (n_group <= 1 || keep >= n_group) return ~0ULL;
  std::uint16_t ids[max_groups];
  float keys[max_groups];
  TopList best{ids, keys, keep};
  for (std::uint32_t g = 0; g < n_group; ++g) best.offer(score_of(group_begin(n_experts, n_group, g), group_begin(n_experts, n_group, g + 1)), g);
  std::uint64_t mask = 0;
  for (std::uint32_t i = 0; i < best.n; ++i) mask |= 1ULL << ids[i];
  return mask;
}

/// The groups that the gate's limit leaves, by group_score of the logits.
MOEKV_HD std::uint64_t allowed_groups(const GateShape& gate, const float* z, std::uint32_t n_experts) {
  return best_groups(gate.n_group, gate.topk_group, n_experts,
                     [&](std::uint32_t begin, std::uint32_t end) { return group_score(gate.score, z, begin, end); });
}

/// Fills `list` with the experts of the groups in `mask` that have the largest key(expert), descending, ties by lowest id.
template <class T, class Key>
MOEKV_HD void select_masked(std::uint64_t mask, std::uint32_t n_group, std::uint32_t n_experts, Key key, TopListOf<T> list) {
  if (mask == ~0ULL) {
    for (std::uint32_t e = 0; e < n_experts; ++e) list.offer(key(e), e);
  } else {
    for (std::uint32_t g = 0; g < n_group; ++g) {
      if ((mask >> g & 1U) == 0) continue;
      const std::uint32_t end = group_begin(n_experts, n_group, g + 1);
      for (std::uint32_t e = group_begin(n_experts, n_group, g); e < end; ++e) list.offer(key(e), e);
    }
  }
  list.close();
}

/// Fills out.ids with the top_k largest logits inside the gate's allowed groups, descending, ties by lowest id; out.weights holds their logits.
MOEKV_HD void select_top(const GateShape& gate, const float* z, std::uint32_t n_experts, std::uint32_t top_k, Choice out) {
  select_masked(
      allowed_groups(gate, z, n_experts), gate.n_group, n_experts, [&](std::uint32_t e) { return finite_logit(z[e]); },
      TopList{out.ids, out.weights, top_k});
}

/// Denominator of softmax over all experts with the given shift.
MOEKV_HD float softmax_sum(const float* z, std::uint32_t n_experts, float inverse_temperature, float shift) {
  float sum = 0.0F;
  for (std::uint32_t e = 0; e < n_experts; ++e) sum += exp_fixed(finite_logit(z[e] * inverse_temperature) - shift);
  return sum;
}

/// Whether weights are shares of a softmax over all experts, the chosen and the others.
MOEKV_HD bool weighs_all(const GateShape& gate) { return gate.score == ScoreFunction::softmax && gate.order == ScoreOrder::pre && !gate.renormalise; }

/// Largest finite logit of all experts, divided by the temperature.
MOEKV_HD float softmax_shift(const float* z, std::uint32_t n_experts, float inverse_temperature) {
  float shift = -std::numeric_limits<float>::infinity();
  for (std::uint32_t e = 0; e < n_experts; ++e) {
    const float x = finite_logit(z[e] * inverse_temperature);
    shift = x > shift ? x : shift;
  }
  return shift;
}

/// Shift and denominator of the softmax over all experts.
struct SoftmaxOverAll {
  float shift, sum;
};

/// Weights of the chosen ids from the logits (routing.md section 1.2): scores, softmax denominator or renormalisation, then `gate.scale`.
/// Absent ids get 0. When every chosen score vanishes and a sum is asked for, the weights are equal. all() is asked where weighs_all(gate).
template <class OverAll>
MOEKV_HD void weigh_with(const GateShape& gate, const float* z, float temperature, std::uint32_t top_k, const std::uint16_t* ids, float* weights,
                         OverAll&& all) {
  const float inverse = 1.0F / temperature;
  const bool softmax = gate.score == ScoreFunction::softmax;
  const bool over_all = weighs_all(gate);
  SoftmaxOverAll whole{-std::numeric_limits<float>::infinity(), 1.0F};
  if (over_all) whole = all();
  float shift = whole.shift;
  for (std::uint32_t i = 0; softmax && !over_all && i < top_k; ++i) {
    if (ids[i] == ExpertId::invalid) continue;
    const float x = finite_logit(z[ids[i]] * inverse);
    shift = x > shift ? x : shift;
  }
  float sum = 0.0F;
  std::uint32_t n = 0;
  for (std::uint32_t i = 0; i < top_k; ++i) {
    const bool present = ids[i] != ExpertId::invalid;
    weights[i] = present ? score(gate.score, finite_logit(z[ids[i]] * inverse), shift) : 0.0F;
    sum += weights[i];
    n += present ? 1 : 0;
  }
  const bool sums_to_one = gate.renormalise || (softmax && !over_all);
  const float divisor = over_all ? whole.sum : (sums_to_one ? sum : 1.0F);
  const bool vanished = !(divisor > 0.0F);
  for (std::uint32_t i = 0; i < top_k; ++i) {
    const float w = vanished ? 1.0F / static_cast<float>(n) : weights[i] / divisor;
    weights[i] = ids[i] != ExpertId::invalid ? w * gate.scale : 0.0F;
  }
}

/// The same, with the sums made here.
MOEKV_HD void weigh(const GateShape& gate, const float* z, std::uint32_t n_experts, float temperature, std::uint32_t top_k, const std::uint16_t* ids,
                    float* weights) {
  weigh_with(gate, z, temperature, top_k, ids, weights, [&] {
    const float inverse = 1.0F / temperature, shift = softmax_shift(z, n_experts, inverse);
    return SoftmaxOverAll{shift, softmax_sum(z, n_experts, inverse, shift)};
  });
}

/// Chooses by the adjusted logits that `rule.adjust` writes, weighs by the token's own (the price of a penalty is a worse expert, not a false
/// weight).
template <class Rule>
MOEKV_HD void choose_adjusted(const Rule& rule, const Geometry& g, const TokenView& token, Choice out) {
  float z[max_experts];
  MOEKV_EXPECT(g.n_experts <= max_experts);
  rule.adjust(g, token, z);
  select_top(g.gate, z, g.n_experts, g.top_k, out);
  weigh(g.gate, token.logits, g.n_experts, 1.0F, g.top_k, out.ids, out.weights);
}

}  // namespace moekv::route
