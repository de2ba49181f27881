// Blocks are sealed plane by plane; planes that keep their format are copied.
#include "device/seal.hpp"

#include <cstring>

#include "core/error.hpp"

namespace moekv {
namespace {

void seal_plane(const PlaneRows& from, const PlaneRows& to, std::uint32_t d, std::uint32_t n_slots) {
  if (from.format == to.format) {
    std::memcpy(to.codes, from.codes, std::size_t{code_bytes(from.format, d)} * n_slots);
  } else {
    encode_rows(from, to, d, n_slots);
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
