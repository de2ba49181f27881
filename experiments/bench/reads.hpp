// The memory baselines of host_bench: streaming reads, random page reads and copies on the bench's own buffers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace moekv::bench {

/// Zeroed memory on huge pages where the system grants them, touched once.
class Arena {
 public:
  explicit Arena(std::size_t bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return bytes_; }

 private:
  std::byte* data_;
  std::size_t bytes_;
};

/// Sum of the 64-bit words of [data, data + bytes); bytes is a multiple of 8.
[[nodiscard]] std::uint64_t sum_words(const std::byte* data, std::size_t bytes);

/// Reads the pieces data + offsets[i], `bytes` each, on `n_threads` threads (each a contiguous part of the list).
[[nodiscard]] std::uint64_t read_pieces(const std::byte* data, const std::vector<std::size_t>& offsets, std::size_t first, std::size_t n,
                                        std::size_t bytes, int n_threads);

/// Reads [data, data + bytes) as eight interleaved streams per thread.
[[nodiscard]] std::uint64_t read_streams(const std::byte* data, std::size_t bytes, int n_threads);

/// memcpy divided over threads.
void copy(std::byte* to, const std::byte* from, std::size_t bytes, int n_threads);

}  // namespace moekv::bench
