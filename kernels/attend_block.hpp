// Decode attention of one run of pages, for every format and shape: rows are decoded to shared memory value by value, softmax runs online.
#pragma once

#include <limits>

#include "launches.hpp"
#include "rules/attend.hpp"
#include "rules/codec/plane.hpp"

namespace moekv::kernels {

/// Floats of shared memory for `heads` query heads and tiles of `slots` rows.
[[nodiscard]] constexpr std::uint64_t attend_floats(std::uint32_t heads, std::uint32_t slots, std::uint32_t d_k, std::uint32_t d_v, bool mapped) {
  const std::uint64_t widest = d_k > d_v ? d_k : d_v;
  const std::uint64_t per_head = d_k + widest + (mapped ? d_k + d_v : 0) + slots + 5;
  return heads * per_head + std::uint64_t{slots} * (widest | 1U);
}

/// Where an item keeps what in shared memory, and its steps. Values behind a map are never taken back row by row: queries go through K's map, sums come
/// back through V's when it changes.
template <class Block>
class AttendSteps {
 public:
  MOEKV_HD AttendSteps(Block& block, const AttendLaunch& work)
      : block_(block), work_(work), item_(work.items[block.index()]), heads_(item_.n_heads), widest_(work.d_k > work.d_v ? work.d_k : work.d_v) {
    float* at = reinterpret_cast<float*>(block.shared());
    const auto take = [&](std::uint32_t n) {
      float* mine = at;
      at += n;
      return mine;
    };
    q_ = take(heads_ * work.d_k);
    o_ = take(heads_ * widest_);
    mapped_q_ = take(work.mapped ? heads_ * work.d_k : 0);
    out_ = take(work.mapped ? heads_ * work.d_v : 0);
    x_ = take(heads_ * work.tile_slots);
    m_ = take(heads_);
    l_ = take(heads_);
    keep_ = take(heads_);
    centre_ = take(heads_);   // q . centre of K's map
    weight_ = take(heads_);   // of what o_ holds
    tile_ = at;
    o_width_ = work.d_v;
  }

  MOEKV_HD void run() {
    start();
    for (std::uint32_t i = 0; i < item_.n_pages; ++i) {
      const DevicePage& page = work_.pages[item_.first_page + i];
      const PoolLayout& pool = work_.pools[page.pool];
      const std::byte* head = page.block + item_.kv_head * pool.head_bytes;
      const PlaneLayout& v = pool.latent ? pool.k : pool.v;
      enter_k(attended_map(map_of(pool, pool.k, head, page.table, item_.kv_head)));
      enter_v(attended_map(map_of(pool, v, head, page.table, item_.kv_head)));
      for (std::uint32_t first = 0; first < page.n_slots; first += work_.tile_slots) {
        const std::uint32_t n = page.n_slots - first < work_.tile_slots ? page.n_slots - first : work_.tile_slots;
        decode(page, pool, pool.k, head, first, n);
        weigh(page, pool.k.read_width, first, n);
        if (!pool.latent) decode(page, pool, pool.v, head, first, n);
        gather(v.read_width, n);
      }
    }
    finish();
  }

 private:
  /// f(head, i) for every head and i below `n`, then a barrier.
  template <class F>
  MOEKV_HD void each_of_heads(std::uint32_t n, F&& f) {
    block_.each([&](unsigned t) {
      for (std::uint32_t i = t; i < heads_ * n; i += block_.n_threads()) f(i / n, i % n);
    });
  }

  MOEKV_HD void start() {
    each_of_heads(work_.d_k, [&](std::uint32_t h, std::uint32_t c) {
      const std::uint64_t row = (item_.first_q + h) * work_.d_k;
      q_[h * work_.d_k + c] = load_raw(work_.q_format, work_.q + row * element_bits(work_.q_format) / 8, c);
    });
    each_of_heads(widest_, [&](std::uint32_t h, std::uint32_t c) { o_[h * widest_ + c] = 0.0F; });
    if (work_.mapped) each_of_heads(work_.d_v, [&](std::uint32_t h, std::uint32_t c) { out_[h * work_.d_v + c] = 0.0F; });
    each_of_heads(1, [&](std::uint32_t h, std::uint32_t) {
      m_[h] = -std::numeric_limits<float>::infinity();
      l_[h] = centre_[h] = weight_[h] = 0.0F;
    });
  }

  /// Hadamard blocks of the rows x[heads][d], `stride` apart.
  MOEKV_HD void butterflies(float* x, std::uint32_t stride, std::uint32_t d) {
    const std::uint32_t length = hadamard_block(d), pairs = d / 2;
    for (std::uint32_t h = 1; h < length; h *= 2) {
      each_of_heads(pairs, [&](std::uint32_t row, std::uint32_t i) {
        float* low = x + row * stride + i / h * 2 * h + i % h;
        const float a = low[0], b = low[h];
        low[0] = a + b;
        low[h] = a - b;
      });
    }
    const float norm = 1.0F / sqrt_fixed(static_cast<float>(length));
    each_of_heads(d, [&](std::uint32_t row, std::uint32_t c) { x[row * stride + c] *= norm; });
  }

  MOEKV_HD void enter_k(const MapView& map) {
    if (same_map(map, k_map_)) return;
    k_map_ = map;
    each_of_heads(1, [&](std::uint32_t h, std::uint32_t) { centre_[h] = query_centre(map, q_ + h * work_.d_k); });
    if (map.identity()) return;
    each_of_heads(map.width, [&](std::uint32_t h, std::uint32_t i) { mapped_q_[h * work_.d_k + i] = map_query_value(map, q_ + h * work_.d_k, i); });
    if (map.kind == MapKind::hadamard) butterflies(mapped_q_, work_.d_k, work_.d_k);
  }

  MOEKV_HD void enter_v(const MapView& map) {
    if (same_map(map, v_map_)) return;
    take_back();
    v_map_ = map;
    o_width_ = map.identity() ? work_.d_v : map.width;
  }

  /// Moves what o_ holds to out_, behind no map.
  MOEKV_HD void take_back() {
    if (v_map_.kind == MapKind::hadamard) butterflies(o_, widest_, o_width_);
    each_of_heads(work_.d_v, [&](std::uint32_t h, std::uint32_t c) {
      float& out = out_[h * work_.d_v + c];
      out = v_map_.identity() ? out + o_[h * widest_ + c] : map_back_value(v_map_, o_ + h * widest_, weight_[h], out, c);
    });
    each_of_heads(widest_, [&](std::uint32_t h, std::uint32_t c) { o_[h * widest_ + c] = 0.0F; });
    each_of_heads(1, [&](std::uint32_t h, std::uint32_t) { weight_[h] = 0.0F; });
  }

  [[nodiscard]] static MOEKV_HD bool same_map(const MapView& a, const MapView& b) {
    return a.identity() ? b.identity() : a.kind == b.kind && a.centre == b.centre && a.table == b.table && a.width == b.width && a.fit == b.fit;
  }

  /// Rows first .. first + n of a plane, 0 where they are not read.
  MOEKV_HD void decode(const DevicePage& page, const PoolLayout& pool, const PlaneLayout& plane, const std::byte* head, std::uint32_t first,
                       std::uint32_t n) {
    const std::uint32_t width = plane.read_width, stride = width | 1U;
    const MapView map = map_of(pool, plane, head, page.table, item_.kv_head);
    const auto value = [&](std::uint32_t slot, std::uint32_t c) {
      if (!map.linear()) return codebook_value(map, head + plane.codes + std::uint64_t{slot} * plane.row_bytes, c);
      return decode_value(plane.format, head + plane.codes, head + plane.meta, slot, width, c);
    };
    block_.each([&](unsigned t) {
      for (std::uint32_t i = t; i < n * width; i += block_.n_threads()) {
        const std::uint32_t slot = first + i / width;
        const bool read = is_read(page, work_.masks, slot);
        tile_[i / width * stride + i % width] = read ? value(slot, i % width) : 0.0F;
      }
    });
  }

  /// Logits of the tile, the running maximum, and weights relative to it.
  MOEKV_HD void weigh(const DevicePage& page, std::uint32_t width, std::uint32_t first, std::uint32_t n) {
    const float* q = k_map_.identity() ? q_ : mapped_q_;
    each_of_heads(n, [&](std::uint32_t h, std::uint32_t s) {
      float x = -std::numeric_limits<float>::infinity();
      if (is_read(page, work_.masks, first + s)) x = work_.scale * (dot(q + h * work_.d_k, tile_ + s * (width | 1U), width) + centre_[h]);
      x_[h * work_.tile_slots + s] = x;
      if (work_.logits != nullptr) work_.logits[item_.logits + h * item_.logits_stride + page.first_slot + first + s] = x;
    });
    each_of_heads(1, [&](std::uint32_t h, std::uint32_t) {
      float m = m_[h];
      for (std::uint32_t s = 0; s < n; ++s) m = x_[h * work_.tile_slots + s] > m ? x_[h * work_.tile_slots + s] : m;
      keep_[h] = rescale_factor(m_[h], m);
      m_[h] = m;
    });
    each_of_heads(n, [&](std::uint32_t h, std::uint32_t s) {
      float& x = x_[h * work_.tile_slots + s];
      x = x == -std::numeric_limits<float>::infinity() ? 0.0F : exp_fixed(x - m_[h]);
    });
    each_of_heads(1, [&](std::uint32_t h, std::uint32_t) {
      float sum = 0.0F;
      for (std::uint32_t s = 0; s < n; ++s) sum += x_[h * work_.tile_slots + s];
      l_[h] = l_[h] * keep_[h] + sum;
      weight_[h] = weight_[h] * keep_[h] + sum;
    });
  }

  /// o += weights times the tile.
  MOEKV_HD void gather(std::uint32_t width, std::uint32_t n) {
    const std::uint32_t used = o_width_ < width ? o_width_ : width, stride = width | 1U;
    each_of_heads(used, [&](std::uint32_t h, std::uint32_t c) {
      float o = o_[h * widest_ + c] * keep_[h];
      for (std::uint32_t s = 0; s < n; ++s) o += x_[h * work_.tile_slots + s] * tile_[s * stride + c];
      o_[h * widest_ + c] = o;
    });
    if (work_.mapped) each_of_heads(work_.d_v, [&](std::uint32_t h, std::uint32_t c) { out_[h * work_.d_v + c] *= keep_[h]; });
  }

  MOEKV_HD void finish() {
    if (work_.mapped) take_back();
    const float* from = work_.mapped ? out_ : o_;
    const std::uint32_t stride = work_.mapped ? work_.d_v : widest_;
    each_of_heads(work_.d_v, [&](std::uint32_t h, std::uint32_t c) { work_.o[(std::uint64_t{item_.out} + h) * work_.d_v + c] = from[h * stride + c]; });
    each_of_heads(1, [&](std::uint32_t h, std::uint32_t) {
      work_.m[item_.out + h] = m_[h];
      work_.l[item_.out + h] = l_[h];
    });
  }

  Block& block_;
  const AttendLaunch& work_;
  const AttendItem& item_;
  std::uint32_t heads_, widest_, o_width_;
  float *q_, *o_, *mapped_q_, *out_, *x_, *m_, *l_, *keep_, *centre_, *weight_, *tile_;
  MapView k_map_, v_map_;
};

template <class Block>
MOEKV_HD void attend_block(Block& block, const AttendLaunch& work) {
  AttendSteps<Block>(block, work).run();
}

}  // namespace moekv::kernels
