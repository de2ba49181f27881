// What travels in one exchange: segments of plain structs and payload, one per destination rank, written and read in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "core/error.hpp"

namespace moekv {

/// Dispatch: everything one process sends to one logical rank. Sections follow in the order of the counts, each padded to 16 bytes:
/// EntryHeader[], entry experts u16[][top_k], entry payload, QueryHeader[], query experts u16[][top_k], query payload, lse float[], notices u64[],
/// sources of the notices u32[].
struct DispatchSegment {
  std::uint32_t rank = 0;
  std::uint32_t n_entries = 0, n_queries = 0, n_lse = 0, n_notices = 0;
  std::uint32_t pad[3] = {};
};

struct EntryHeader {
  std::uint32_t request = 0, position = 0, shard = 0;
  std::uint32_t copy = 0;
};

struct QueryHeader {
  std::uint32_t request = 0, position = 0;
  std::uint32_t query = 0;  // index among the home process's queries of this layer
  std::uint16_t probe = 0, observed = 1;
};

/// Combine: everything one process sends back to a home process from one owner rank: PartialHeader[], m and l float[][2 q_count],
/// o [][q_count][d_v] fp32 or bf16, probe words u32[] (query, first query head, heads, n, positions ...).
struct CombineSegment {
  std::uint32_t rank = 0;
  std::uint32_t n_partials = 0, n_probe_words = 0, pad = 0;
};

struct PartialHeader {
  std::uint32_t query = 0;
  std::uint32_t home = 0;
};

/// Appends trivially copyable arrays to a byte list, padding each section to 16 bytes.
class WireWriter {
 public:
  explicit WireWriter(std::vector<std::byte>& bytes) : bytes_(&bytes) {}

  template <class T>
  void put(const T* data, std::size_t n) {
    add(data, n);
    pad();
  }
  /// A piece of a section, which `pad` ends.
  template <class T>
  void add(const T* data, std::size_t n) {
    const auto* bytes = reinterpret_cast<const std::byte*>(data);
    bytes_->insert(bytes_->end(), bytes, bytes + n * sizeof(T));
  }
  void pad() { bytes_->resize(padded(bytes_->size())); }
  /// Room for `n` bytes to be filled by the caller; valid until the next call.
  [[nodiscard]] std::byte* reserve(std::size_t n) {
    const std::size_t begin = bytes_->size();
    bytes_->resize(begin + padded(n));
    return bytes_->data() + begin;
  }

  /// The same for a section of n objects.
  template <class T>
  [[nodiscard]] T* room(std::size_t n) {
    static_assert(alignof(T) <= 16 && std::is_trivially_copyable_v<T>);
    return reinterpret_cast<T*>(reserve(n * sizeof(T)));
  }

  [[nodiscard]] static constexpr std::size_t padded(std::size_t n) { return (n + 15) / 16 * 16; }

 private:
  std::vector<std::byte>* bytes_;
};

/// Reads what WireWriter wrote, in place.
class WireReader {
 public:
  explicit WireReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  [[nodiscard]] bool done() const { return at_ == bytes_.size(); }
  /// Bytes read so far.
  [[nodiscard]] std::size_t at() const { return at_; }
  template <class T>
  [[nodiscard]] std::span<const T> take(std::size_t n) {
    static_assert(alignof(T) <= 16, "sections are aligned to 16 bytes: copy");
    MOEKV_EXPECT(at_ + WireWriter::padded(n * sizeof(T)) <= bytes_.size());
    const auto* data = reinterpret_cast<const T*>(bytes_.data() + at_);
    at_ += WireWriter::padded(n * sizeof(T));
    return {data, n};
  }
  /// The same for types that are aligned to more than the wire.
  template <class T>
  [[nodiscard]] std::vector<T> copy(std::size_t n) {
    std::vector<T> out(n);
    const auto bytes = take<std::byte>(n * sizeof(T));
    if (n > 0) std::memcpy(static_cast<void*>(out.data()), bytes.data(), bytes.size());
    return out;
  }

 private:
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

}  // namespace moekv
