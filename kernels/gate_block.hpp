// The gate of one token: the threads choose one expert after the other, one of them weighs the chosen. Choice and weights are those of route::Topk,
// bit for bit: a choice does not depend on an order of work, and sums run in the host's.
#pragma once

#include "launches.hpp"
#include "rules/route/gate.hpp"
#include "rules/select/rule.hpp"

namespace moekv::kernels {

/// Shared memory: logits, keys or terms of the softmax, scores of groups, the largest of four warps, their candidates in two turns,
/// weights and ids.
[[nodiscard]] constexpr std::uint64_t gate_shared_bytes(std::uint32_t n_experts, std::uint32_t top_k) {
  return (2 * ((std::uint64_t{n_experts} + 3) / 4 * 4) + route::max_groups + 4 + 16 + top_k) * sizeof(float) + top_k * sizeof(std::uint16_t);
}

/// Values that one access of shared memory brings.
struct alignas(16) Quad {
  float of[4];
};

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
        winners_(reinterpret_cast<std::uint32_t*>(highs_ + 4)),
        weights_(highs_ + 20),
        ids_(reinterpret_cast<std::uint16_t*>(weights_ + work.top_k)) {}

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
    block_.each([&](unsigned t) {
      if (t != 0) return;
      route::weigh_with(gate_, z_, work_.temperature, work_.top_k, ids_, weights_, [&] {
        float sum = 0.0F;
        for (std::uint32_t q = 0; q < n_quads(); ++q) {
          const Quad terms = quad(q);  // those beyond the last expert add 0
          for (const float term : terms.of) sum += term;
        }
        return route::SoftmaxOverAll{all.shift, sum};
      });
    });
    block_.free_each([&](unsigned t) {
      for (std::uint32_t i = t; i < work_.top_k; i += block_.n_threads()) {
        work_.ids[std::uint64_t{block_.index()} * work_.top_k + i] = ids_[i];
        work_.weights[std::uint64_t{block_.index()} * work_.top_k + i] = weights_[i];
      }
    });
  }

 private:
  struct SoftmaxSum {
    float shift = 0.0F;
  };
  static constexpr float shut_out = -std::numeric_limits<float>::infinity();  // no finite_logit is

  [[nodiscard]] MOEKV_HD std::uint32_t n_quads() const { return (work_.n_experts + 3) / 4; }
  [[nodiscard]] MOEKV_HD Quad quad(std::uint32_t q) const { return reinterpret_cast<const Quad*>(keys_)[q]; }

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

  /// The keys after the last expert's, up to a whole quad.
  MOEKV_HD void fill_up(unsigned t, float x) {
    if (work_.n_experts + t < 4 * n_quads()) keys_[work_.n_experts + t] = x;
  }

  /// The largest of what is left, and of equal ones the first, again and again.
  MOEKV_HD void rank() {
    typename Block::template Lanes<std::uint32_t> best, expert, high, first;
    const auto look = [&](unsigned t) {
      best[t] = 0;
      expert[t] = ~0U;
      for (std::uint32_t e = t; e < work_.n_experts; e += block_.n_threads()) {
        const std::uint32_t key = keys_[e] == shut_out ? 0U : select::rank_key(keys_[e]);
        if (key > best[t]) {
          best[t] = key;
          expert[t] = e;
        }
      }
    };
    block_.free_each(look);
    for (std::uint32_t i = 0; i < work_.top_k; ++i) {
      block_.free_each([&](unsigned t) { high[t] = best[t]; });
      block_.largest_of_warp(high);
      block_.free_each([&](unsigned t) { first[t] = best[t] == high[t] ? expert[t] : ~0U; });
      block_.smallest_of_warp(first);
      std::uint32_t* winners = winners_ + i % 2 * 8;  // those of the turn before may still be read
      block_.each([&](unsigned t) {
        if (t % 32 != 0) return;
        winners[t / 32] = high[t];
        winners[4 + t / 32] = first[t];
      });
      std::uint32_t key = winners[0], chosen = winners[4];
      for (std::uint32_t w = 1; w < 4; ++w) {
        if (winners[w] > key || (winners[w] == key && winners[4 + w] < chosen)) {
          key = winners[w];
          chosen = winners[4 + w];
        }
      }
      if (key == 0) break;
      block_.free_each([&](unsigned t) {
        if (chosen % block_.n_threads() != t) return;
        ids_[i] = static_cast<std::uint16_t>(chosen);
        keys_[chosen] = shut_out;
        look(t);
      });
    }
    block_.each([](unsigned) {});
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
      fill_up(t, 0.0F);
    });
    return {shift};
  }

  Block& block_;
  const GateLaunch& work_;
  GateShape gate_;
  float *z_, *keys_, *groups_, *highs_;
  std::uint32_t* winners_;
  float* weights_;
  std::uint16_t* ids_;
};

template <class Block>
MOEKV_HD void gate_block(Block& block, const GateLaunch& work) {
  GateSteps<Block>(block, work).run();
}

}  // namespace moekv::kernels
