// The directory at the end of a zip file, with its 64-bit extensions and the limits against hostile archives.
#include <algorithm>
#include <cstring>

#include "core/error.hpp"
#include "io/zip.hpp"

namespace moekv {
namespace {

constexpr std::uint64_t max_members = 512;  // each open array holds a file descriptor
constexpr std::uint64_t max_directory_bytes = 64ULL << 20;

/// Little-endian integer of n bytes.
std::uint64_t number(std::span<const std::byte> bytes, std::size_t at, std::size_t n) {
  std::uint64_t value = 0;
  for (std::size_t i = n; i-- > 0;) value = value << 8 | static_cast<std::uint64_t>(bytes[at + i]);
  return value;
}

struct Directory {
  std::uint64_t n_members = 0, n_bytes = 0, offset = 0;
};

/// Looks for the end record in the last 64 KiB and follows it to its 64-bit form where there is one.
Directory find_directory(ByteSource& file) {
  const std::uint64_t size = file.size_bytes();
  std::vector<std::byte> tail(std::min<std::uint64_t>(size, 65557));
  const std::uint64_t tail_at = size - tail.size();
  file.read_at(tail_at, tail);
  for (std::size_t i = tail.size() >= 22 ? tail.size() - 22 + 1 : 0; i-- > 0;) {
    if (std::memcmp(tail.data() + i, "PK\x05\x06", 4) != 0) continue;
    Directory found{number(tail, i + 10, 2), number(tail, i + 12, 4), number(tail, i + 16, 4)};
    if (i < 20 || std::memcmp(tail.data() + i - 20, "PK\x06\x07", 4) != 0) return found;
    std::byte end64[56];
    file.read_at(number(tail, i - 20 + 8, 8), end64);
    if (std::memcmp(end64, "PK\x06\x06", 4) != 0) break;
    return {number(end64, 32, 8), number(end64, 40, 8), number(end64, 48, 8)};
  }
  throw UserError(file.name(), "is not a complete zip file: its directory is missing", "it is truncated or no npz; copy it again");
}

/// The 64-bit sizes of an extra field replace those that read 0xFFFFFFFF, in the order size, stored size, offset.
void apply_zip64(std::span<const std::byte> extra, ZipMember& member) {
  for (std::size_t at = 0; at + 4 <= extra.size();) {
    const std::uint64_t id = number(extra, at, 2), length = number(extra, at + 2, 2);
    if (at + 4 + length > extra.size()) return;
    if (id == 1) {
      std::size_t from = at + 4;
      for (std::uint64_t* value : {&member.size_bytes, &member.stored_bytes, &member.header_offset}) {
        if (*value != 0xFFFFFFFFU || from + 8 > at + 4 + length) continue;
        *value = number(extra, from, 8);
        from += 8;
      }
    }
    at += 4 + length;
  }
}

void check_member(const std::string& path, const ZipMember& member, std::uint64_t flags, ExpansionLimit limit) {
  const std::string where = path + ":" + member.name;
  if ((flags & 1) != 0) throw UserError(where, "member is encrypted");
  if (member.method != 0 && member.method != 8) {
    throw UserError(where, "compression method " + std::to_string(member.method) + " is not supported", "allowed: stored (0), deflated (8)");
  }
  if (member.method == 0 && member.stored_bytes != member.size_bytes) throw UserError(where, "stored member with two different sizes");
  if (member.size_bytes > limit.free_bytes && member.size_bytes / limit.max_ratio > member.stored_bytes) {
    throw UserError(where, "would expand to more than " + std::to_string(limit.max_ratio) + " times its size", "looks like a decompression bomb");
  }
}

}  // namespace

ZipArchive::ZipArchive(const std::string& path, ExpansionLimit limit) : path_(path) {
  const auto file = open_file_source(path);
  const Directory directory = find_directory(*file);
  if (directory.n_members > max_members || directory.n_bytes > max_directory_bytes) throw UserError(path, "zip directory is too large");
  std::vector<std::byte> bytes(directory.n_bytes);
  file->read_at(directory.offset, bytes);
  std::size_t at = 0;
  for (std::uint64_t m = 0; m < directory.n_members; ++m) {
    if (at + 46 > bytes.size() || std::memcmp(bytes.data() + at, "PK\x01\x02", 4) != 0) throw UserError(path, "damaged zip directory");
    const std::uint64_t flags = number(bytes, at + 8, 2);
    const std::size_t name = number(bytes, at + 28, 2), extra = number(bytes, at + 30, 2), comment = number(bytes, at + 32, 2);
    if (at + 46 + name + extra + comment > bytes.size()) throw UserError(path, "damaged zip directory");
    ZipMember member;
    member.name.assign(reinterpret_cast<const char*>(bytes.data() + at + 46), name);
    member.method = static_cast<std::uint16_t>(number(bytes, at + 10, 2));
    member.crc32 = static_cast<std::uint32_t>(number(bytes, at + 16, 4));
    member.stored_bytes = number(bytes, at + 20, 4);
    member.size_bytes = number(bytes, at + 24, 4);
    member.header_offset = number(bytes, at + 42, 4);
    apply_zip64(std::span(bytes).subspan(at + 46 + name, extra), member);
    check_member(path, member, flags, limit);
    members_.push_back(std::move(member));
    at += 46 + name + extra + comment;
  }
}

}  // namespace moekv
