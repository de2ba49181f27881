// Byte and line readers over plain or gzip files: importers read recorded logs of any size in constant memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moekv {

/// How far compressed input may expand before it is refused as a bomb: `free_bytes` always, beyond that `max_ratio` times the bytes read.
struct ExpansionLimit {
  std::uint64_t free_bytes = 256ULL << 20;
  std::uint64_t max_ratio = 400;
};

/// Bytes in order. Errors are UserError naming the file.
class ByteStream {
 public:
  virtual ~ByteStream() = default;
  /// Fills `out` as far as input lasts; returns the number of bytes, less than out.size() only at the end.
  virtual std::size_t read(std::span<std::byte> out) = 0;
  [[nodiscard]] virtual const std::string& name() const = 0;
  /// Bytes taken from the file so far, for progress (compressed size when compressed).
  [[nodiscard]] virtual std::uint64_t consumed_bytes() const = 0;
};

/// Opens a file; gzip (also several members in a row) is recognised by its magic and decompressed while reading.
/// A truncated or damaged gzip file, a directory or a missing file is a UserError.
[[nodiscard]] std::unique_ptr<ByteStream> open_byte_stream(const std::string& path, ExpansionLimit limit = {});

/// The first `n_bytes` (decompressed) of a file, fewer where it is shorter; for recognising formats.
[[nodiscard]] std::string read_head(const std::string& path, std::size_t n_bytes);

/// Lines without their end (LF or CRLF; a byte-order mark at the start is dropped). A line longer than `max_line_bytes` is a UserError.
class LineReader {
 public:
  explicit LineReader(std::unique_ptr<ByteStream> stream, std::size_t max_line_bytes = std::size_t{64} << 20);
  /// False at the end. `line` stays valid until the next call.
  bool next(std::string_view& line);
  [[nodiscard]] std::uint64_t line_number() const { return line_number_; }  // 1-based number of the last line
  /// "file:line" of the last line, for messages.
  [[nodiscard]] std::string place() const;
  [[nodiscard]] const ByteStream& stream() const { return *stream_; }

 private:
  bool fill();

  std::unique_ptr<ByteStream> stream_;
  std::size_t max_line_bytes_;
  std::vector<char> buffer_;
  std::size_t begin_ = 0, end_ = 0;
  bool ended_ = false;
  std::uint64_t line_number_ = 0;
};

}  // namespace moekv
