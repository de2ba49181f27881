// Codes of 4 and 8 bits as pairs of 16-bit floats, exactly and in few operations, as fragments of tensor-core products take them: scales are applied
// to sums. Each pair is two codes of one word that a block of threads loaded.
#pragma once

#include <cstdint>

#include "core/hd.hpp"
#include "core/math.hpp"
#include "rules/codec/format.hpp"

namespace moekv::kernels {

/// Bytes i and j of a word of 8-bit codes, the first in the low half. E4M3 codes that are NaN, which no encoder writes, count as 480.
template <class Block, ElementFormat element, ElementFormat wide>
[[nodiscard]] MOEKV_HD std::uint32_t narrow_byte_pair(std::uint32_t word, std::uint32_t i, std::uint32_t j) {
  constexpr bool bf16 = wide == ElementFormat::bf16;
  if constexpr (element == ElementFormat::fp8_e4m3) {  // sign and magnitude move to their places; the exponent's bias is multiplied away
    const std::uint32_t spread = Block::select_bytes(word, 0, 0x0404U | i << 4 | j << 12);
    const std::uint32_t bits = (spread & 0x80008000U) | (bf16 ? spread >> 4 & 0x07F007F0U : spread >> 1 & 0x3F803F80U);
    return Block::template multiply_add<wide>(bits, bf16 ? 0x7B807B80U : 0x5C005C00U, 0x80008000U);  // 2^120, 2^8; -0 keeps -0
  }
  const std::uint32_t flipped = word ^ 0x80808080U;  // code + 128
  if constexpr (bf16) {                              // the low bits of 2^23 in fp32
    const float low = float_from_bits(Block::select_bytes(flipped, 0x4B000000U, 0x7440U | i)) - 8388736.0F;
    const float high = float_from_bits(Block::select_bytes(flipped, 0x4B000000U, 0x7440U | j)) - 8388736.0F;
    return Block::select_bytes(bits_of(low), bits_of(high), 0x7632U);
  } else {  // the low bits of 1024
    const std::uint32_t bits = Block::select_bytes(flipped, 0x64646464U, 0x4040U | i | j << 8);
    return Block::template multiply_add<wide>(bits, 0x3C003C00U, 0xE480E480U);
  }
}

/// Nibbles 0 and 4 of a word of 4-bit codes.
template <class Block, ElementFormat wide>
[[nodiscard]] MOEKV_HD std::uint32_t narrow_nibble_pair(std::uint32_t word) {
  constexpr bool bf16 = wide == ElementFormat::bf16;  // the low bits of 128, or of 1024
  const std::uint32_t bits = (word & 0x000F000FU) | (bf16 ? 0x43004300U : 0x64006400U);
  return Block::template multiply_add<wide>(bits, bf16 ? 0x3F803F80U : 0x3C003C00U, bf16 ? 0xC300C300U : 0xE400E400U);
}

/// Pair i of the codes of one row that a word holds, in the order of k_channel (warp_tile.hpp).
template <class Block, ElementFormat element, ElementFormat wide>
[[nodiscard]] MOEKV_HD std::uint32_t channel_pair(std::uint32_t word, std::uint32_t i) {
  if constexpr (element == ElementFormat::int4) {
    return narrow_nibble_pair<Block, wide>(word >> (4 * i));
  } else {
    return narrow_byte_pair<Block, element, wide>(word, 2 * i, 2 * i + 1);
  }
}

/// Code i of both rows whose codes make up the halves of a word, in the order of v_channel.
template <class Block, ElementFormat element, ElementFormat wide>
[[nodiscard]] MOEKV_HD std::uint32_t slot_pair(std::uint32_t word, std::uint32_t i) {
  if constexpr (element == ElementFormat::int4) {
    return narrow_nibble_pair<Block, wide>(word >> (4 * i));
  } else {
    return narrow_byte_pair<Block, element, wide>(word, i, i + 2);
  }
}

}  // namespace moekv::kernels
