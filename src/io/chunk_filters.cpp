// deflate (zlib), byte shuffle and the fletcher32 checksum, backwards.
#include "io/chunk_filters.hpp"

#include <zlib.h>

#include <algorithm>
#include <cstring>

namespace moekv {
namespace {

constexpr std::size_t checksum_bytes = 4;

/// HDF5's fletcher32: 16-bit big-endian words, sums modulo 65535, an odd last byte is the high half of a word.
std::uint32_t fletcher32(std::span<const std::byte> data) {
  std::uint32_t a = 0;
  std::uint32_t b = 0;
  const auto fold = [](std::uint32_t s) { return (s & 0xFFFFU) + (s >> 16); };
  std::size_t i = 0;
  while (i + 1 < data.size()) {
    const std::size_t stop = std::min(data.size() - 1, i + 720);  // 360 words: the sums stay below 2^32
    for (; i < stop; i += 2) {
      a += std::to_integer<std::uint32_t>(data[i]) << 8 | std::to_integer<std::uint32_t>(data[i + 1]);
      b += a;
    }
    a = fold(a);
    b = fold(b);
  }
  if (i < data.size()) {
    a += std::to_integer<std::uint32_t>(data[i]) << 8;
    b += a;
    a = fold(a);
    b = fold(b);
  }
  return fold(b) << 16 | fold(a);
}

std::string undo_fletcher32(std::vector<std::byte>& data) {
  if (data.size() < checksum_bytes) return "is shorter than its checksum";
  std::uint32_t stored = 0;
  for (std::size_t i = 0; i < checksum_bytes; ++i) {
    stored |= std::to_integer<std::uint32_t>(data[data.size() - checksum_bytes + i]) << (8 * i);
  }
  data.resize(data.size() - checksum_bytes);
  return fletcher32(data) == stored ? "" : "does not match its checksum";
}

void undo_shuffle(std::vector<std::byte>& data, std::uint32_t element_bytes) {
  const std::size_t n = data.size() / element_bytes;
  if (element_bytes < 2 || n < 2) return;
  std::vector<std::byte> plain(data.size());
  for (std::uint32_t b = 0; b < element_bytes; ++b) {
    const std::byte* from = data.data() + b * n;
    std::byte* to = plain.data() + b;
    for (std::size_t i = 0; i < n; ++i) to[i * element_bytes] = from[i];
  }
  std::copy(data.begin() + static_cast<std::ptrdiff_t>(n * element_bytes), data.end(),
            plain.begin() + static_cast<std::ptrdiff_t>(n * element_bytes));
  data.swap(plain);
}

std::string undo_deflate(std::vector<std::byte>& data, std::size_t expected_bytes) {
  std::vector<std::byte> plain(expected_bytes);
  z_stream stream{};
  if (inflateInit(&stream) != Z_OK) return "cannot be inflated: zlib has no memory";
  stream.next_in = reinterpret_cast<Bytef*>(data.data());
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(plain.data());
  stream.avail_out = static_cast<uInt>(plain.size());
  const int status = inflate(&stream, Z_FINISH);
  const bool whole = status == Z_STREAM_END && stream.avail_out == 0;
  inflateEnd(&stream);
  if (!whole) return status == Z_DATA_ERROR ? "is not valid deflate data" : "inflates to another size than the chunk's";
  data.swap(plain);
  return "";
}

}  // namespace

std::string decode_chunk(std::span<const ChunkFilter> filters, std::uint32_t skipped, std::uint32_t element_bytes, std::vector<std::byte>& stored,
                         std::span<std::byte> out) {
  std::vector<std::size_t> size_before(filters.size());  // what each filter was given when the chunk was written; known up to deflate
  std::size_t size = out.size();
  for (std::size_t i = 0; i < filters.size(); ++i) {
    size_before[i] = size;
    if (filters[i] == ChunkFilter::fletcher32 && (skipped >> i & 1U) == 0) size += checksum_bytes;
  }
  for (std::size_t i = filters.size(); i-- > 0;) {
    if ((skipped >> i & 1U) != 0) continue;
    std::string problem;
    if (filters[i] == ChunkFilter::fletcher32) problem = undo_fletcher32(stored);
    if (filters[i] == ChunkFilter::shuffle) undo_shuffle(stored, element_bytes);
    if (filters[i] == ChunkFilter::deflate) problem = undo_deflate(stored, size_before[i]);
    if (!problem.empty()) return problem;
  }
  if (stored.size() != out.size()) return "has " + std::to_string(stored.size()) + " bytes instead of " + std::to_string(out.size());
  std::memcpy(out.data(), stored.data(), out.size());
  return "";
}

}  // namespace moekv
