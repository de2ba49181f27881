// Sums in double precision in slot and head order, so a page's figures never depend on threads.
#include "device/audit.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "device/code_entropy.hpp"
#include "device/plane_errors.hpp"
#include "rules/codec/map.hpp"
#include "rules/codec/plane.hpp"

namespace moekv {
namespace {

void read_plane(const PlaneFormat& f, std::uint32_t d, const std::byte* codes, const std::byte* meta, const std::byte* table, std::uint32_t slot,
                float* out) {
  const MapView map = map_view(f, d, table);
  if (map.identity()) return decode_slot(f, codes, meta, slot, d, out);
  std::vector<float> values(map.width);
  decode_slot(f, codes, meta, slot, map.width, values.data());
  std::fill_n(out, d, 0.0F);
  map_back(map, values.data(), 1.0F, out, d);
}

/// Rows [slot][d] of K and V of one head.
struct Rows {
  std::vector<float> k, v;

  Rows(const PoolView& pool, std::uint32_t block, std::uint32_t head, std::uint32_t n)
      : k(std::size_t{n} * pool.format.d_k), v(std::size_t{n} * pool.format.d_v) {
    for (std::uint32_t slot = 0; slot < n; ++slot)
      read_slot(pool, block, head, slot, &k[std::size_t{slot} * pool.format.d_k], &v[std::size_t{slot} * pool.format.d_v]);
  }
};

void add_entropy(const PlaneFormat& f, std::uint32_t d, const std::byte* codes, std::uint32_t n, SealAudit& audit) {
  const std::uint32_t bits = element_bits(f.element), width = stored_width(f, d);
  if (bits >= 16) return;
  CodeCounts counts;
  count_codes(f, codes, n, width, counts);
  audit.code_bits += std::int64_t{n} * width * bits;
  audit.entropy_bits += static_cast<std::int64_t>(std::ceil(entropy_bits(counts) * n * width));
}

}  // namespace

void read_slot(const PoolView& pool, std::uint32_t block, std::uint32_t head, std::uint32_t slot, float* k, float* v) {
  const BlockFormat& f = pool.format;
  const std::byte* base = pool.head(block, head);
  read_plane(f.k, f.d_k, base + f.k_codes(), base + f.k_meta(), pool.k_table(block, head), slot, k);
  if (f.latent) {
    std::memcpy(v, k, f.d_v * sizeof(float));
  } else {
    read_plane(f.v, f.d_v, base + f.v_codes(), base + f.v_meta(), pool.v_table(block, head), slot, v);
  }
}

SealAudit audit_block(const SealOp& op, const PoolView& from, const PoolView& to, std::uint32_t block, float scale) {
  const BlockFormat& f = from.format;
  const bool asked = op.q != nullptr && op.n_q > 0;
  SealAudit audit;
  PlaneErrors k, v;
  QueryErrors by_query;
  std::vector<float> q(f.d_k);
  for (std::uint32_t head = 0; head < f.n_kv_heads; ++head) {
    const Rows exact(from, op.from.index, head, op.n_slots), stored(to, block, head, op.n_slots);
    k.add(exact.k, stored.k, f.d_k);
    if (!f.latent) v.add(exact.v, stored.v, f.d_v);
    for (std::uint32_t h = head * op.q_group; asked && h < (head + 1) * op.q_group; ++h) {
      const std::byte* row = op.q + (op.n_q - 1) * op.q_stride + h * std::size_t{code_bytes(f.k, f.d_k)};
      for (std::uint32_t c = 0; c < f.d_k; ++c) q[c] = load_raw(f.k.element, row, c);
      by_query.add(q.data(), exact.k, stored.k, f.d_k, static_cast<double>(scale));
    }
    add_entropy(to.format.k, f.d_k, to.head(block, head) + to.format.k_codes(), op.n_slots, audit);
    if (!f.latent) add_entropy(to.format.v, f.d_v, to.head(block, head) + to.format.v_codes(), op.n_slots, audit);
  }
  audit.k_error = k.relative();
  audit.v_error = v.relative();
  audit.spread_error = std::max(k.to_spread(), v.to_spread());
  const double none = std::numeric_limits<double>::quiet_NaN();
  audit.logit_error = asked ? by_query.logit_error() : none;
  audit.attention_error = asked ? by_query.attention_error() : none;
  return audit;
}

}  // namespace moekv
