// SpoolFile: an anonymous temporary file for data that arrives in another order than it is needed; disk instead of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace moekv {

/// Created in $TMPDIR (default /tmp) without a name, so nothing remains after any kind of exit. Failures are SystemError naming the call.
class SpoolFile {
 public:
  SpoolFile();
  ~SpoolFile();
  SpoolFile(const SpoolFile&) = delete;
  SpoolFile& operator=(const SpoolFile&) = delete;

  void append(std::span<const std::byte> bytes);
  /// Writes buffered bytes to the file; needed before `read_at` and `map`.
  void flush();
  [[nodiscard]] std::uint64_t size_bytes() const { return size_bytes_; }
  /// Fills `out` from `offset`; the range must lie inside the file.
  void read_at(std::uint64_t offset, std::span<std::byte> out) const;
  /// The file extended to `n_bytes` with zeros and mapped for reading and writing; its pages are the kernel's to keep or write out.
  [[nodiscard]] std::span<std::byte> map(std::uint64_t n_bytes);

 private:
  int descriptor_ = -1;
  std::uint64_t size_bytes_ = 0;
  std::size_t pending_ = 0;
  std::byte* mapped_ = nullptr;
  std::uint64_t mapped_bytes_ = 0;
  std::byte buffer_[1 << 16];
};

}  // namespace moekv
