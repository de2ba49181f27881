// Sealing on the host: encodes the rows of a raw block into a block of another format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "device/page_pool.hpp"

namespace moekv {

/// Encodes slots [0, n_slots) of every KV head of block `from_block` into block `to_block`. Both pools have the same heads and dimensions.
/// Tables that the target's pages share exist; those that lie in the page are made here.
void seal_block(const PoolView& from, std::uint32_t from_block, const PoolView& to, std::uint32_t to_block, std::uint32_t n_slots);

/// Makes the tables that the target's pages share (BlockFormat::shared_bytes at `tables`) from the rows of raw blocks.
/// `ops` seal into one pool with one key. Queries of SealOp count where the fit wants them.
void fit_shared_tables(const PoolView& from, const BlockFormat& to, std::span<const SealOp* const> ops, std::byte* tables);

/// Rows of one plane of one KV head. `meta` may be null where the format has none.
struct PlaneRows {
  PlaneFormat format;
  std::byte* codes;
  std::byte* meta;
};

/// Encodes n rows of d raw values, bit for bit as encode_plane does; by SIMD where it knows the format and d. Maps are not applied.
void encode_rows(const PlaneRows& from, const PlaneRows& to, std::uint32_t d, std::uint32_t n);

}  // namespace moekv
