// bandit: learns per layer how much to listen to the cache; the smallest honest reading of the paper's "RL-adaptive" R_A.
#pragma once

#include <array>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "core/rng.hpp"
#include "rules/route/gate.hpp"
#include "rules/route/state.hpp"

namespace moekv::route {

enum class Explore : std::uint8_t { epsilon_greedy, ucb };
enum class Reward : std::uint8_t { misses, latency };
constexpr auto enum_names(Explore) { return std::array<std::string_view, 2>{"epsilon_greedy", "ucb"}; }
constexpr auto enum_names(Reward) { return std::array<std::string_view, 2>{"misses", "latency"}; }

/// Arm a = (i, j, l): lambda i / (lambda_steps - 1), beta j / (beta_steps - 1), top_k - l experts; i counts fastest. Arm 0 is plain top-k.
struct Bandit {
  static constexpr std::string_view name = "bandit";
  static constexpr std::string_view doc =
      "arms (lambda, beta, k) of cache_aware and entropy_balanced, one per layer and step; reward = - missed share of lookups, or - modelled time "
      "(R_A)";
  static constexpr std::string_view source = "PiKV R_A";
  static constexpr bool needs_logits = true;
  static constexpr bool reads_cache = true;
  Explore explore = Explore::epsilon_greedy;
  Reward reward = Reward::misses;
  float epsilon = 0.05F, ucb_c = 0.1F;
  float lambda = 1.0F, beta = 1.0F;
  std::uint32_t lambda_steps = 3, beta_steps = 1, k_steps = 1;
  float decay = 0.9F;
  static constexpr auto params =
      std::tuple{Param{"explore", &Bandit::explore, "", "how arms are tried"},
                 Param{"reward", &Bandit::reward, "", "misses of the layer's lookups, or the step's modelled time a choice over the largest so far"},
                 Param{"epsilon", &Bandit::epsilon, "1", "epsilon_greedy: chance of a random arm", 0, 1},
                 Param{"ucb_c", &Bandit::ucb_c, "1", "ucb: factor on sqrt(2 ln N / n); rewards lie in [-1, 0]", 0, 100},
                 Param{"lambda", &Bandit::lambda, "1", "largest penalty of misses", 0, 100},
                 Param{"beta", &Bandit::beta, "1", "largest penalty of load", 0, 100},
                 Param{"lambda_steps", &Bandit::lambda_steps, "", "values of lambda from 0 on", 1, 8},
                 Param{"beta_steps", &Bandit::beta_steps, "", "values of beta from 0 on", 1, 4},
                 Param{"k_steps", &Bandit::k_steps, "", "values of k from top_k down", 1, 2},
                 Param{"decay", &Bandit::decay, "1", "weight of the past in misses and load, per step", 0, 1}};

  [[nodiscard]] MOEKV_HD std::uint32_t arms() const { return lambda_steps * beta_steps * k_steps; }
  [[nodiscard]] MOEKV_HD static float part_of(float largest, std::uint32_t i, std::uint32_t steps) {
    return steps > 1 ? largest * static_cast<float>(i) / static_cast<float>(steps - 1) : 0.0F;
  }
  /// Why the rule cannot choose here, or null.
  [[nodiscard]] const char* refuse(const Geometry& g) const {
    if (arms() < 2) return "one arm is no choice: raise lambda_steps, beta_steps or k_steps";
    return k_steps > g.top_k ? "k_steps would leave a token without experts" : nullptr;
  }

  MOEKV_HD void adjust(const Geometry& g, const TokenView& token, float* z) const {
    const std::uint32_t arm = token.state->arm;
    for (std::uint32_t e = 0; e < g.n_experts; ++e) z[e] = finite_logit(token.logits[e]);
    penalise_misses(part_of(lambda, arm % lambda_steps, lambda_steps), *token.state, g.n_experts, z);
    penalise_share(part_of(beta, arm / lambda_steps % beta_steps, beta_steps), *token.state, g.n_experts, z);
  }
  MOEKV_HD void choose(const Geometry& g, const TokenView& token, Choice out) const {
    Geometry fewer = g;
    fewer.top_k = g.top_k - token.state->arm / (lambda_steps * beta_steps);
    choose_adjusted(*this, fewer, token, out);
    for (std::uint32_t i = fewer.top_k; i < g.top_k; ++i) {
      out.ids[i] = ExpertId::invalid;
      out.weights[i] = 0.0F;
    }
  }

  /// Rewards the arm of the step that ended, then picks the next one.
  MOEKV_HD void update(const Geometry& g, const StepCounts& step, LayerState& state) const {
    decay_misses(decay, g.n_experts, step, state);
    average_load(decay, g.n_experts, step, state);
    float cost = 0.0F;
    if (reward == Reward::misses ? missed_share(g.n_experts, step, cost) : relative_time(g.n_experts, step, state, cost)) {
      state.pulls[state.arm] += 1.0F;
      state.value[state.arm] += (-cost - state.value[state.arm]) / state.pulls[state.arm];
    }
    state.arm = next_arm(g.seed, step, state);
  }
  /// Costs of the step in [0, 1]; false where it tells nothing.
  [[nodiscard]] MOEKV_HD static bool missed_share(std::uint32_t n_experts, const StepCounts& step, float& cost) {
    std::int64_t missed = 0;
    for (std::uint32_t e = 0; e < n_experts; ++e) missed += step.missed[e];
    if (step.lookups <= 0) return false;
    cost = static_cast<float>(missed) / static_cast<float>(step.lookups);
    cost = cost < 1.0F ? cost : 1.0F;  // a page of several experts may miss under each
    return true;
  }
  [[nodiscard]] MOEKV_HD static bool relative_time(std::uint32_t n_experts, const StepCounts& step, LayerState& state, float& cost) {
    std::int64_t choices = 0;
    for (std::uint32_t e = 0; e < n_experts; ++e) choices += step.load[e];
    if (choices == 0 || step.model_ns <= 0) return false;
    const float time = static_cast<float>(step.model_ns) / static_cast<float>(choices);
    *state.worst = time > *state.worst ? time : *state.worst;
    cost = time / *state.worst;
    return true;
  }
  /// epsilon_greedy: a random arm with chance epsilon, else the best mean (untried arms stand at 0, the best there is). ucb: untried arms
  /// first, then the largest mean + c sqrt(2 ln N / n). Ties go to the lowest arm.
  [[nodiscard]] MOEKV_HD std::uint32_t next_arm(std::uint64_t seed, const StepCounts& step, const LayerState& state) const {
    const std::uint64_t draw = hash_words(seed, 0x62616E64U, step.layer, step.step);
    if (explore == Explore::epsilon_greedy && uniform_float(static_cast<std::uint32_t>(draw)) < epsilon)
      return static_cast<std::uint32_t>((draw >> 32) % arms());
    float total = 0.0F;
    for (std::uint32_t a = 0; a < arms(); ++a) total += state.pulls[a];
    std::uint32_t best = 0;
    float best_key = -1e38F;
    for (std::uint32_t a = 0; a < arms(); ++a) {
      float key = state.value[a];
      if (explore == Explore::ucb) {
        if (!(state.pulls[a] > 0.0F)) return a;
        key += ucb_c * sqrt_fixed(2.0F * log_fixed(total) / state.pulls[a]);
      }
      if (key > best_key) {
        best_key = key;
        best = a;
      }
    }
    return best;
  }
};

}  // namespace moekv::route
