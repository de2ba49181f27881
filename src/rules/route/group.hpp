// What rules share that choose for all tokens of a group at once: capacities, who is among an expert's best, gaps closed after drops.
#pragma once

#include <cstdint>

#include "core/hd.hpp"
#include "core/math.hpp"
#include "rules/route/gate.hpp"
#include "rules/route/rule.hpp"

namespace moekv::route {

/// ceil(tokens k / E factor): room of an expert.
MOEKV_HD std::uint32_t capacity_of(std::uint64_t tokens, std::uint32_t k, std::uint32_t n_experts, double factor) {
  const double exact = static_cast<double>(tokens * k) / static_cast<double>(n_experts) * factor;
  const auto whole = static_cast<std::uint32_t>(exact);
  return static_cast<double>(whole) < exact ? whole + 1 : whole;
}

MOEKV_HD std::uint32_t count_prefill(const TokenView* tokens, std::uint32_t n) {
  std::uint32_t count = 0;
  for (std::uint32_t t = 0; t < n; ++t) count += tokens[t].prefill ? 1 : 0;
  return count;
}

/// Lets each expert keep the `capacity` pairs of largest key, ties by the order in which they come. Keys are >= 0.
struct KeepLargest {
  std::uint32_t* threshold;  // [n_experts] bits of the smallest kept key
  std::uint32_t* room;       // [n_experts] pairs at the threshold that are still kept

  /// visit(f) calls f(expert, key) for every pair, each time in the same order.
  template <class Visit>
  MOEKV_HD void prepare(std::uint32_t n_experts, std::uint32_t capacity, Visit visit) const {
    for (std::uint32_t e = 0; e < n_experts; ++e) threshold[e] = 0;
    for (std::uint32_t bit = 1U << 30; bit != 0; bit >>= 1) {  // bits of floats >= 0 are ordered like the floats
      for (std::uint32_t e = 0; e < n_experts; ++e) room[e] = 0;
      visit([&](std::uint32_t e, float key) { room[e] += bits_of(key) >= (threshold[e] | bit) ? 1 : 0; });
      for (std::uint32_t e = 0; e < n_experts; ++e) {
        if (room[e] >= capacity) threshold[e] |= bit;
      }
    }
    for (std::uint32_t e = 0; e < n_experts; ++e) room[e] = capacity;
    visit([&](std::uint32_t e, float key) { room[e] -= bits_of(key) > threshold[e] ? 1 : 0; });
  }
  /// Whether the next pair, in the same order again, is kept.
  [[nodiscard]] MOEKV_HD bool keeps(std::uint32_t e, float key) const {
    if (bits_of(key) != threshold[e]) return bits_of(key) > threshold[e];
    if (room[e] == 0) return false;
    room[e] -= 1;
    return true;
  }
};

/// Moves the present slots of a choice to the front.
MOEKV_HD void close_gaps(std::uint32_t top_k, Choice out) {
  std::uint32_t n = 0;
  for (std::uint32_t i = 0; i < top_k; ++i) {
    if (out.ids[i] == ExpertId::invalid) continue;
    out.ids[n] = out.ids[i];
    out.weights[n++] = out.weights[i];
  }
  for (; n < top_k; ++n) {
    out.ids[n] = ExpertId::invalid;
    out.weights[n] = 0.0F;
  }
}

/// The choice of token t of a group.
MOEKV_HD Choice choice_of(Choice all, std::uint32_t t, std::uint32_t top_k) {
  return {all.ids + static_cast<std::uint64_t>(t) * top_k, all.weights + static_cast<std::uint64_t>(t) * top_k};
}

/// Plain top-k of the model's gate.
MOEKV_HD void choose_plain(const Geometry& g, const TokenView& token, Choice out) {
  select_top(g.gate, token.logits, g.n_experts, g.top_k, out);
  weigh(g.gate, token.logits, g.n_experts, 1.0F, g.top_k, out.ids, out.weights);
}

/// Largest finite logit of a token.
MOEKV_HD float largest_logit(const float* z, std::uint32_t n_experts) {
  float largest = finite_logit(z[0]);
  for (std::uint32_t e = 1; e < n_experts; ++e) largest = finite_logit(z[e]) > largest ? finite_logit(z[e]) : largest;
  return largest;
}

template <class Rule>
concept ChoosesByGroup = requires { &Rule::choose_group; };

/// Chooses for the tokens of one home rank in one step, ordered by (request, position); out is [n][top_k]. `scratch` holds what
/// scratch_floats and scratch_words ask for where the rule chooses by group, and may be null otherwise.
template <class Rule>
MOEKV_HD void choose_all(const Rule& rule, const Geometry& g, const TokenView* tokens, std::uint32_t n, Choice out, Scratch scratch) {
  if constexpr (ChoosesByGroup<Rule>) {
    rule.choose_group(g, tokens, n, out, scratch);
  } else {
    for (std::uint32_t t = 0; t < n; ++t) rule.choose(g, tokens[t], choice_of(out, t, g.top_k));
  }
}

}  // namespace moekv::route
