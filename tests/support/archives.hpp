// Writes small gzip, tar, npy and npz files for tests, byte by byte, so that readers are checked against an independent writer.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace moekv::testing {

inline void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

/// zlib with window bits: 31 = gzip, -15 = raw.
inline std::string deflated(const std::string& bytes, int window_bits) {
  z_stream z{};
  deflateInit2(&z, 9, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&z, static_cast<uLong>(bytes.size())) + 64, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  z.avail_in = static_cast<uInt>(bytes.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  if (deflate(&z, Z_FINISH) != Z_STREAM_END) throw std::runtime_error("deflate");
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}
inline std::string gzipped(const std::string& bytes) { return deflated(bytes, 31); }

template <class T>
std::string raw_bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

/// An .npy file's bytes; `shape` as Python writes it, e.g. "(2, 3)".
inline std::string npy(const std::string& type, const std::string& shape, const std::string& data, bool fortran = false, int version = 1) {
  std::string text = "{'descr': '" + type + "', 'fortran_order': " + (fortran ? "True" : "False") + ", 'shape': " + shape + ", }";
  while ((text.size() + (version == 1 ? 10 : 12) + 1) % 64 != 0) text += ' ';
  text += '\n';
  std::string out = std::string("\x93NUMPY") + static_cast<char>(version) + '\0';
  const auto n = static_cast<std::uint32_t>(text.size());
  out.append(reinterpret_cast<const char*>(&n), version == 1 ? 2 : 4);
  return out + text + data;
}

enum class ZipMethod { stored, deflated };

/// A zip file's bytes. With `zip64` the sizes live in the 64-bit extra fields and the 64-bit end record is used.
inline std::string zipped(const std::vector<std::pair<std::string, std::string>>& members, ZipMethod method, bool zip64 = false) {
  std::string out, directory;
  const auto put = [](std::string& to, std::uint64_t value, std::size_t n) { to.append(reinterpret_cast<const char*>(&value), n); };
  for (const auto& [name, data] : members) {
    const std::string stored = method == ZipMethod::stored ? data : deflated(data, -15);
    const auto crc = crc32(0, reinterpret_cast<const Bytef*>(data.data()), static_cast<uInt>(data.size()));
    const std::uint64_t offset = out.size(), code = method == ZipMethod::stored ? 0 : 8;
    std::string common;
    put(common, code, 2), put(common, 0, 4), put(common, crc, 4);
    put(common, zip64 ? 0xFFFFFFFFU : stored.size(), 4), put(common, zip64 ? 0xFFFFFFFFU : data.size(), 4), put(common, name.size(), 2);
    std::string extra;
    if (zip64) put(extra, 1, 2), put(extra, 16, 2), put(extra, data.size(), 8), put(extra, stored.size(), 8);
    out += std::string("PK\x03\x04") + std::string("\x2d\0\0\0", 4) + common;
    put(out, extra.size(), 2);
    for (const std::string& part : {name, extra, stored}) out += part;
    directory += std::string("PK\x01\x02") + std::string("\x2d\0\x2d\0\0\0", 6) + common;
    put(directory, extra.size(), 2), put(directory, 0, 2), put(directory, 0, 2), put(directory, 0, 2), put(directory, 0, 4),
        put(directory, offset, 4);
    directory += name + extra;
  }
  const std::uint64_t at = out.size();
  out += directory;
  if (zip64) {
    const std::uint64_t end64 = out.size();
    out += "PK\x06\x06";
    put(out, 44, 8), put(out, 45, 2), put(out, 45, 2), put(out, 0, 8), put(out, members.size(), 8), put(out, members.size(), 8);
    put(out, directory.size(), 8), put(out, at, 8);
    out += "PK\x06\x07";
    put(out, 0, 4), put(out, end64, 8), put(out, 1, 4);
  }
  out += "PK\x05\x06";
  put(out, 0, 4), put(out, zip64 ? 0xFFFFU : members.size(), 2), put(out, zip64 ? 0xFFFFU : members.size(), 2);
  put(out, zip64 ? 0xFFFFFFFFU : directory.size(), 4), put(out, zip64 ? 0xFFFFFFFFU : at, 4), put(out, 0, 2);
  return out;
}

/// A ustar archive's bytes.
inline std::string tarred(const std::vector<std::pair<std::string, std::string>>& members) {
  std::string out;
  for (const auto& [name, data] : members) {
    std::string header(512, '\0');
    header.replace(0, name.size(), name);
    char size[13];
    std::snprintf(size, sizeof(size), "%011lo", static_cast<unsigned long>(data.size()));
    header.replace(124, 11, size);
    header.replace(148, 8, "        ");
    header[156] = '0';
    header.replace(257, 6, std::string("ustar\0", 6));
    unsigned sum = 0;
    for (const char c : header) sum += static_cast<unsigned char>(c);
    char checksum[8];
    std::snprintf(checksum, sizeof(checksum), "%06o", sum);
    header.replace(148, 7, std::string(checksum, 7));
    out += header + data + std::string((512 - data.size() % 512) % 512, '\0');
  }
  return out + std::string(1024, '\0');
}

}  // namespace moekv::testing
