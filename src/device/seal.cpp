// Raw rows become fp32 and then what the target's planes ask for; rows that keep their format are copied.
#include "device/seal.hpp"

#include <cstring>
#include <vector>

#include "core/error.hpp"
#include "rules/codec/row.hpp"

namespace moekv {
namespace {

/// One plane of one KV head: where its rows are.
struct Plane {
  PlaneFormat format;
  std::byte* codes;
  std::byte* meta;
};

void seal_plane(const Plane& from, const Plane& to, std::uint32_t d, std::uint32_t n_slots) {
  const std::size_t from_bytes = code_bytes(from.format, d);
  const std::size_t to_bytes = code_bytes(to.format, d);
  if (from.format == to.format) {
    std::memcpy(to.codes, from.codes, from_bytes * n_slots);
    return;
  }
  thread_local std::vector<float> row;
  row.resize(d);
  for (std::uint32_t slot = 0; slot < n_slots; ++slot) {
    decode_row(from.format, from.codes + slot * from_bytes, nullptr, d, row.data());
    encode_row(to.format, row.data(), d, to.codes + slot * to_bytes, to.meta + std::size_t{slot} * meta_bytes(to.format));
  }
}

}  // namespace

void seal_block(const PoolView& from, std::uint32_t from_block, const PoolView& to, std::uint32_t to_block, std::uint32_t n_slots) {
  const BlockFormat& f = from.format;
  const BlockFormat& t = to.format;
  MOEKV_EXPECT(f.n_kv_heads == t.n_kv_heads && f.d_k == t.d_k && f.d_v == t.d_v && f.latent == t.latent);
  MOEKV_EXPECT(n_slots <= f.page_slots && n_slots <= t.page_slots && f.k.scale == ScaleScheme::none);
  for (std::uint32_t head = 0; head < f.n_kv_heads; ++head) {
    std::byte* source = from.head(from_block, head);
    std::byte* target = to.head(to_block, head);
    seal_plane({f.k, source + f.k_codes(), nullptr}, {t.k, target + t.k_codes(), target + t.k_meta()}, f.d_k, n_slots);
    if (!f.latent) seal_plane({f.v, source + f.v_codes(), nullptr}, {t.v, target + t.v_codes(), target + t.v_meta()}, f.d_v, n_slots);
  }
}

}  // namespace moekv
