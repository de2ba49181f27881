// Writing entries into raw blocks, and widening the bounds of their keys.
#pragma once

#include "launches.hpp"
#include "rules/codec/element.hpp"
#include "rules/select/rule.hpp"

namespace moekv::kernels {

/// Rows of `bytes` bytes, one after another in `from` and `stride` apart in `to`.
struct RowCopy {
  std::byte* to;
  const std::byte* from;
  std::uint64_t stride;
  std::uint32_t bytes;

  template <class Word>
  MOEKV_HD void copy(std::uint32_t i) const {
    const std::uint32_t words = bytes / static_cast<std::uint32_t>(sizeof(Word));
    reinterpret_cast<Word*>(to + i / words * stride)[i % words] = reinterpret_cast<const Word*>(from)[i];
  }
};

/// Copies n_rows rows of two planes at once, in the widest words that sizes and addresses allow.
template <class Word, class Block>
MOEKV_HD void copy_rows(Block& block, const RowCopy& k, const RowCopy& v, std::uint32_t n_rows) {
  const std::uint32_t of_k = k.bytes / static_cast<std::uint32_t>(sizeof(Word)) * n_rows,
                      of_v = v.bytes / static_cast<std::uint32_t>(sizeof(Word)) * n_rows;
  block.free_each([&](unsigned t) {
    for (std::uint32_t i = t; i < of_k + of_v; i += block.n_threads()) {
      if (i < of_k) {
        k.template copy<Word>(i);
      } else {
        v.template copy<Word>(i - of_k);
      }
    }
  });
}

template <class Block>
MOEKV_HD void append_block(Block& block, const AppendLaunch& work) {
  const AppendItem item = work.items[block.index()];
  const PoolLayout& pool = work.pools[item.pool];
  const auto plane = [&](const PlaneLayout& p, const std::byte* from) {
    return RowCopy{item.block + p.codes + std::uint64_t{item.slot} * p.row_bytes, from, pool.head_bytes, p.row_bytes};
  };
  const RowCopy k = plane(pool.k, item.k), v = pool.latent ? RowCopy{k.to, k.from, k.stride, 0} : plane(pool.v, item.v);
  const auto bits = [](const RowCopy& rows) {
    return reinterpret_cast<std::uintptr_t>(rows.to) | reinterpret_cast<std::uintptr_t>(rows.from) | rows.bytes;
  };
  const std::uint64_t all = bits(k) | bits(v) | k.stride;
  using Wide = typename Block::Wide;
  if (all % sizeof(Wide) == 0) return copy_rows<Wide>(block, k, v, pool.n_kv_heads);
  copy_rows<std::byte>(block, k, v, pool.n_kv_heads);
}

/// Code of element c of a raw row, as bits.
MOEKV_HD std::uint32_t raw_code(ElementFormat format, const std::byte* row, std::uint32_t c) {
  if (format != ElementFormat::fp32) return load_u16(row + 2 * std::size_t{c});
  return load_u16(row + 4 * std::size_t{c}) | static_cast<std::uint32_t>(load_u16(row + 4 * std::size_t{c} + 2)) << 16;
}
MOEKV_HD void put_raw_code(ElementFormat format, std::byte* row, std::uint32_t c, std::uint32_t code) {
  if (format != ElementFormat::fp32) return store_u16(row + 2 * std::size_t{c}, static_cast<std::uint16_t>(code));
  store_u16(row + 4 * std::size_t{c}, static_cast<std::uint16_t>(code));
  store_u16(row + 4 * std::size_t{c} + 2, static_cast<std::uint16_t>(code >> 16));
}
MOEKV_HD float raw_value(ElementFormat format, std::uint32_t code) {
  if (format == ElementFormat::fp32) return float_from_bits(code);
  const auto half = static_cast<std::uint16_t>(code);
  return format == ElementFormat::bf16 ? float_from_bf16(half) : float_from_fp16(half);
}

/// One thread takes one channel of one head through all keys, in their order. A code moves in where its value lies outside.
template <class Block>
MOEKV_HD void widen_block(Block& block, const WidenLaunch& work) {
  const WidenItem& item = work.items[block.index()];
  const PoolLayout& pool = work.pools[item.pool];
  const ElementFormat format = pool.bounds_element;
  const std::uint32_t d = pool.k.d;
  const std::uint64_t side = pool.bounds_head_bytes / 2;
  block.free_each([&](unsigned t) {
    for (std::uint32_t i = t; i < pool.n_kv_heads * d; i += block.n_threads()) {
      const std::uint32_t head = i / d, c = i % d;
      std::byte* low = item.bounds + head * pool.bounds_head_bytes;
      std::byte* high = low + side;
      std::uint32_t low_code = raw_code(format, low, c), high_code = raw_code(format, high, c);
      for (std::uint32_t key = item.fresh < item.n ? item.fresh : 0; key < item.n; ++key) {
        const std::uint32_t code = raw_code(format, work.keys[item.first + key] + head * side, c);
        if (key == item.fresh) {
          low_code = high_code = code;
          continue;
        }
        const float before_low = raw_value(format, low_code), before_high = raw_value(format, high_code);
        float new_low = before_low, new_high = before_high;
        select::widen(raw_value(format, code), new_low, new_high);
        if (new_low < before_low) low_code = code;
        if (new_high > before_high) high_code = code;
      }
      put_raw_code(format, low, c, low_code);
      put_raw_code(format, high, c, high_code);
    }
  });
}

}  // namespace moekv::kernels
