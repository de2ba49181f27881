// TarReader: the regular files of a tar archive in stored order, so archived recordings import without unpacking.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "io/gzip.hpp"

namespace moekv {

/// True when the (decompressed) bytes begin with a POSIX or GNU tar header.
[[nodiscard]] bool looks_like_tar(std::string_view head);

struct TarMember {
  std::string name;
  std::uint64_t size_bytes = 0;
};

/// Reads ustar, GNU long names and pax paths. Damaged headers and truncation are UserError naming archive and member.
class TarReader {
 public:
  explicit TarReader(std::unique_ptr<ByteStream> stream) : stream_(std::move(stream)) {}
  /// The next regular file, skipping what is left of the current one; nothing at the end.
  std::optional<TarMember> next();
  /// Reads bytes of the current member; less than out.size() only at the member's end.
  std::size_t read(std::span<std::byte> out);
  [[nodiscard]] const ByteStream& stream() const { return *stream_; }

 private:
  void skip_rest();
  std::string read_text(std::uint64_t n_bytes);
  void read_exactly(std::span<std::byte> out);

  std::unique_ptr<ByteStream> stream_;
  std::string member_;
  std::uint64_t left_bytes_ = 0;     // of the current member
  std::uint64_t padding_bytes_ = 0;  // after it
};

}  // namespace moekv
