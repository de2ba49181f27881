// What a sealed block holds, slot by slot, and how far that is from the raw block it was made of.
#pragma once

#include <cstdint>

#include "device/page_pool.hpp"

namespace moekv {

/// Decodes one slot of one KV head to fp32: k [d_k], v [d_v] (from k for MLA).
void read_slot(const PoolView& pool, std::uint32_t block, std::uint32_t head, std::uint32_t slot, float* k, float* v);

/// Compares block `block` of `to` with the raw block that `op` names, by the queries of `op` where it has any.
[[nodiscard]] SealAudit audit_block(const SealOp& op, const PoolView& from, const PoolView& to, std::uint32_t block, float scale);

}  // namespace moekv
