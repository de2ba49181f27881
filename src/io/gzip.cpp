// Plain and gzip byte streams over zlib, and the line reader on top of them.
#include "io/gzip.hpp"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "core/error.hpp"

namespace moekv {
namespace {

constexpr std::size_t chunk_bytes = 256 << 10;

struct CloseFile {
  void operator()(std::FILE* f) const { std::fclose(f); }
};
using FilePtr = std::unique_ptr<std::FILE, CloseFile>;

FilePtr open_file(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) throw UserError(path, "is a directory, not a file");
  FilePtr file(std::fopen(path.c_str(), "rb"));
  if (!file) throw UserError(path, std::string("cannot be opened: ") + std::strerror(errno));
  return file;
}

std::size_t read_file(std::FILE* file, std::span<std::byte> out, const std::string& path) {
  const std::size_t n = std::fread(out.data(), 1, out.size(), file);
  if (n < out.size() && std::ferror(file) != 0) throw SystemError(path + ": read failed: " + std::strerror(errno));
  return n;
}

class PlainStream final : public ByteStream {
 public:
  PlainStream(FilePtr file, std::string path) : file_(std::move(file)), path_(std::move(path)) {}
  std::size_t read(std::span<std::byte> out) override {
    const std::size_t n = read_file(file_.get(), out, path_);
    consumed_ += n;
    return n;
  }
  [[nodiscard]] const std::string& name() const override { return path_; }
  [[nodiscard]] std::uint64_t consumed_bytes() const override { return consumed_; }

 private:
  FilePtr file_;
  std::string path_;
  std::uint64_t consumed_ = 0;
};

class GzipStream final : public ByteStream {
 public:
  GzipStream(FilePtr file, std::string path, ExpansionLimit limit)
      : file_(std::move(file)), path_(std::move(path)), limit_(limit), input_(chunk_bytes) {
    if (inflateInit2(&z_, 15 + 16) != Z_OK) throw SystemError("inflateInit2 failed for " + path_);
  }
  ~GzipStream() override { inflateEnd(&z_); }
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;

  std::size_t read(std::span<std::byte> out) override {
    std::size_t done = 0;
    while (done < out.size() && !finished_) {
      if (z_.avail_in == 0) refill();
      const std::size_t room = std::min<std::size_t>(out.size() - done, 1U << 30);
      z_.next_out = reinterpret_cast<Bytef*>(out.data() + done);
      z_.avail_out = static_cast<uInt>(room);
      const int status = inflate(&z_, Z_NO_FLUSH);
      const std::size_t made = room - z_.avail_out;
      done += made;
      produced_ += made;
      if (status == Z_STREAM_END) {
        next_member();
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        throw UserError(path_, std::string("damaged gzip data: ") + (z_.msg != nullptr ? z_.msg : "unknown"), "copy the file again");
      }
      if (produced_ > limit_.free_bytes && produced_ / limit_.max_ratio > consumed_) {
        throw UserError(path_, "expands to more than " + std::to_string(limit_.max_ratio) + " times its size",
                        "looks like a decompression bomb; decompress it yourself if it is not");
      }
    }
    return done;
  }
  [[nodiscard]] const std::string& name() const override { return path_; }
  [[nodiscard]] std::uint64_t consumed_bytes() const override { return consumed_; }

 private:
  void refill() {
    const std::size_t n = read_file(file_.get(), std::as_writable_bytes(std::span(input_)), path_);
    if (n == 0) throw UserError(path_, "gzip data ends in the middle", "the file is truncated; copy it again");
    consumed_ += n;
    z_.next_in = input_.data();
    z_.avail_in = static_cast<uInt>(n);
  }
  /// After a member's end: another member, zero padding, or the end of the file.
  void next_member() {
    if (z_.avail_in == 0) {
      const std::size_t n = read_file(file_.get(), std::as_writable_bytes(std::span(input_)), path_);
      consumed_ += n;
      z_.next_in = input_.data();
      z_.avail_in = static_cast<uInt>(n);
    }
    if (z_.avail_in == 0 || *z_.next_in == 0) {
      finished_ = true;
    } else {
      inflateReset(&z_);
    }
  }

  FilePtr file_;
  std::string path_;
  ExpansionLimit limit_;
  std::vector<Bytef> input_;
  z_stream z_{};
  std::uint64_t consumed_ = 0, produced_ = 0;
  bool finished_ = false;
};

}  // namespace

std::unique_ptr<ByteStream> open_byte_stream(const std::string& path, ExpansionLimit limit) {
  FilePtr file = open_file(path);
  unsigned char magic[2] = {0, 0};
  const std::size_t n = std::fread(magic, 1, 2, file.get());
  if (std::fseek(file.get(), 0, SEEK_SET) != 0) throw UserError(path, "is not a seekable file", "give a regular file, not a pipe");
  if (n == 2 && magic[0] == 0x1F && magic[1] == 0x8B) return std::make_unique<GzipStream>(std::move(file), path, limit);
  return std::make_unique<PlainStream>(std::move(file), path);
}

std::string read_head(const std::string& path, std::size_t n_bytes) {
  std::string head(n_bytes, '\0');
  head.resize(open_byte_stream(path)->read(std::as_writable_bytes(std::span(head))));
  return head;
}

LineReader::LineReader(std::unique_ptr<ByteStream> stream, std::size_t max_line_bytes)
    : stream_(std::move(stream)), max_line_bytes_(max_line_bytes), buffer_(std::min(max_line_bytes, chunk_bytes)) {}

/// Makes room behind the unread bytes and reads more; false when there is no more.
bool LineReader::fill() {
  if (ended_) return false;
  if (begin_ > 0) {
    std::copy(buffer_.begin() + static_cast<std::ptrdiff_t>(begin_), buffer_.begin() + static_cast<std::ptrdiff_t>(end_), buffer_.begin());
    end_ -= begin_;
    begin_ = 0;
  }
  if (end_ == buffer_.size()) {
    if (buffer_.size() >= max_line_bytes_) {
      throw UserError(stream_->name() + ":" + std::to_string(line_number_ + 1), "line is longer than " + std::to_string(max_line_bytes_) + " bytes",
                      "is this the right format?");
    }
    buffer_.resize(std::min(buffer_.size() * 2, max_line_bytes_));
  }
  const std::size_t n = stream_->read(std::as_writable_bytes(std::span(buffer_).subspan(end_)));
  end_ += n;
  ended_ = n == 0;
  return n > 0;
}

bool LineReader::next(std::string_view& line) {
  std::size_t scanned = 0;
  for (;;) {
    const char* from = buffer_.data() + begin_ + scanned;
    const void* newline = std::memchr(from, '\n', end_ - begin_ - scanned);
    if (newline == nullptr) {
      scanned = end_ - begin_;
      if (fill()) continue;
      if (begin_ == end_) return false;
    }
    const std::size_t length =
        newline != nullptr ? static_cast<std::size_t>(static_cast<const char*>(newline) - (buffer_.data() + begin_)) : end_ - begin_;
    line = std::string_view(buffer_.data() + begin_, length);
    begin_ += length + (newline != nullptr ? 1 : 0);
    ++line_number_;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line_number_ == 1 && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);
    return true;
  }
}

std::string LineReader::place() const { return stream_->name() + ":" + std::to_string(line_number_); }

}  // namespace moekv
