// Sealing of planes whose rows have one scale and 64 or 128 channels: every thread has eight neighbouring values of some rows in registers.
#pragma once

#include "launches.hpp"
#include "rules/codec/row.hpp"

namespace moekv::kernels {

/// Rows of 16-bit values that become codes of 8 or 4 bits under scales of their own, without a map.
[[nodiscard]] MOEKV_HD bool seals_in_registers(const PlaneLayout& from, const PlaneLayout& to) {
  const PlaneFormat& f = to.format;
  const bool symmetric = (f.element == ElementFormat::fp8_e4m3 || f.element == ElementFormat::int8) && !f.zero_point;
  const bool coded = symmetric || (f.element == ElementFormat::int4 && f.zero_point);
  const bool raw = from.format.element == ElementFormat::bf16 || from.format.element == ElementFormat::fp16;
  return raw && coded && f.scale == ScaleScheme::token && f.scale_code == ScaleCode::fp16 && !f.mapped() && (to.d == 64 || to.d == 128);
}

template <class Block>
class SealRows {
 public:
  MOEKV_HD SealRows(Block& block, const PlaneFormat& f, ElementFormat from, std::uint32_t d, std::uint32_t n_rows)
      : block_(block), f_(f), from_(from), d_(d), n_octets_(n_rows * d / 8) {}

  /// `raw`: rows of d values, side by side; `codes`: where theirs go, side by side too; `meta`: theirs, `meta_bytes` each.
  MOEKV_HD void run(const std::byte* raw, std::byte* codes, std::byte* meta, std::uint32_t meta_bytes) {
    const auto with = [&]<ElementFormat element>() {
      if (d_ == 64) return each_pass<element, 8>(raw, codes, meta, meta_bytes);
      each_pass<element, 16>(raw, codes, meta, meta_bytes);
    };
    if (f_.element == ElementFormat::fp8_e4m3) return with.template operator()<ElementFormat::fp8_e4m3>();
    if (f_.element == ElementFormat::int8) return with.template operator()<ElementFormat::int8>();
    with.template operator()<ElementFormat::int4>();
  }

 private:
  static constexpr std::uint32_t magic = 0x4B400000U;  // 1.5 * 2^23, as a float
  static constexpr std::uint32_t ahead = 4;            // octets of a thread that are loaded together
  template <class T>
  using Lanes = typename Block::template Lanes<T>;
  using Octet = std::uint32_t[4];  // eight values of 16 bits

  /// `width`: threads of a row.
  template <ElementFormat element, std::uint32_t width>
  MOEKV_HD void each_pass(const std::byte* raw, std::byte* codes, std::byte* meta, std::uint32_t meta_bytes) {
    const auto load = [&](Lanes<Octet>& octet, std::uint32_t first) {
      block_.free_each([&](unsigned t) { Block::load_wide(raw + std::size_t{first + t < n_octets_ ? first + t : 0} * 16, octet[t]); });
    };
    const auto seal = [&](Lanes<Octet>& octet, std::uint32_t first) {
      fit<width>(octet);
      block_.free_each([&](unsigned t) {
        const std::uint32_t i = first + t;
        if (i >= n_octets_) return;
        const RowScale s = scale_of_range(f_, lowest_[t], highest_[t]);
        encode<element>(x_[t], s, codes + std::size_t{i} * (element == ElementFormat::int4 ? 4 : 8));
        if (t % width == 0) store_scale(f_, s, meta + std::size_t{i / width} * meta_bytes);
      });
    };
    const std::uint32_t step = block_.n_threads();
    Lanes<Octet> a, b, c, d;  // by name: registers have no index
    for (std::uint32_t first = 0; first < n_octets_; first += ahead * step) {
      load(a, first);
      load(b, first + step);
      load(c, first + 2 * step);
      load(d, first + 3 * step);
      seal(a, first);
      seal(b, first + step);
      seal(c, first + 2 * step);
      seal(d, first + 3 * step);
    }
  }

  /// Values, and the extremes of their row for each of its threads.
  template <std::uint32_t width>
  MOEKV_HD void fit(Lanes<Octet>& octet) {
    block_.free_each([&](unsigned t) {
      float sum = 0.0F;
      for (std::uint32_t i = 0; i < 8; ++i) {
        const std::uint32_t word = octet[t][i / 2];
        x_[t][i] = from_ == ElementFormat::bf16 ? float_from_bits(i % 2 == 0 ? word << 16 : word & 0xFFFF0000U)
                                                : float_from_fp16(static_cast<std::uint16_t>(word >> (16 * (i % 2))));
        sum += x_[t][i];
      }
      if (sum != sum)  // some may be NaN
        for (float& x : x_[t]) x = nan_to_zero(x);
      highest_[t] = x_[t][0];
      float lowest = x_[t][0];
      for (std::uint32_t i = 1; i < 8; ++i) {
        highest_[t] = Block::larger(x_[t][i], highest_[t]);
        lowest = Block::smaller(x_[t][i], lowest);
      }
      lowest_[t] = -lowest;
    });
    block_.largest(highest_, width);
    block_.largest(lowest_, width);
    block_.free_each([&](unsigned t) { lowest_[t] = -lowest_[t]; });
  }

  template <ElementFormat element>
  MOEKV_HD void encode(const float (&x)[8], const RowScale& s, std::byte* to) const {
    const float inverse = 1.0F / s.scale;
    const auto quotient = [&](float value) { return Block::divide(value, s.scale, inverse); };
    std::uint32_t words[2] = {0, 0};
    if constexpr (element == ElementFormat::fp8_e4m3) {
      const auto scaled = [&](float value) { return float_from_bits(bits_of(quotient(magnitude(value))) | (bits_of(value) & 0x80000000U)); };
      for (std::uint32_t i = 0; i < 8; i += 2) words[i / 4] |= Block::e4m3_pair(scaled(x[i]), scaled(x[i + 1])) << (8 * (i % 4));
    } else {
      constexpr std::uint32_t bits = element == ElementFormat::int4 ? 4 : 8;
      constexpr bool zero_point = element == ElementFormat::int4;
      const float highest = !zero_point ? 127.0F : s.flat ? 0.0F : 15.0F, lowest = zero_point ? 0.0F : -highest;
      // A code is the low bits of the float that rounds it (round_even). Such floats add up side by side when codes are not negative; what their
      // other bits add up to is known.
      constexpr std::uint32_t bias = zero_point ? 0 : 128, per_word = 32 / bits;
      std::uint32_t rest = 0;
      for (std::uint32_t i = 0; i < per_word; ++i) rest += (magic - bias) << (bits * i);
      for (std::uint32_t i = 0; i < 8; ++i) {
        const float code = Block::smaller(Block::larger(quotient(zero_point ? x[i] - s.zero : x[i]), lowest), highest);
        words[i / per_word] += bits_of(code + float_from_bits(magic)) << (bits * i % 32);
      }
      for (std::uint32_t& word : words) word = (word - rest) ^ (zero_point ? 0U : 0x80808080U);
    }
    if constexpr (element == ElementFormat::int4) {
      *reinterpret_cast<std::uint32_t*>(to) = words[0];
    } else {
      *reinterpret_cast<std::uint64_t*>(to) = std::uint64_t{words[1]} << 32 | words[0];
    }
  }
  [[nodiscard]] static MOEKV_HD float magnitude(float x) { return float_from_bits(bits_of(x) & 0x7FFFFFFFU); }

  Block& block_;
  const PlaneFormat f_;
  ElementFormat from_;
  std::uint32_t d_, n_octets_;
  Lanes<float[8]> x_;
  Lanes<float> highest_, lowest_;  // of the row
};

}  // namespace moekv::kernels
