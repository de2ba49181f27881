// ZipArchive: the members of a zip file (stored or deflated, zip64) as byte sources; numpy's npz is such a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/gzip.hpp"

namespace moekv {

struct ZipMember {
  std::string name;
  std::uint16_t method = 0;  // 0 stored, 8 deflated
  std::uint32_t crc32 = 0;
  std::uint64_t stored_bytes = 0;
  std::uint64_t size_bytes = 0;
  std::uint64_t header_offset = 0;
};

/// Bytes with random access. Reading onward is cheap; going back in deflated data unpacks it once to a temporary file.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  [[nodiscard]] virtual std::uint64_t size_bytes() const = 0;
  /// Fills `out` from `offset`; beyond the end, truncated or damaged data (checksum) is a UserError naming file and member.
  virtual void read_at(std::uint64_t offset, std::span<std::byte> out) = 0;
  [[nodiscard]] virtual const std::string& name() const = 0;  // "file" or "file:member"
};

/// A whole file as a source.
[[nodiscard]] std::unique_ptr<ByteSource> open_file_source(const std::string& path);

class ZipArchive {
 public:
  /// Reads the directory. Not a zip, truncated, encrypted, another compression method, over 512 members or a member that
  /// claims to expand beyond `limit` is a UserError naming the file and member.
  explicit ZipArchive(const std::string& path, ExpansionLimit limit = {});
  [[nodiscard]] const std::vector<ZipMember>& members() const { return members_; }
  [[nodiscard]] std::unique_ptr<ByteSource> open(const ZipMember& member) const;

 private:
  std::string path_;
  std::vector<ZipMember> members_;
};

}  // namespace moekv
