// Zip directory and member readers over zlib's raw inflate.
#include "io/zip.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.hpp"
#include "io/file_descriptor.hpp"
#include "io/spool.hpp"

namespace moekv {
namespace {

constexpr std::size_t member_chunk_bytes = 128 << 10;

class FileSource final : public ByteSource {
 public:
  explicit FileSource(const std::string& path) : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (!descriptor_) throw UserError(path, std::string("cannot be opened: ") + std::strerror(errno));
    struct stat facts {};
    if (::fstat(descriptor_.get(), &facts) != 0 || !S_ISREG(facts.st_mode)) throw UserError(path, "is not a regular file");
    size_ = static_cast<std::uint64_t>(facts.st_size);
  }

  [[nodiscard]] std::uint64_t size_bytes() const override { return size_; }
  [[nodiscard]] const std::string& name() const override { return path_; }
  void read_at(std::uint64_t offset, std::span<std::byte> out) override {
    if (offset > size_ || out.size() > size_ - offset) throw UserError(path_, "file ends too early", "it is truncated; copy it again");
    std::size_t done = 0;
    while (done < out.size()) {
      const ssize_t n = ::pread(descriptor_.get(), out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) throw SystemError("pread of " + path_ + ": " + (n < 0 ? std::strerror(errno) : "file shrank while reading"));
      done += static_cast<std::size_t>(n);
    }
  }

 private:
  std::string path_;
  FileDescriptor descriptor_;
  std::uint64_t size_ = 0;
};

/// A stored member: a window of the file. Its checksum is verified when it is opened.
class StoredSource final : public ByteSource {
 public:
  StoredSource(std::unique_ptr<FileSource> file, std::uint64_t begin, const ZipMember& member)
      : file_(std::move(file)), begin_(begin), size_(member.size_bytes), name_(file_->name() + ":" + member.name) {
    std::vector<std::byte> chunk(std::min<std::uint64_t>(member_chunk_bytes, size_));
    uLong crc = ::crc32(0, nullptr, 0);
    for (std::uint64_t at = 0; at < size_; at += chunk.size()) {
      const auto part = std::span(chunk).first(std::min<std::uint64_t>(chunk.size(), size_ - at));
      file_->read_at(begin_ + at, part);
      crc = ::crc32(crc, reinterpret_cast<const Bytef*>(part.data()), static_cast<uInt>(part.size()));
    }
    if (crc != member.crc32) throw UserError(name_, "checksum does not fit", "the file is damaged; copy it again");
  }
  [[nodiscard]] std::uint64_t size_bytes() const override { return size_; }
  [[nodiscard]] const std::string& name() const override { return name_; }
  void read_at(std::uint64_t offset, std::span<std::byte> out) override {
    if (offset > size_ || out.size() > size_ - offset) throw UserError(name_, "member ends too early");
    file_->read_at(begin_ + offset, out);
  }

 private:
  std::unique_ptr<FileSource> file_;
  std::uint64_t begin_, size_;
  std::string name_;
};

/// A deflated member: inflates onward; the first step back unpacks everything into a spool file.
class DeflatedSource final : public ByteSource {
 public:
  DeflatedSource(std::unique_ptr<FileSource> file, std::uint64_t begin, const ZipMember& member)
      : file_(std::move(file)), begin_(begin), member_(member), name_(file_->name() + ":" + member.name), input_(member_chunk_bytes) {
    if (inflateInit2(&z_, -15) != Z_OK) throw SystemError("inflateInit2 failed for " + name_);
    crc_ = ::crc32(0, nullptr, 0);
  }
  ~DeflatedSource() override { inflateEnd(&z_); }
  DeflatedSource(const DeflatedSource&) = delete;
  DeflatedSource& operator=(const DeflatedSource&) = delete;

  [[nodiscard]] std::uint64_t size_bytes() const override { return member_.size_bytes; }
  [[nodiscard]] const std::string& name() const override { return name_; }
  void read_at(std::uint64_t offset, std::span<std::byte> out) override {
    if (offset > member_.size_bytes || out.size() > member_.size_bytes - offset) throw UserError(name_, "member ends too early");
    if (offset < position_ && !spool_) unpack();
    if (spool_) {
      spool_->read_at(offset, out);
      return;
    }
    std::vector<std::byte> skipped(std::min<std::uint64_t>(offset - position_, member_chunk_bytes));
    while (position_ < offset) inflate_into(std::span(skipped).first(std::min<std::uint64_t>(skipped.size(), offset - position_)));
    inflate_into(out);
  }

 private:
  void unpack() {
    inflateReset(&z_);
    z_.avail_in = 0;
    taken_ = position_ = 0;
    crc_ = ::crc32(0, nullptr, 0);
    auto spool = std::make_unique<SpoolFile>();
    std::vector<std::byte> chunk(member_chunk_bytes);
    while (position_ < member_.size_bytes) {
      const auto part = std::span(chunk).first(std::min<std::uint64_t>(chunk.size(), member_.size_bytes - position_));
      inflate_into(part);
      spool->append(part);
    }
    spool->flush();
    spool_ = std::move(spool);
  }
  void inflate_into(std::span<std::byte> out) {
    std::size_t done = 0;
    while (done < out.size()) {
      if (z_.avail_in == 0) {
        const std::uint64_t n = std::min<std::uint64_t>(input_.size(), member_.stored_bytes - taken_);
        if (n == 0) throw UserError(name_, "compressed data ends too early", "the file is damaged; copy it again");
        file_->read_at(begin_ + taken_, std::as_writable_bytes(std::span(input_)).first(n));
        taken_ += n;
        z_.next_in = input_.data();
        z_.avail_in = static_cast<uInt>(n);
      }
      const std::size_t room = std::min<std::size_t>(out.size() - done, 1U << 30);
      z_.next_out = reinterpret_cast<Bytef*>(out.data() + done);
      z_.avail_out = static_cast<uInt>(room);
      const int status = ::inflate(&z_, Z_NO_FLUSH);
      const std::size_t made = room - z_.avail_out;
      crc_ = ::crc32(crc_, reinterpret_cast<const Bytef*>(out.data() + done), static_cast<uInt>(made));
      done += made;
      position_ += made;
      if (status == Z_STREAM_END && done < out.size()) throw UserError(name_, "compressed data ends too early", "the file is damaged; copy it again");
      if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) throw UserError(name_, "damaged compressed data", "copy the file again");
    }
    if (position_ == member_.size_bytes && crc_ != member_.crc32)
      throw UserError(name_, "checksum does not fit", "the file is damaged; copy it again");
  }

  std::unique_ptr<FileSource> file_;
  std::uint64_t begin_;
  ZipMember member_;
  std::string name_;
  std::vector<Bytef> input_;
  z_stream z_{};
  uLong crc_ = 0;
  std::uint64_t taken_ = 0, position_ = 0;
  std::unique_ptr<SpoolFile> spool_;
};

}  // namespace

std::unique_ptr<ByteSource> open_file_source(const std::string& path) { return std::make_unique<FileSource>(path); }

std::unique_ptr<ByteSource> ZipArchive::open(const ZipMember& member) const {
  auto file = std::make_unique<FileSource>(path_);
  std::byte header[30];
  file->read_at(member.header_offset, header);
  const auto u16 = [&](std::size_t at) { return static_cast<std::uint64_t>(header[at]) | static_cast<std::uint64_t>(header[at + 1]) << 8; };
  if (std::memcmp(header, "PK\x03\x04", 4) != 0) throw UserError(path_ + ":" + member.name, "member has no local header", "the file is damaged");
  const std::uint64_t begin = member.header_offset + 30 + u16(26) + u16(28);
  if (begin > file->size_bytes() || member.stored_bytes > file->size_bytes() - begin) {
    throw UserError(path_ + ":" + member.name, "member reaches beyond the end of the file", "it is truncated; copy it again");
  }
  if (member.method == 0) return std::make_unique<StoredSource>(std::move(file), begin, member);
  return std::make_unique<DeflatedSource>(std::move(file), begin, member);
}

}  // namespace moekv
