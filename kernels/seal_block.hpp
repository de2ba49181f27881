// Sealing: rows of a raw plane become codes, by the arithmetic of rules/codec, bit for bit as on the host.
#pragma once

#include "launches.hpp"
#include "rules/codec/map.hpp"
#include "rules/codec/row.hpp"
#include "seal_rows.hpp"

namespace moekv::kernels {

/// Rows that an item takes: those that share scales go together.
[[nodiscard]] inline std::uint32_t seal_item_rows(const PlaneLayout& from, const PlaneLayout& to) {
  if (to.format.scale == ScaleScheme::channel_group) return to.format.group;
  return seals_in_registers(from, to) ? 64 : 16;
}

/// Scales of `rows` rows of `width` values.
[[nodiscard]] MOEKV_HD std::uint32_t scale_count(const PlaneFormat& f, std::uint32_t rows, std::uint32_t width) {
  if (f.scale == ScaleScheme::channel_group) return width;
  return rows * (f.scale == ScaleScheme::token_group ? (width + f.group - 1) / f.group : 1U);
}
/// Shared memory of an item.
[[nodiscard]] inline std::uint64_t seal_shared_bytes(const PlaneLayout& from, const PlaneLayout& to) {
  if (seals_in_registers(from, to)) return 0;
  const std::uint32_t rows = seal_item_rows(from, to);
  const std::uint64_t mapped = to.format.mapped() ? rows * (to.width | 1U) : 0;
  return (std::uint64_t{rows} * (to.d | 1U) + mapped) * sizeof(float) + scale_count(to.format, rows, to.width) * sizeof(RowScale);
}

/// The steps of one item. Values lie in shared memory in rows of odd strides.
template <class Block>
class SealSteps {
 public:
  MOEKV_HD SealSteps(Block& block, const SealLaunch& work)
      : block_(block),
        item_(work.items[block.index()]),
        from_(item_.is_v != 0 ? work.pools[item_.from_pool].v : work.pools[item_.from_pool].k),
        to_(item_.is_v != 0 ? work.pools[item_.to_pool].v : work.pools[item_.to_pool].k),
        rows_(item_.n_rows),
        from_head_(item_.from + item_.kv_head * work.pools[item_.from_pool].head_bytes),
        to_head_(item_.to + item_.kv_head * work.pools[item_.to_pool].head_bytes),
        map_(map_of(work.pools[item_.to_pool], to_, to_head_, item_.table, item_.kv_head)),
        x_(reinterpret_cast<float*>(block.shared())),
        x_stride_(to_.d | 1U),
        z_(to_.format.mapped() ? x_ + rows_ * x_stride_ : x_),
        z_stride_(to_.format.mapped() ? to_.width | 1U : x_stride_),
        scales_(reinterpret_cast<RowScale*>(z_ + rows_ * z_stride_)) {}

  MOEKV_HD void run() {
    if (to_.format.scale == ScaleScheme::none && !to_.format.mapped() && from_.format.element == to_.format.element) return keep();
    if (seals_in_registers(from_, to_)) {
      const std::byte* raw = from_head_ + from_.codes + std::uint64_t{item_.first_row} * from_.row_bytes;
      return SealRows<Block>(block_, to_.format, from_.format.element, to_.d, rows_).run(raw, codes(0), meta(0), to_.meta_bytes);
    }
    load();
    if (to_.format.mapped()) map();
    if (to_.format.scale == ScaleScheme::none) {
      each_value([&](std::uint32_t r, std::uint32_t c) { store_raw(to_.format.element, codes(r), c, z_[r * z_stride_ + c]); });
    } else if (is_lloyd(to_.format.element)) {
      pack_rows_then_encode();
    } else {
      fit();
      encode();
    }
  }

 private:
  template <class F>
  MOEKV_HD void each_value(F&& f) {
    block_.each([&](unsigned t) {
      for (std::uint32_t i = t; i < rows_ * to_.width; i += block_.n_threads()) f(i / to_.width, i % to_.width);
    });
  }
  [[nodiscard]] MOEKV_HD std::byte* codes(std::uint32_t r) const { return to_head_ + to_.codes + std::uint64_t{item_.first_row + r} * to_.row_bytes; }
  [[nodiscard]] MOEKV_HD std::byte* meta(std::uint32_t r) const { return to_head_ + to_.meta + std::uint64_t{item_.first_row + r} * to_.meta_bytes; }

  /// Rows that stay as they are.
  MOEKV_HD void keep() {
    const std::byte* source = from_head_ + from_.codes + std::uint64_t{item_.first_row} * from_.row_bytes;
    block_.free_each([&](unsigned t) {
      for (std::uint32_t i = t; i < rows_ * to_.row_bytes; i += block_.n_threads()) codes(0)[i] = source[i];
    });
  }

  MOEKV_HD void load() {
    block_.each([&](unsigned t) {
      for (std::uint32_t i = t; i < rows_ * to_.d; i += block_.n_threads()) {
        const std::uint32_t r = i / to_.d, c = i % to_.d;
        const std::byte* row = from_head_ + from_.codes + std::uint64_t{item_.first_row + r} * from_.row_bytes;
        float x = load_raw(from_.format.element, row, c);
        if (to_.format.mapped() && detail::subtracts_centre(map_)) x -= map_centre(map_, c);
        x_[r * x_stride_ + c] = x;
      }
    });
  }

  MOEKV_HD void map() {
    if (map_.kind == MapKind::hadamard) butterflies();
    each_value([&](std::uint32_t r, std::uint32_t i) { z_[r * z_stride_ + i] = map_forward_value(map_, x_ + r * x_stride_, i); });
  }

  /// hadamard() of every row, step by step.
  MOEKV_HD void butterflies() {
    const std::uint32_t length = hadamard_block(to_.d), pairs = to_.d / 2;
    for (std::uint32_t h = 1; h < length; h *= 2) {
      block_.each([&](unsigned t) {
        for (std::uint32_t i = t; i < rows_ * pairs; i += block_.n_threads()) {
          float* low = x_ + i / pairs * x_stride_ + i % pairs / h * 2 * h + i % pairs % h;
          const float a = low[0], b = low[h];
          low[0] = a + b;
          low[h] = a - b;
        }
      });
    }
    const float norm = 1.0F / sqrt_fixed(static_cast<float>(length));
    each_value([&](std::uint32_t r, std::uint32_t c) { x_[r * x_stride_ + c] *= norm; });
  }

  /// Scales, one thread each, to their place and to shared memory.
  MOEKV_HD void fit() {
    const PlaneFormat& f = to_.format;
    const std::uint32_t n = scale_count(f, rows_, to_.width);
    block_.each([&](unsigned t) {
      for (std::uint32_t i = t; i < n; i += block_.n_threads()) {
        if (f.scale == ScaleScheme::channel_group) {
          scales_[i] = fit_scale(f, z_ + i, rows_, z_stride_);
          store_scale(f, scales_[i], to_head_ + to_.meta + (std::uint64_t{item_.first_row / f.group} * to_.width + i) * scale_bytes(f));
          continue;
        }
        const std::uint32_t groups = n / rows_, r = i / groups, first = i % groups * f.group;
        const std::uint32_t size = f.scale != ScaleScheme::token_group ? to_.width : to_.width - first < f.group ? to_.width - first : f.group;
        const float* z = z_ + r * z_stride_ + (f.scale == ScaleScheme::token_group ? first : 0U);
        std::byte* at = meta(r) + i % groups * (to_.meta_bytes / groups);
        if (f.scale_code != ScaleCode::fp16) {
          *at = static_cast<std::byte>(detail::block_scale(f, z, size));
          scales_[i] = load_scale(f, at);
        } else {
          scales_[i] = fit_scale(f, z, size);
          store_scale(f, scales_[i], at);
        }
      }
    });
  }

  /// Codes, eight values a thread: whole bytes.
  MOEKV_HD void encode() {
    const PlaneFormat& f = to_.format;
    const std::uint32_t octets = (to_.width + 7) / 8, groups = scale_count(f, rows_, to_.width) / rows_;
    block_.each([&](unsigned t) {
      for (std::uint32_t i = t; i < rows_ * octets; i += block_.n_threads()) {
        const std::uint32_t r = i / octets, octet = i % octets;
        const float* z = z_ + r * z_stride_;
        if (f.scale == ScaleScheme::channel_group) {
          encode_octet(f, [&](std::uint32_t c) { return scales_[c]; }, z, octet, to_.width, codes(r));
        } else {
          const RowScale& s = scales_[r * groups + (f.scale == ScaleScheme::token_group ? 8 * octet / f.group : 0U)];
          encode_octet(f, [&](std::uint32_t) { return s; }, z, octet, to_.width, codes(r));
        }
      }
    });
  }

  /// Lloyd-Max codes need sums over the row in its order: one thread a row.
  MOEKV_HD void pack_rows_then_encode() {
    block_.each([&](unsigned t) {
      for (std::uint32_t r = t; r < rows_; r += block_.n_threads()) encode_row(to_.format, z_ + r * z_stride_, to_.width, codes(r), meta(r));
    });
  }

  Block& block_;
  const SealItem item_;
  const PlaneLayout &from_, &to_;
  std::uint32_t rows_;
  const std::byte* from_head_;
  std::byte* to_head_;
  MapView map_;
  float* x_;
  std::uint32_t x_stride_;
  float* z_;
  std::uint32_t z_stride_;
  RowScale* scales_;
};

template <class Block>
MOEKV_HD void seal_block(Block& block, const SealLaunch& work) {
  SealSteps<Block>(block, work).run();
}

}  // namespace moekv::kernels
