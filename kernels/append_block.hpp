// Writing entries into raw blocks, and widening the bounds of their keys.
#pragma once

#include "launches.hpp"
#include "rules/codec/element.hpp"
#include "rules/select/rule.hpp"

namespace moekv::kernels {

template <class Word, class Block>
MOEKV_HD void copy_words(Block& block, std::byte* to, std::uint64_t stride, const std::byte* from, std::uint32_t n, std::uint32_t n_rows) {
  const std::uint32_t words = n / static_cast<std::uint32_t>(sizeof(Word));
  block.free_each([&](unsigned t) {
    for (std::uint32_t i = t; i < words * n_rows; i += block.n_threads())
      reinterpret_cast<Word*>(to + i / words * stride)[i % words] = reinterpret_cast<const Word*>(from)[i];
  });
}

/// Copies rows of n bytes, one after another in `from` and `stride` apart in `to`, in the widest words that sizes and addresses allow.
template <class Block>
MOEKV_HD void copy_rows(Block& block, std::byte* to, std::uint64_t stride, const std::byte* from, std::uint32_t n, std::uint32_t n_rows) {
  using Wide = typename Block::Wide;
  const std::uint64_t all = reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from) | stride | n;
  if (all % sizeof(Wide) == 0) return copy_words<Wide>(block, to, stride, from, n, n_rows);
  copy_words<std::byte>(block, to, stride, from, n, n_rows);
}

template <class Block>
MOEKV_HD void append_block(Block& block, const AppendLaunch& work) {
  const AppendItem& item = work.items[block.index()];
  const PoolLayout& pool = work.pools[item.pool];
  const auto copy = [&](const PlaneLayout& plane, const std::byte* from) {
    copy_rows(block, item.block + plane.codes + std::uint64_t{item.slot} * plane.row_bytes, pool.head_bytes, from, plane.row_bytes, pool.n_kv_heads);
  };
  copy(pool.k, item.k);
  if (!pool.latent) copy(pool.v, item.v);
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
