// Tar headers: checksum, octal and base-256 sizes, prefix, GNU long names, pax paths.
#include "io/tar.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "core/error.hpp"

namespace moekv {
namespace {

constexpr std::size_t block_bytes = 512;
constexpr std::uint64_t max_name_bytes = 1 << 16;
using TarBlock = std::array<char, block_bytes>;

std::string_view field(const TarBlock& block, std::size_t offset, std::size_t length) {
  const char* begin = block.data() + offset;
  return {begin, ::strnlen(begin, length)};
}

std::optional<std::uint64_t> octal(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\0')) text.remove_suffix(1);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 8);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Size field: octal text, or base 256 when its first bit is set.
std::optional<std::uint64_t> member_size(const TarBlock& block) {
  const auto first = static_cast<unsigned char>(block[124]);
  if ((first & 0x80U) == 0) return octal({block.data() + 124, 12});
  std::uint64_t value = 0;
  for (std::size_t i = 128; i < 136; ++i) value = (value << 8) | static_cast<unsigned char>(block[i]);
  return value;
}

bool checksum_fits(const TarBlock& block) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < block_bytes; ++i) sum += i >= 148 && i < 156 ? static_cast<unsigned char>(' ') : static_cast<unsigned char>(block[i]);
  return octal({block.data() + 148, 8}) == sum;
}

/// The value of "path" in a pax record list ("LENGTH path=VALUE\n" ...); empty when absent.
std::string pax_path(const std::string& records) {
  const std::size_t at = records.find(" path=");
  if (at == std::string::npos) return {};
  const std::size_t end = records.find('\n', at);
  return records.substr(at + 6, end == std::string::npos ? end : end - at - 6);
}

}  // namespace

bool looks_like_tar(std::string_view head) {
  if (head.size() < block_bytes || head.substr(257, 5) != "ustar") return false;
  TarBlock block;
  std::copy_n(head.begin(), block_bytes, block.begin());
  return checksum_fits(block);
}

void TarReader::read_exactly(std::span<std::byte> out) {
  if (stream_->read(out) != out.size())
    throw UserError(stream_->name(), "tar archive ends in the middle" + (member_.empty() ? "" : " of member '" + member_ + "'"));
}

std::string TarReader::read_text(std::uint64_t n_bytes) {
  if (n_bytes > max_name_bytes)
    throw UserError(stream_->name(), "tar header with a name of " + std::to_string(n_bytes) + " bytes", "the archive is damaged");
  std::string text((n_bytes + block_bytes - 1) / block_bytes * block_bytes, '\0');
  read_exactly(std::as_writable_bytes(std::span(text)));
  text.resize(n_bytes);
  return text;
}

void TarReader::skip_rest() {
  std::array<std::byte, 1 << 14> sink;
  std::uint64_t left = left_bytes_ + padding_bytes_;
  while (left > 0) {
    const std::size_t n = std::min<std::uint64_t>(left, sink.size());
    read_exactly(std::span(sink).first(n));
    left -= n;
  }
  left_bytes_ = padding_bytes_ = 0;
}

std::optional<TarMember> TarReader::next() {
  skip_rest();
  std::string long_name;
  for (;;) {
    TarBlock block;
    const std::size_t got = stream_->read(std::as_writable_bytes(std::span(block)));
    if (got == 0 || (got == block_bytes && std::all_of(block.begin(), block.end(), [](char c) { return c == 0; }))) return std::nullopt;
    if (got < block_bytes) throw UserError(stream_->name(), "tar archive ends in the middle of a header");
    const auto size = member_size(block);
    if (!checksum_fits(block) || !size || *size > (1ULL << 56)) throw UserError(stream_->name(), "damaged tar header after member '" + member_ + "'");
    const char type = block[156];
    if (type == 'L' || type == 'x') {
      const std::string text = read_text(*size);
      long_name = type == 'L' ? text.substr(0, text.find('\0')) : pax_path(text);
      continue;
    }
    const std::string_view prefix = field(block, 345, 155);
    member_ =
        !long_name.empty() ? long_name : (prefix.empty() || block[257] != 'u' ? "" : std::string(prefix) + "/") + std::string(field(block, 0, 100));
    long_name.clear();
    left_bytes_ = *size;
    padding_bytes_ = (block_bytes - *size % block_bytes) % block_bytes;
    if (type == '0' || type == '\0') return TarMember{member_, *size};
    skip_rest();
  }
}

std::size_t TarReader::read(std::span<std::byte> out) {
  const std::size_t n = std::min<std::uint64_t>(out.size(), left_bytes_);
  read_exactly(out.first(n));
  left_bytes_ -= n;
  return n;
}

}  // namespace moekv
