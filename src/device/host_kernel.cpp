// The kernel of host attention: one run of pages for one KV head, entry by entry.
#include <cstring>

#include "device/host_attend.hpp"
#include "rules/attend.hpp"
#include "rules/codec/row.hpp"

namespace moekv {
namespace {

bool is_read(const AttendRun& run, const PageRead& page, std::uint32_t slot) {
  return page.mask == PageRead::all_slots || (run.masks[page.mask + slot / 64] >> (slot % 64) & 1U) != 0;
}

}  // namespace

void attend_run(const AttendRun& run, AttendScratch& scratch) {
  scratch.values.resize(std::size_t{run.group} * run.d_k + run.d_k + run.d_v);
  float* q = scratch.values.data();
  float* k = q + std::size_t{run.group} * run.d_k;
  float* v = k + run.d_k;
  for (std::uint32_t g = 0; g < run.group; ++g) {
    for (std::uint32_t c = 0; c < run.d_k; ++c) q[g * run.d_k + c] = load_raw(run.q_format, run.q, g * run.d_k + c);
    run.m[g] = SoftmaxState{}.m;
    run.l[g] = 0.0F;
    std::memset(run.o + std::size_t{g} * run.d_v, 0, run.d_v * sizeof(float));
  }
  std::uint64_t first_slot = 0;
  for (const PageRead& page : run.pages) {
    const PoolView& pool = run.pools[page.block.pool.value];
    const BlockFormat& f = pool.format;
    const std::byte* head = pool.head(page.block.index, run.kv_head);
    for (std::uint32_t slot = 0; slot < page.n_slots; ++slot) {
      const bool read = is_read(run, page, slot);
      if (read) {
        decode_row(f.k, head + f.k_codes() + slot * code_bytes(f.k, f.d_k), head + f.k_meta() + slot * meta_bytes(f.k), run.d_k, k);
        if (!f.latent) {
          decode_row(f.v, head + f.v_codes() + slot * code_bytes(f.v, f.d_v), head + f.v_meta() + slot * meta_bytes(f.v), run.d_v, v);
        }
      }
      for (std::uint32_t g = 0; g < run.group; ++g) {
        const float logit = read ? run.scale * dot(q + std::size_t{g} * run.d_k, k, run.d_k) : SoftmaxState{}.m;
        if (run.logits != nullptr) run.logits[g * run.logits_stride + first_slot + slot] = logit;
        SoftmaxState state{run.m[g], run.l[g]};
        if (read) attend_entry(state, run.o + std::size_t{g} * run.d_v, logit, f.latent ? k : v, run.d_v);
        run.m[g] = state.m;
        run.l[g] = state.l;
      }
    }
    first_slot += page.n_slots;
  }
}

}  // namespace moekv
