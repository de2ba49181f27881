// Decode attention of one run of pages of one pool on tensor cores: S^T = K Q^T and O^T = V^T P^T by 16x8x16 products of 16-bit values, softmax and
// sums in fp32. Every warp takes tiles of 16 slots for itself from its ring of stages; the warps are merged in the end. Codes of 8 and 4 bits are
// multiplied as the 16-bit floats that they are, with scales and zeros of their rows applied to logits and weights; weights go in two parts, so
// nothing is rounded to 16 bits but 2^-16 of a weight.
#pragma once

#include <limits>

#include "narrow_pair.hpp"
#include "rules/merge.hpp"
#include "warp_stages.hpp"

namespace moekv::kernels {

template <class Block, class Shape>
class WarpSteps {
 public:
  MOEKV_HD WarpSteps(Block& block, const AttendLaunch& work)
      : block_(block),
        work_(work),
        item_(work.items[block.index()]),
        s_(*reinterpret_cast<WarpShared<Shape>*>(block.shared())),
        stages_(block, work, item_, block.shared() + sizeof(WarpShared<Shape>)) {}

  MOEKV_HD void run() {
    const std::uint32_t rounds = stages_.n_rounds();
    stages_.fetch(0, 0);
    start();
    for (std::uint32_t round = 0; round < rounds; ++round) {
      const std::uint32_t stage = round % warp_stages;
      block_.wait_groups(0);
      block_.sync_warps();
      stages_.fetch(round + 1, (round + 1) % warp_stages);
      logits(stage);
      weights(stage);
      gather(stage);
    }
    finish();
  }

 private:
  template <class T>
  using Lanes = typename Block::template Lanes<T>;
  static constexpr std::uint32_t steps_k = Shape::d_k / 16, tiles_m = Shape::d_v / 16;
  static constexpr float nothing = -std::numeric_limits<float>::infinity();

  [[nodiscard]] static MOEKV_HD float widen(std::uint16_t bits) {
    return Shape::element == ElementFormat::bf16 ? float_from_bf16(bits) : float_from_fp16(bits);
  }

  /// Calls f for the element format of a plane.
  template <class F>
  static MOEKV_HD void with_element(ElementFormat element, F&& f) {
    if (element == ElementFormat::fp8_e4m3) return f.template operator()<ElementFormat::fp8_e4m3>();
    if (element == ElementFormat::int8) return f.template operator()<ElementFormat::int8>();
    if (element == ElementFormat::int4) return f.template operator()<ElementFormat::int4>();
    f.template operator()<Shape::element>();
  }

  /// The queries as fragments in the order of K's channels, and their sums.
  MOEKV_HD void start() {
    const auto* q = reinterpret_cast<const std::uint16_t*>(work_.q) + item_.first_q * Shape::d_k;
    const auto value = [&](std::uint32_t head, std::uint32_t c) { return head < item_.n_heads ? q[head * Shape::d_k + c] : std::uint16_t{0}; };
    Lanes<float> sum;
    block_.free_each([&](unsigned t) {
      for (std::uint32_t i = t; i < 2 * 32 * steps_k; i += block_.n_threads()) {
        const std::uint32_t step = i / 64, lane = i / 2 % 32, kk = lane % 4 * 2 + i % 2 * 8;
        const std::uint32_t low = value(lane / 4, k_channel(code_width(stages_.k.element), step, kk)),
                            high = value(lane / 4, k_channel(code_width(stages_.k.element), step, kk + 1));
        s_.q[step][lane][i % 2] = low | high << 16;
      }
      sum[t] = 0.0F;
      for (std::uint32_t c = t % 16; c < Shape::d_k; c += 16) sum[t] += widen(value(t / 16, c));
      for (std::uint32_t m = 0; m < tiles_m; ++m)
        for (std::uint32_t i = 0; i < 4; ++i) sums_[t][m][i] = 0.0F;
      for (std::uint32_t i = 0; i < 2; ++i) {
        m_[t][i] = nothing;
        l_[t][i] = zero_[t][i] = 0.0F;
      }
      lift_[t] = 1.0F;
    });
    block_.sum(sum, 16);
    block_.each([&](unsigned t) {
      if (t % 16 == 0) s_.q_sum[t / 16] = sum[t];
    });
  }

  /// Products of every query head with the 16 rows of K: lane l has slots l / 4 and + 8, heads 2 (l % 4) and + 1.
  MOEKV_HD void logits(std::uint32_t stage) {
    block_.free_each([&](unsigned t) {
      for (std::uint32_t i = 0; i < 4; ++i) x_[t][i] = 0.0F;
    });
    with_element(stages_.k.element, [&]<ElementFormat f>() { multiply_k<f>(stage); });
  }

  template <ElementFormat f>
  MOEKV_HD void multiply_k(std::uint32_t stage) {
    constexpr std::uint32_t steps = products_of(f), of_word = steps > 1 ? steps / 2 : 1;
    const std::uint32_t stride = stages_.k.row_bytes + row_pad;
    for (std::uint32_t load = 0; load < steps_k / steps; ++load) {
      block_.load_matrices(
          false, [&](unsigned t) { return stages_.k_rows(t, stage) + t % 16 * stride + 32 * load + t % 32 / 16 * 16; },
          [&](unsigned t) -> std::uint32_t(&)[4] { return words_[t]; });
      for (std::uint32_t step = 0; step < steps; ++step) {
        block_.free_each([&](unsigned t) {
          for (std::uint32_t i = 0; i < 4; ++i) {
            if constexpr (f == Shape::element) {
              a_[t][i] = words_[t][i];
            } else {
              a_[t][i] = channel_pair<Block, f, Shape::element>(words_[t][step / of_word * 2 + i % 2], step % of_word * 2 + i / 2);
            }
          }
          b_[t][0] = s_.q[load * steps + step][t % 32][0];
          b_[t][1] = s_.q[load * steps + step][t % 32][1];
        });
        block_.template multiply<Shape::element>([&](unsigned t) -> float(&)[4] { return x_[t]; },
                                                 [&](unsigned t) -> std::uint32_t(&)[4] { return a_[t]; },
                                                 [&](unsigned t) -> std::uint32_t(&)[2] { return b_[t]; });
      }
    }
  }

  [[nodiscard]] static MOEKV_HD float rescale(float from, float to) { return from == to ? 1.0F : Block::exp(from - to); }

  /// The power of two that brings the largest scale of a tile near the largest fp16, as small weights would lose digits there; bf16 has the range.
  [[nodiscard]] static MOEKV_HD float lift_of(float largest_scale) {
    if (Shape::element == ElementFormat::bf16 || !(largest_scale > 0.0F)) return 1.0F;
    const std::uint32_t exponent = bits_of(largest_scale) >> 23;
    return float_from_bits((268U - (exponent > 64U ? exponent : 64U)) << 23);  // 2^14 over that of the scale
  }

  /// Logits, maxima and sums of the tile, and its weights as fragments.
  MOEKV_HD void weights(std::uint32_t stage) {
    Lanes<float> high[2], largest_scale;
    Lanes<RowScale[2]> v;
    block_.free_each([&](unsigned t) {
      const TileSlots& s = stages_.slots(t, stage);
      largest_scale[t] = 0.0F;
      for (std::uint32_t i = 0; i < 2; ++i) {
        const std::uint32_t row = t % 32 / 4 + 8 * i;
        const RowScale k = scale_of(stages_.k, s.meta[0][row], row);
        v[t][i] = scale_of(stages_.v, s.meta[1][row], row);
        const bool read = (s.live >> row & 1U) != 0;
        if (read && v[t][i].scale > largest_scale[t]) largest_scale[t] = v[t][i].scale;
        for (std::uint32_t h = 0; h < 2; ++h) {
          const std::uint32_t head = t % 4 * 2 + h;
          float& x = x_[t][2 * i + h];
          x = read ? work_.scale * (x * k.scale + k.zero * s_.q_sum[head]) : nothing;
          if (work_.logits != nullptr && head < item_.n_heads && row < s.n)
            work_.logits[item_.logits + head * item_.logits_stride + s.first_slot + row] = x;
        }
        if (!read) v[t][i] = {0.0F, 0.0F};
      }
      for (std::uint32_t h = 0; h < 2; ++h) high[h][t] = x_[t][h] > x_[t][2 + h] ? x_[t][h] : x_[t][2 + h];
    });
    for (auto& of_head : high) block_.largest_of_column(of_head);
    if constexpr (Shape::element != ElementFormat::bf16) block_.largest_of_column(largest_scale);
    block_.free_each([&](unsigned t) {
      const float lift = lift_of(largest_scale[t]);
      float scaled[2][2];  // [slot][head]
      for (std::uint32_t h = 0; h < 2; ++h) {
        const float m = high[h][t] > m_[t][h] ? high[h][t] : m_[t][h];
        const float keep = rescale(m_[t][h], m);
        m_[t][h] = m;
        l_[t][h] *= keep;
        zero_[t][h] *= keep;
        keep_[t][h] = keep * (lift / lift_[t]);
        for (std::uint32_t i = 0; i < 2; ++i) {
          const float x = x_[t][2 * i + h], weight = x == nothing ? 0.0F : Block::exp(x - m);
          l_[t][h] += weight;
          zero_[t][h] += weight * v[t][i].zero;
          scaled[i][h] = weight * (v[t][i].scale * lift);
        }
      }
      lift_[t] = lift;
      for (std::uint32_t i = 0; i < 2; ++i) {
        const std::uint32_t leading = Block::template round_pair<Shape::element>(scaled[i][0], scaled[i][1]);
        const float first = widen(static_cast<std::uint16_t>(leading)), second = widen(static_cast<std::uint16_t>(leading >> 16));
        p_[0][t][i] = leading;
        p_[1][t][i] = Block::template round_pair<Shape::element>(scaled[i][0] - first, scaled[i][1] - second);
      }
    });
    for (auto& part : p_)
      for (std::uint32_t i = 0; i < 2; ++i) block_.transpose([&](unsigned t) -> std::uint32_t& { return part[t][i]; });
  }

  /// sums = sums keep + V^T p^T.
  MOEKV_HD void gather(std::uint32_t stage) {
    Lanes<bool> changed;
    block_.free_each([&](unsigned t) { changed[t] = keep_[t][0] != 1.0F || keep_[t][1] != 1.0F; });
    block_.any_of_warp(changed);
    block_.free_each([&](unsigned t) {
      if (!changed[t]) return;
      for (std::uint32_t m = 0; m < tiles_m; ++m)
        for (std::uint32_t i = 0; i < 4; ++i) sums_[t][m][i] *= keep_[t][i % 2];
    });
    with_element(stages_.v.element, [&]<ElementFormat f>() { multiply_v<f>(stage); });
  }

  template <ElementFormat f>
  MOEKV_HD void multiply_v(std::uint32_t stage) {
    constexpr std::uint32_t tiles = products_of(f), of_word = tiles > 1 ? tiles / 2 : 1;
    const std::uint32_t stride = stages_.v.row_bytes + row_pad;
    for (std::uint32_t load = 0; load < tiles_m / tiles; ++load) {
      block_.load_matrices(
          true, [&](unsigned t) { return stages_.v_rows(t, stage) + (t % 8 + t % 32 / 16 * 8) * stride + 32 * load + t % 16 / 8 * 16; },
          [&](unsigned t) -> std::uint32_t(&)[4] { return words_[t]; });
      for (std::uint32_t tile = 0; tile < tiles; ++tile) {
        block_.free_each([&](unsigned t) {
          for (std::uint32_t i = 0; i < 4; ++i) {
            if constexpr (f == Shape::element) {
              a_[t][i] = words_[t][i];
            } else {
              a_[t][i] = slot_pair<Block, f, Shape::element>(words_[t][tile / of_word + i / 2 * 2], tile % of_word * 2 + i % 2);
            }
          }
        });
        for (auto& part : p_)
          block_.template multiply<Shape::element>([&](unsigned t) -> float(&)[4] { return sums_[t][load * tiles + tile]; },
                                                   [&](unsigned t) -> std::uint32_t(&)[4] { return a_[t]; },
                                                   [&](unsigned t) -> std::uint32_t(&)[2] { return part[t]; });
      }
    }
  }

  /// Brings the warps' sums to one maximum and adds them up, in their order.
  MOEKV_HD void finish() {
    auto* out = reinterpret_cast<float*>(block_.shared() + sizeof(WarpShared<Shape>));  // [warp][head][channel]
    for (std::uint32_t h = 0; h < 2; ++h) {
      Lanes<float> l, zero;
      block_.free_each([&](unsigned t) {
        l[t] = l_[t][h];
        zero[t] = zero_[t][h];
      });
      block_.sum_of_column(l);
      block_.sum_of_column(zero);
      block_.free_each([&](unsigned t) {
        if (t % 32 >= 4) return;
        const std::uint32_t head = t % 4 * 2 + h;
        s_.m[t / 32][head] = m_[t][h];
        s_.l[t / 32][head] = l[t];
        s_.zero[t / 32][head] = zero[t];
      });
    }
    block_.wait_groups(0);
    block_.each([](unsigned) {});
    block_.each([&](unsigned t) {
      if (t >= n_warps * Shape::heads) return;
      const std::uint32_t warp = t / Shape::heads, head = t % Shape::heads;
      s_.share[warp][head] = rescale(s_.m[warp][head], s_.largest_m(head));
    });
    block_.each([&](unsigned t) {
      for (std::uint32_t i = 0; i < 4; ++i) {
        const std::uint32_t head = t % 4 * 2 + i % 2;
        const float share = s_.share[t / 32][head] / lift_[t];
        for (std::uint32_t m = 0; m < tiles_m; ++m)
          out[(t / 32 * Shape::heads + head) * Shape::out_stride + v_channel(code_width(stages_.v.element), m, t % 32 / 4 + i / 2 * 8)] =
              sums_[t][m][i] * share;
      }
    });
    block_.free_each([&](unsigned t) {
      for (std::uint32_t head = 0; head < item_.n_heads; ++head) {
        float zero = 0.0F, l = 0.0F;
        for (std::uint32_t w = 0; w < n_warps; ++w) {
          zero += s_.zero[w][head] * s_.share[w][head];
          l += s_.l[w][head] * s_.share[w][head];
        }
        if (t < Shape::d_v) {
          float sum = zero;
          for (std::uint32_t w = 0; w < n_warps; ++w) sum += out[(w * Shape::heads + head) * Shape::out_stride + t];
          work_.o[(std::uint64_t{item_.out} + head) * Shape::d_v + t] = sum;
        }
        if (t == 0) {
          work_.m[item_.out + head] = s_.largest_m(head);
          work_.l[item_.out + head] = l;
        }
      }
    });
  }

  Block& block_;
  const AttendLaunch& work_;
  const AttendItem item_;
  WarpShared<Shape>& s_;
  WarpStages<Block> stages_;
  Lanes<float[4]> x_;
  Lanes<std::uint32_t[4]> words_, a_;
  Lanes<std::uint32_t[2]> b_, p_[2];     // p_: leading part of the weights, rest
  Lanes<float[2]> m_, l_, zero_, keep_;  // of heads 2 (lane % 4) and + 1; l_ and zero_ of this lane's slots alone
  Lanes<float> lift_;                    // what weights of the newest tile are multiplied by
  Lanes<float[tiles_m][4]> sums_;
};

}  // namespace moekv::kernels
