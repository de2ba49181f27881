// Decode attention of one run of latent pages, where the rows are K and their first channels V, on tensor cores: S^T = K Q^T and O^T = V^T P^T by
// 16x8x16 products of 16-bit values, softmax and sums in fp32. Codes become 16-bit floats on their way to shared memory, with scales and zeros of
// their rows applied to logits and weights; weights go in two parts, so nothing is rounded to 16 bits but 2^-16 of a weight. The block takes tiles of
// 32 slots together; the next one is copied while one is computed.
#pragma once

#include <limits>

#include "latent_tile.hpp"
#include "rules/merge.hpp"

namespace moekv::kernels {

template <class Block, class Shape>
class LatentSteps {
 public:
  MOEKV_HD LatentSteps(Block& block, const AttendLaunch& work)
      : block_(block),
        work_(work),
        item_(work.items[block.index()]),
        s_(*reinterpret_cast<LatentShared<Shape>*>(block.shared())),
        n_tiles_(count_tiles(item_.n_pages, work.page_slots)) {}

  MOEKV_HD void run() {
    start();
    if (n_tiles_ > 0) {
      describe(0);
      fetch(0);
      if (n_tiles_ > 1) describe(1);
    }
    for (std::uint32_t tile = 0; tile < n_tiles_; ++tile) {
      if (tile + 1 < n_tiles_) fetch(tile + 1);
      if (tile + 2 < n_tiles_) describe_more(tile + 2);
      block_.wait_groups(tile + 1 < n_tiles_ ? 1 : 0);
      block_.each([](unsigned) {});
      logits(tile);
      weights(tile);
      gather(tile);
    }
    finish();
  }

 private:
  static constexpr std::uint32_t row_tiles = latent_tile / 16;
  static_assert(row_tiles * Shape::eights == block_threads / 32);
  static constexpr std::uint32_t tiles_m = Shape::d_v / 64;  // 16-channel tiles of one of the four warps
  using Sums = float[tiles_m][Shape::eights][4];

  MOEKV_HD std::uint16_t* stage(std::uint32_t tile) { return s_.stages[tile % 2]; }

  MOEKV_HD void start() {
    block_.each([&](unsigned t) {
      const auto* q = reinterpret_cast<const std::uint16_t*>(work_.q) + item_.first_q * Shape::d_k;
      for (std::uint32_t i = t; i < Shape::heads * Shape::d_k; i += block_.n_threads()) {
        const std::uint32_t h = i / Shape::d_k, c = i % Shape::d_k;
        s_.q[h * Shape::k_stride + c] = h < item_.n_heads ? q[i] : std::uint16_t{0};
      }
      for (std::uint32_t m = 0; m < tiles_m; ++m)
        for (std::uint32_t n = 0; n < Shape::eights; ++n)
          for (std::uint32_t i = 0; i < 4; ++i) sums_[t][m][n][i] = 0.0F;
    });
    block_.each([&](unsigned t) {
      if (t >= Shape::heads) return;
      float sum = 0.0F;
      for (std::uint32_t c = 0; c < Shape::d_k; ++c) sum += widen(s_.q[t * Shape::k_stride + c]);
      s_.q_sum[t] = sum;
      s_.m[t] = -std::numeric_limits<float>::infinity();
      s_.l[t] = s_.zero[t] = 0.0F;
      s_.lift[t] = 1.0F;
    });
  }

  [[nodiscard]] static MOEKV_HD float widen(std::uint16_t bits) {
    return Shape::element == ElementFormat::bf16 ? float_from_bf16(bits) : float_from_fp16(bits);
  }
  [[nodiscard]] static MOEKV_HD std::uint16_t round16(float x) {
    return Shape::element == ElementFormat::bf16 ? bf16_from_float(x) : fp16_from_float(x);
  }

  MOEKV_HD void describe(std::uint32_t tile) {
    describe_more(tile);
    block_.each([](unsigned) {});
  }

  /// A barrier must follow.
  MOEKV_HD void describe_more(std::uint32_t tile) {
    block_.free_each([&](unsigned t) {
      if (t < latent_tile) describe_slot(work_, item_, tile, t, s_.rows[tile % 3]);
    });
  }

  /// Starts copying the rows of a tile to its stage; codes are there when this returns, raw values after the wait.
  MOEKV_HD void fetch(std::uint32_t tile) {
    const TileRows& rows = s_.rows[tile % 3];
    std::uint16_t* to = stage(tile);
    block_.free_each([&](unsigned t) {
      for (std::uint32_t r = t / 32; r < latent_tile; r += block_.n_threads() / 32) {
        const std::byte* row = rows.row[r];
        if (row != nullptr && rows.element[r] != Shape::element) continue;
        for (std::uint32_t c = t % 32 * 8; c < Shape::d_k; c += 32 * 8)
          block_.copy_later(reinterpret_cast<std::byte*>(to + r * Shape::k_stride + c), row != nullptr ? row + 2 * c : work_.q, row != nullptr);
      }
    });
    block_.end_group();
    if (!work_.codes) return;
    block_.free_each([&](unsigned t) {
      constexpr std::uint32_t pieces = Shape::d_k / 16;
      for (std::uint32_t i = t; i < latent_tile * pieces; i += block_.n_threads()) {
        const std::uint32_t r = i / pieces, c = i % pieces * 16;
        if (rows.row[r] != nullptr && rows.element[r] != Shape::element)
          put_codes<Block, Shape::element>(rows.element[r], rows.row[r], c, to + r * Shape::k_stride + c);
      }
    });
  }

  /// s = scaled products of every query head with the rows of the tile; each warp has 16 rows and eight heads. Sums of even and odd steps are apart,
  /// as each product waits for the one before.
  MOEKV_HD void logits(std::uint32_t tile) {
    typename Block::template Lanes<float[2][4]> c;
    typename Block::template Lanes<std::uint32_t[4]> a;
    typename Block::template Lanes<std::uint32_t[2]> b;
    const auto row_of = [](unsigned t) { return t / 32 % row_tiles * 16; };
    const auto head_of = [](unsigned t) { return t / 32 / row_tiles * 8; };
    block_.free_each([&](unsigned t) {
      for (auto& sums : c[t])
        for (float& sum : sums) sum = 0.0F;
    });
    const std::uint16_t* k = stage(tile);
    for (std::uint32_t step = 0; step < Shape::d_k / 16; ++step) {
      block_.load_matrices(
          false, [&](unsigned t) { return k + (row_of(t) + t % 16) * Shape::k_stride + 16 * step + t % 32 / 16 * 8; },
          [&](unsigned t) -> std::uint32_t(&)[4] { return a[t]; });
      block_.free_each([&](unsigned t) {
        const auto* q = reinterpret_cast<const std::uint32_t*>(s_.q + (head_of(t) + t % 32 / 4) * Shape::k_stride + 16 * step + t % 4 * 2);
        b[t][0] = q[0];
        b[t][1] = q[4];
      });
      block_.template multiply<Shape::element>([&](unsigned t) -> float(&)[4] { return c[t][step % 2]; },
                                               [&](unsigned t) -> std::uint32_t(&)[4] { return a[t]; },
                                               [&](unsigned t) -> std::uint32_t(&)[2] { return b[t]; });
    }
    block_.each([&](unsigned t) {
      for (std::uint32_t i = 0; i < 4; ++i)
        keep_logit(tile, head_of(t) + t % 4 * 2 + i % 2, row_of(t) + t % 32 / 4 + i / 2 * 8, c[t][0][i] + c[t][1][i]);
    });
  }

  MOEKV_HD void keep_logit(std::uint32_t tile, std::uint32_t head, std::uint32_t row, float product) {
    const TileRows& rows = s_.rows[tile % 3];
    float x = -std::numeric_limits<float>::infinity();
    if (rows.row[row] != nullptr) x = work_.scale * (product * rows.scale[row] + rows.zero[row] * s_.q_sum[head]);
    s_.s[head * Shape::s_stride + row] = x;
    const bool kept = work_.logits != nullptr && head < item_.n_heads && rows.logit[row] != ~0U;
    if (kept) work_.logits[item_.logits + head * item_.logits_stride + rows.logit[row]] = x;
  }

  /// The power of two that brings the largest scale of a tile near the largest fp16, as small weights would lose digits there; bf16 has the range.
  [[nodiscard]] static MOEKV_HD float lift_of(float largest_scale) {
    if (Shape::element == ElementFormat::bf16 || !(largest_scale > 0.0F)) return 1.0F;
    const std::uint32_t exponent = bits_of(largest_scale) >> 23;
    return float_from_bits((268U - (exponent > 64U ? exponent : 64U)) << 23);  // 2^14 over that of the scale
  }

  /// p = weights relative to the new maximum; the same number of threads for every head.
  MOEKV_HD void weights(std::uint32_t tile) {
    constexpr std::uint32_t per_head = 128 / Shape::heads;
    const TileRows& rows = s_.rows[tile % 3];
    typename Block::template Lanes<float> high, scale, sum, zero;
    block_.free_each([&](unsigned t) {
      high[t] = -std::numeric_limits<float>::infinity();
      scale[t] = 0.0F;
      for (std::uint32_t r = t % per_head; r < latent_tile; r += per_head) {
        const float x = s_.s[t / per_head * Shape::s_stride + r];
        high[t] = x > high[t] ? x : high[t];
        scale[t] = rows.scale[r] > scale[t] ? rows.scale[r] : scale[t];
      }
    });
    block_.largest(high, per_head);
    block_.largest(scale, per_head);
    block_.free_each([&](unsigned t) {
      const std::uint32_t head = t / per_head;
      const float m = high[t] > s_.m[head] ? high[t] : s_.m[head], lift = lift_of(scale[t]);
      sum[t] = zero[t] = 0.0F;
      for (std::uint32_t r = t % per_head; r < latent_tile; r += per_head) {
        const float x = s_.s[head * Shape::s_stride + r];
        const float p = x == -std::numeric_limits<float>::infinity() ? 0.0F : exp_fixed(x - m);
        sum[t] += p;
        zero[t] += p * rows.zero[r];
        const float scaled = p * (rows.scale[r] * lift);
        const std::uint16_t leading = round16(scaled);
        s_.p[0][head * Shape::p_stride + r] = leading;
        s_.p[1][head * Shape::p_stride + r] = round16(scaled - widen(leading));
      }
    });
    block_.sum(sum, per_head);
    block_.sum(zero, per_head);
    block_.each([](unsigned) {});
    block_.each([&](unsigned t) {
      const std::uint32_t head = t / per_head;
      if (t % per_head != 0) return;
      const float m = high[t] > s_.m[head] ? high[t] : s_.m[head];
      const float keep = rescale_factor(s_.m[head], m), lift = lift_of(scale[t]);
      s_.m[head] = m;
      s_.l[head] = s_.l[head] * keep + sum[t];
      s_.zero[head] = s_.zero[head] * keep + zero[t];
      s_.keep[head] = keep * (lift / s_.lift[head]);
      s_.lift[head] = lift;
    });
  }

  /// sums = sums keep + V^T p^T; each warp has a quarter of the channels.
  MOEKV_HD void gather(std::uint32_t tile) {
    typename Block::template Lanes<std::uint32_t[4]> a;
    typename Block::template Lanes<std::uint32_t[2][Shape::eights][2]> b;
    block_.free_each([&](unsigned t) {
      for (std::uint32_t n = 0; n < Shape::eights; ++n) {
        const float even = s_.keep[8 * n + t % 4 * 2], odd = s_.keep[8 * n + t % 4 * 2 + 1];
        for (std::uint32_t m = 0; m < tiles_m; ++m)
          for (std::uint32_t i = 0; i < 4; ++i) sums_[t][m][n][i] *= i % 2 == 0 ? even : odd;
      }
    });
    const std::uint16_t* v = stage(tile);
    for (std::uint32_t at = 0; at < latent_tile; at += 16) {
      block_.free_each([&](unsigned t) {
        for (std::uint32_t part = 0; part < 2; ++part)
          for (std::uint32_t n = 0; n < Shape::eights; ++n) {
            const auto* p = reinterpret_cast<const std::uint32_t*>(s_.p[part] + (8 * n + t % 32 / 4) * Shape::p_stride + at + t % 4 * 2);
            b[t][part][n][0] = p[0];
            b[t][part][n][1] = p[4];
          }
      });
      for (std::uint32_t m = 0; m < tiles_m; ++m) {
        block_.load_matrices(
            true,
            [&](unsigned t) {
              const std::uint32_t row = at + t % 8 + t % 32 / 16 * 8, channel = (t / 32 * tiles_m + m) * 16 + t % 16 / 8 * 8;
              return v + row * Shape::k_stride + channel;
            },
            [&](unsigned t) -> std::uint32_t(&)[4] { return a[t]; });
        for (std::uint32_t part = 0; part < 2; ++part)
          for (std::uint32_t n = 0; n < Shape::eights; ++n) {
            block_.template multiply<Shape::element>([&](unsigned t) -> float(&)[4] { return sums_[t][m][n]; },
                                                     [&](unsigned t) -> std::uint32_t(&)[4] { return a[t]; },
                                                     [&](unsigned t) -> std::uint32_t(&)[2] { return b[t][part][n]; });
          }
      }
    }
    block_.each([](unsigned) {});
  }

  MOEKV_HD void finish() {
    block_.each([&](unsigned t) {
      for (std::uint32_t m = 0; m < tiles_m; ++m)
        for (std::uint32_t n = 0; n < Shape::eights; ++n)
          for (std::uint32_t i = 0; i < 4; ++i) {
            const std::uint32_t head = 8 * n + t % 4 * 2 + i % 2, channel = (t / 32 * tiles_m + m) * 16 + t % 32 / 4 + i / 2 * 8;
            if (head < item_.n_heads)
              work_.o[(std::uint64_t{item_.out} + head) * Shape::d_v + channel] = sums_[t][m][n][i] / s_.lift[head] + s_.zero[head];
          }
      if (t < item_.n_heads) {
        work_.m[item_.out + t] = s_.m[t];
        work_.l[item_.out + t] = s_.l[t];
      }
    });
  }

  Block& block_;
  const AttendLaunch& work_;
  const AttendItem& item_;
  LatentShared<Shape>& s_;
  std::uint32_t n_tiles_;
  typename Block::template Lanes<Sums> sums_;
};

}  // namespace moekv::kernels
