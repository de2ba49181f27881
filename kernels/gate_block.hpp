// The gate of one token: every thread ranks its experts among all, one of them weighs the chosen. Choice and weights are those of route::Topk, bit
// for bit: ranks do not depend on an order of work, and sums run in the host's.
#pragma once

#include "launches.hpp"
#include "rules/route/gate.hpp"

namespace moekv::kernels {

/// Shared memory: logits, keys or terms of the softmax, scores of groups, the mask of groups, the largest of four warps.
[[nodiscard]] constexpr std::uint64_t gate_shared_bytes(std::uint32_t n_experts) {
  return (2 * ((std::uint64_t{n_experts} + 3) / 4 * 4) + route::max_groups + 4) * sizeof(float);
}

template <class Block>
class GateSteps {
 public:
  MOEKV_HD GateSteps(Block& block, const GateLaunch& work)
      : block_(block),
        work_(work),
        gate_{work.n_experts, work.top_k, 0, work.score, work.order, work.renormalise, work.scale, work.n_group, work.topk_group},
        z_(reinterpret_cast<float*>(block.shared())),
        keys_(z_ + (work.n_experts + 3) / 4 * 4),
        groups_(keys_ + (work.n_experts + 3) / 4 * 4),
        highs_(groups_ + route::max_groups),
        ids_(work.ids + std::uint64_t{block.index()} * work.top_k),
        weights_(work.weights + std::uint64_t{block.index()} * work.top_k) {}

  MOEKV_HD void run() {
    block_.each([&](unsigned t) {
      const float* z = work_.logits + std::uint64_t{block_.index()} * work_.n_experts;
      for (std::uint32_t e = t; e < work_.n_experts; e += block_.n_threads()) z_[e] = z[e];
      for (std::uint32_t i = t; i < work_.top_k; i += block_.n_threads()) ids_[i] = ExpertId::invalid;
    });
    make_keys();
    rank();
    SoftmaxSum all;
    if (route::weighs_all(gate_)) all = sum_all();
    block_.free_each([&](unsigned t) {
      if (t != 0) return;
      route::weigh_with(gate_, z_, work_.temperature, work_.top_k, ids_, weights_, [&] {
        float sum = 0.0F;
        for (std::uint32_t e = 0; e < work_.n_experts; ++e) sum += keys_[e];
        return route::SoftmaxOverAll{all.shift, sum};
      });
    });
  }

 private:
  struct SoftmaxSum {
    float shift = 0.0F;
  };
  static constexpr float shut_out = -std::numeric_limits<float>::infinity();  // no finite_logit is

  /// Keys of the choice; experts of groups that the gate shuts out have none.
  MOEKV_HD void make_keys() {
    const bool limited = work_.n_group > 1 && work_.topk_group < work_.n_group;
    if (limited) {
      block_.each([&](unsigned t) {
        for (std::uint32_t g = t; g < work_.n_group; g += block_.n_threads())
          groups_[g] = route::group_score(gate_.score, z_, route::group_begin(work_.n_experts, work_.n_group, g),
                                          route::group_begin(work_.n_experts, work_.n_group, g + 1));
      });
    }
    block_.each([&](unsigned t) {
      std::uint64_t mask = ~0ULL;
      if (limited) {
        std::uint32_t g = 0;
        mask = route::best_groups(work_.n_group, work_.topk_group, work_.n_experts, [&](std::uint32_t, std::uint32_t) { return groups_[g++]; });
      }
      for (std::uint32_t e = t, g = 0; e < work_.n_experts; e += block_.n_threads()) {
        while (limited && e >= route::group_begin(work_.n_experts, work_.n_group, g + 1)) ++g;
        keys_[e] = (mask >> (limited ? g : 0U) & 1U) != 0 ? route::finite_logit(z_[e]) : shut_out;
      }
    });
  }

  MOEKV_HD void rank() {
    block_.each([&](unsigned t) {
      for (std::uint32_t e = t; e < work_.n_experts; e += block_.n_threads()) {
        const float key = keys_[e];
        if (key == shut_out) continue;
        std::uint32_t before = 0;
        for (std::uint32_t other = 0; other < e; ++other) before += keys_[other] >= key ? 1U : 0U;
        for (std::uint32_t other = e + 1; other < work_.n_experts; ++other) before += keys_[other] > key ? 1U : 0U;
        if (before < work_.top_k) ids_[before] = static_cast<std::uint16_t>(e);
      }
    });
  }

  /// Leaves the terms of the softmax over all experts in keys_.
  MOEKV_HD SoftmaxSum sum_all() {
    const float inverse = 1.0F / work_.temperature;
    typename Block::template Lanes<float> high;
    block_.free_each([&](unsigned t) {
      high[t] = shut_out;
      for (std::uint32_t e = t; e < work_.n_experts; e += block_.n_threads()) {
        const float x = route::finite_logit(z_[e] * inverse);
        high[t] = x > high[t] ? x : high[t];
      }
    });
    block_.largest(high, 32);
    block_.each([&](unsigned t) {
      if (t % 32 == 0) highs_[t / 32] = high[t];
    });
    float shift = highs_[0];
    for (unsigned w = 1; w < 4; ++w) shift = highs_[w] > shift ? highs_[w] : shift;
    block_.each([&](unsigned t) {
      for (std::uint32_t e = t; e < work_.n_experts; e += block_.n_threads()) keys_[e] = exp_fixed(route::finite_logit(z_[e] * inverse) - shift);
    });
    return {shift};
  }

  Block& block_;
  const GateLaunch& work_;
  GateShape gate_;
  float *z_, *keys_, *groups_, *highs_;
  std::uint16_t* ids_;
  float* weights_;
};

template <class Block>
MOEKV_HD void gate_block(Block& block, const GateLaunch& work) {
  GateSteps<Block>(block, work).run();
}

}  // namespace moekv::kernels
