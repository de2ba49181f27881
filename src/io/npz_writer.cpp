// Zip64 records around NumPy arrays; sizes and checksums are filled in behind each member.
#include "io/npz_writer.hpp"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t in_zip64_field = 0xFFFFFFFFU;
constexpr std::uint16_t version_zip64 = 45;
constexpr std::uint16_t date_1980 = 0x21;  // the first date that zip knows: equal data, equal bytes

template <class T>
void append(std::string& out, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>(static_cast<std::uint64_t>(value) >> (8 * i) & 0xFFU);
}

/// The record before a member; its extra field holds the sizes.
std::string local_header(const std::string& name, std::uint64_t n_bytes, std::uint32_t crc) {
  std::string h = "PK\x03\x04";
  append(h, version_zip64);
  append(h, std::uint32_t{0});  // flags, method stored
  append(h, std::uint16_t{0});
  append(h, date_1980);
  append(h, crc);
  append(h, in_zip64_field);
  append(h, in_zip64_field);
  append(h, static_cast<std::uint16_t>(name.size()));
  append(h, std::uint16_t{20});
  h += name;
  append(h, std::uint16_t{1});
  append(h, std::uint16_t{16});
  append(h, n_bytes);
  append(h, n_bytes);
  return h;
}

std::string directory_entry(const std::string& name, std::uint64_t offset, std::uint64_t n_bytes, std::uint32_t crc) {
  std::string h = "PK\x01\x02";
  append(h, version_zip64);
  append(h, version_zip64);
  append(h, std::uint32_t{0});
  append(h, std::uint16_t{0});
  append(h, date_1980);
  append(h, crc);
  append(h, in_zip64_field);
  append(h, in_zip64_field);
  append(h, static_cast<std::uint16_t>(name.size()));
  append(h, std::uint16_t{28});
  append(h, std::uint64_t{0});  // comment, disk, internal and the first half of external attributes
  append(h, std::uint16_t{0});
  append(h, in_zip64_field);
  h += name;
  append(h, std::uint16_t{1});
  append(h, std::uint16_t{24});
  append(h, n_bytes);
  append(h, n_bytes);
  append(h, offset);
  return h;
}

/// Both end records: zip64's, its locator, and the old one that points to them.
std::string end_records(std::uint64_t n_members, std::uint64_t directory_offset, std::uint64_t directory_bytes) {
  std::string h = "PK\x06\x06";
  append(h, std::uint64_t{44});
  append(h, version_zip64);
  append(h, version_zip64);
  append(h, std::uint64_t{0});
  append(h, n_members);
  append(h, n_members);
  append(h, directory_bytes);
  append(h, directory_offset);
  h += "PK\x06\x07";
  append(h, std::uint32_t{0});
  append(h, directory_offset + directory_bytes);
  append(h, std::uint32_t{1});
  h += "PK\x05\x06";
  append(h, std::uint32_t{0});
  append(h, std::uint16_t{0xFFFF});
  append(h, std::uint16_t{0xFFFF});
  append(h, in_zip64_field);
  append(h, in_zip64_field);
  append(h, std::uint16_t{0});
  return h;
}

/// Magic, version 1.0 and the dictionary, padded to 64 bytes.
std::string npy_header(std::string_view descr, const std::vector<std::uint64_t>& shape) {
  std::string dictionary =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}", descr, fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  dictionary.resize((10 + dictionary.size() + 1 + 63) / 64 * 64 - 11, ' ');
  dictionary += '\n';
  std::string h = "\x93NUMPY\x01";
  h += '\0';
  append(h, static_cast<std::uint16_t>(dictionary.size()));
  return h + dictionary;
}

}  // namespace

NpzWriter::NpzWriter(std::string path) : path_(std::move(path)), out_(path_, std::ios::binary | std::ios::trunc) { put(""); }

void NpzWriter::put(const std::string& bytes) {
  out_.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!out_) throw SystemError(fmt::format("{}: cannot write: {}", path_, std::strerror(errno)));
}

void NpzWriter::begin(const std::string& name, std::string_view descr, const std::vector<std::uint64_t>& shape) {
  end_member();
  Member member;
  member.name = name + ".npy";
  member.offset = static_cast<std::uint64_t>(out_.tellp());
  put(local_header(member.name, 0, 0));
  members_.push_back(member);
  open_ = true;
  const std::string header = npy_header(descr, shape);
  expected_bytes_ = header.size();
  std::uint64_t data_bytes = std::stoull(std::string(descr.substr(2)));
  for (const auto d : shape) data_bytes *= d;
  expected_bytes_ += data_bytes;
  write(std::as_bytes(std::span(header)));
}

void NpzWriter::write(std::span<const std::byte> bytes) {
  Member& member = members_.back();
  while (!bytes.empty()) {
    const auto part = bytes.first(std::min<std::size_t>(bytes.size(), std::size_t{1} << 30));
    member.crc32 = static_cast<std::uint32_t>(::crc32(member.crc32, reinterpret_cast<const Bytef*>(part.data()), static_cast<uInt>(part.size())));
    out_.write(reinterpret_cast<const char*>(part.data()), static_cast<std::streamsize>(part.size()));
    member.n_bytes += part.size();
    bytes = bytes.subspan(part.size());
  }
  put("");
}

void NpzWriter::end_member() {
  if (!open_) return;
  open_ = false;
  const Member& member = members_.back();
  if (member.n_bytes != expected_bytes_) {
    throw SystemError(fmt::format("{}: array {} got {} bytes, its shape says {}", path_, member.name, member.n_bytes, expected_bytes_));
  }
  out_.seekp(static_cast<std::streamoff>(member.offset));
  put(local_header(member.name, member.n_bytes, member.crc32));
  out_.seekp(0, std::ios::end);
}

void NpzWriter::finish() {
  end_member();
  const auto offset = static_cast<std::uint64_t>(out_.tellp());
  std::string directory;
  for (const Member& m : members_) directory += directory_entry(m.name, m.offset, m.n_bytes, m.crc32);
  put(directory);
  put(end_records(members_.size(), offset, directory.size()));
  out_.close();
  if (!out_) throw SystemError(fmt::format("{}: cannot close: {}", path_, std::strerror(errno)));
}

}  // namespace moekv
