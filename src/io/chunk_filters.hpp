// Undoes the filters of an HDF5 chunk into a buffer of known size, so that a compressed bomb cannot exhaust memory as it can inside HDF5.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace moekv {

enum class ChunkFilter : std::uint8_t { deflate, shuffle, fletcher32 };

/// Decodes `stored` into `out`, whose size is that of the chunk. `filters` is the pipeline in the order of writing, `skipped` a bit per
/// filter that this chunk did without. Returns what is wrong with the chunk, empty when it is sound.
[[nodiscard]] std::string decode_chunk(std::span<const ChunkFilter> filters, std::uint32_t skipped, std::uint32_t element_bytes,
                                       std::vector<std::byte>& stored, std::span<std::byte> out);

}  // namespace moekv
