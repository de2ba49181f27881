// npy headers (versions 1 to 3) and slab reads of either memory order.
#include "io/npz.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <numeric>

#include "core/error.hpp"

namespace moekv {
namespace {

constexpr std::uint64_t max_header_bytes = 65536;
constexpr std::uint64_t max_slab_bytes = 8ULL << 30;
constexpr std::string_view npy_magic = "\x93NUMPY";
static_assert(std::endian::native == std::endian::little);

/// The text behind 'key': in the header's dictionary, up to the matching end; a UserError where it is missing.
std::string_view entry(std::string_view text, std::string_view key, const std::string& name) {
  const std::size_t at = text.find(fmt::format("'{}'", key));
  const std::size_t colon = at == std::string_view::npos ? at : text.find(':', at);
  if (colon == std::string_view::npos) throw UserError(name, fmt::format("npy header has no '{}'", key), "is it a NumPy array?");
  text.remove_prefix(colon + 1);
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  return text;
}

void parse_type(std::string_view text, NpyHeader& header, const std::string& name) {
  if (text.empty() || text.front() != '\'') throw UserError(name, "structured arrays are not supported", "save plain integers or floats");
  text = text.substr(1, text.find('\'', 1) - 1);
  const std::string shown(text);
  const char order = text.empty() ? '?' : text.front();
  if (order == '>') throw UserError(name, "big-endian array (" + shown + ")", "save it as little-endian: a.astype(a.dtype.newbyteorder('<'))");
  if (order == '<' || order == '|' || order == '=') text.remove_prefix(1);
  std::uint32_t n = 0;
  const char kind = text.empty() ? '?' : text.front();
  if (text.size() > 1) std::from_chars(text.data() + 1, text.data() + text.size(), n);
  const bool power = n == 1 || n == 2 || n == 4 || n == 8;
  if (kind == 'O') throw UserError(name, "object array (pickled Python)", "save plain integers or floats");
  if (kind == 'b' && n == 1)
    header.kind = NpyKind::boolean;
  else if (kind == 'i' && power)
    header.kind = NpyKind::signed_int;
  else if (kind == 'u' && power)
    header.kind = NpyKind::unsigned_int;
  else if (kind == 'f' && power && n > 1)
    header.kind = NpyKind::floating;
  else if (kind == 'U' && n > 0 && n <= (1U << 20))
    header.kind = NpyKind::unicode;
  else
    throw UserError(name, "element type '" + shown + "' is not supported", "allowed: bool, integers, f2, f4, f8");
  header.item_bytes = kind == 'U' ? 4 * n : n;
}

void parse_shape(std::string_view text, NpyHeader& header, const std::string& name) {
  const std::size_t close = text.find(')');
  if (text.empty() || text.front() != '(' || close == std::string_view::npos) throw UserError(name, "npy header without a shape");
  const char* at = text.data() + 1;
  const char* end = text.data() + close;
  while (at < end) {
    std::uint64_t value = 0;
    const auto [stop, error] = std::from_chars(at, end, value);
    if (error != std::errc() || header.shape.size() == 8)
      throw UserError(name, "npy shape '" + std::string(text.substr(0, close + 1)) + "' cannot be used");
    header.shape.push_back(value);
    at = stop;
    while (at < end && (*at == ',' || *at == ' ' || *at == 'L')) ++at;
  }
}

/// Items times bytes, or a UserError on overflow.
std::uint64_t data_bytes(const NpyHeader& header, const std::string& name) {
  std::uint64_t n = header.item_bytes;
  for (const std::uint64_t extent : header.shape) {
    if (__builtin_mul_overflow(n, extent, &n)) throw UserError(name, "shape " + header.shape_text() + " is too large");
  }
  return n;
}

NpyHeader parse_header(ByteSource& source) {
  std::byte start[12];
  if (source.size_bytes() < sizeof(start)) throw UserError(source.name(), "is too short for a NumPy array");
  source.read_at(0, start);
  if (std::memcmp(start, npy_magic.data(), npy_magic.size()) != 0) throw UserError(source.name(), "is not a NumPy array (.npy)");
  const auto version = static_cast<unsigned>(start[6]);
  if (version < 1 || version > 3) throw UserError(source.name(), "npy version " + std::to_string(version) + " is not supported");
  std::uint32_t length = 0;
  std::memcpy(&length, start + 8, version == 1 ? 2 : 4);
  const std::uint64_t begin = version == 1 ? 10 : 12;
  if (length > max_header_bytes || begin + length > source.size_bytes())
    throw UserError(source.name(), "npy header of " + std::to_string(length) + " bytes");
  std::string text(length, '\0');
  source.read_at(begin, std::as_writable_bytes(std::span(text)));
  NpyHeader header;
  parse_type(entry(text, "descr", source.name()), header, source.name());
  parse_shape(entry(text, "shape", source.name()), header, source.name());
  header.fortran_order = entry(text, "fortran_order", source.name()).starts_with("True");
  header.data_offset = begin + length;
  const std::uint64_t expected = data_bytes(header, source.name()), present = source.size_bytes() - header.data_offset;
  if (expected != present) {
    throw UserError(source.name(),
                    "shape " + header.shape_text() + " needs " + std::to_string(expected) + " bytes, the file has " + std::to_string(present),
                    "the file is truncated or damaged");
  }
  return header;
}

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

float half_to_float(std::uint16_t h) {
  const std::uint32_t sign = (h & 0x8000U) << 16, exponent = (h >> 10) & 0x1FU, mantissa = h & 0x3FFU;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000U | mantissa << 13);
  if (exponent == 0) return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(static_cast<float>(mantissa) * 0x1p-24F));
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

std::int64_t load_int(const NpyHeader& header, const std::byte* at, const std::string& name) {
  const bool negative = header.kind == NpyKind::signed_int;
  switch (header.item_bytes) {
    case 1:
      return negative ? load<std::int8_t>(at) : load<std::uint8_t>(at);
    case 2:
      return negative ? load<std::int16_t>(at) : load<std::uint16_t>(at);
    case 4:
      return negative ? load<std::int32_t>(at) : load<std::uint32_t>(at);
    default:
      break;
  }
  const auto value = load<std::uint64_t>(at);
  if (!negative && value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    throw UserError(name, "integer " + std::to_string(value) + " is too large");
  return static_cast<std::int64_t>(value);
}

float load_float(const NpyHeader& header, const std::byte* at, const std::string& name) {
  if (header.kind != NpyKind::floating) return static_cast<float>(load_int(header, at, name));
  if (header.item_bytes == 2) return half_to_float(load<std::uint16_t>(at));
  return header.item_bytes == 4 ? load<float>(at) : static_cast<float>(load<double>(at));
}

void append_utf8(std::uint32_t c, std::string& out) {
  const auto put = [&](std::uint32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | (c >> 18 & 7)), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  }
}

}  // namespace

std::uint64_t NpyHeader::n_items() const { return std::accumulate(shape.begin(), shape.end(), std::uint64_t{1}, std::multiplies<>()); }

std::string NpyHeader::shape_text() const {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

NpyArray::NpyArray(std::unique_ptr<ByteSource> source) : source_(std::move(source)), header_(parse_header(*source_)) {}

bool NpyArray::is_integer() const {
  return header_.kind == NpyKind::signed_int || header_.kind == NpyKind::unsigned_int || header_.kind == NpyKind::boolean;
}

/// Calls convert(index in the output, bytes of the item) for every item of the slab. In memory the slab is `outer` runs of
/// (end - begin) * inner items; Fortran order is C order of the reversed shape.
template <class Convert>
void NpyArray::read_slab(std::uint32_t axis, std::uint64_t begin, std::uint64_t end, const Convert& convert) {
  std::vector<std::uint64_t> extent = header_.shape;
  if (axis >= extent.size() || begin > end || end > extent[axis]) throw UserError(name(), "slab outside of shape " + header_.shape_text());
  std::size_t at = axis;
  if (header_.fortran_order) {
    std::reverse(extent.begin(), extent.end());
    at = extent.size() - 1 - axis;
  }
  const auto product = [&](std::size_t from, std::size_t to) {
    return std::accumulate(extent.begin() + static_cast<std::ptrdiff_t>(from), extent.begin() + static_cast<std::ptrdiff_t>(to), std::uint64_t{1},
                           std::multiplies<>());
  };
  const std::uint64_t outer = product(0, at), inner = product(at + 1, extent.size()), n = end - begin;
  if (n * inner * header_.item_bytes > max_slab_bytes / std::max<std::uint64_t>(outer, 1))
    throw UserError(name(), "a slab of shape " + header_.shape_text() + " is too large");
  // Where outer and inner coordinates of the file land in the output (axis first, others in their order).
  const std::uint64_t others = outer * inner;
  std::vector<std::uint64_t> target(others);
  for (std::uint64_t o = 0; o < outer; ++o) {
    for (std::uint64_t i = 0; i < inner; ++i) {
      std::uint64_t to = o * inner + i;
      if (header_.fortran_order) {  // digits of the reversed shape without the axis, read backwards
        std::uint64_t rest = to;
        to = 0;
        std::uint64_t scale = others;
        for (std::size_t d = extent.size(); d-- > 0;) {
          if (d == at) continue;
          scale /= extent[d];
          to += rest % extent[d] * scale;
          rest /= extent[d];
        }
      }
      target[o * inner + i] = to;
    }
  }
  raw_.resize(n * inner * header_.item_bytes);
  for (std::uint64_t o = 0; o < outer && n > 0; ++o) {
    source_->read_at(header_.data_offset + (o * extent[at] + begin) * inner * header_.item_bytes, raw_);
    for (std::uint64_t j = 0; j < n; ++j) {
      for (std::uint64_t i = 0; i < inner; ++i) convert(j * others + target[o * inner + i], raw_.data() + (j * inner + i) * header_.item_bytes);
    }
  }
}

void NpyArray::read_ints(std::uint32_t axis, std::uint64_t begin, std::uint64_t end, std::vector<std::int64_t>& out) {
  if (!is_integer()) throw UserError(name(), "holds no integers");
  const std::uint64_t extent = axis < header_.shape.size() ? std::max<std::uint64_t>(header_.shape[axis], 1) : 1;
  out.resize(header_.n_items() / extent * (end - begin));
  read_slab(axis, begin, end, [&](std::uint64_t to, const std::byte* at) { out[to] = load_int(header_, at, name()); });
}

void NpyArray::read_floats(std::uint32_t axis, std::uint64_t begin, std::uint64_t end, std::vector<float>& out) {
  if (header_.kind == NpyKind::unicode) throw UserError(name(), "holds text, not numbers");
  const std::uint64_t extent = axis < header_.shape.size() ? std::max<std::uint64_t>(header_.shape[axis], 1) : 1;
  out.resize(header_.n_items() / extent * (end - begin));
  read_slab(axis, begin, end, [&](std::uint64_t to, const std::byte* at) { out[to] = load_float(header_, at, name()); });
}

std::vector<std::string> NpyArray::read_strings() {
  if (header_.kind != NpyKind::unicode) throw UserError(name(), "holds no text");
  const std::uint64_t n = header_.n_items();
  if (n * header_.item_bytes > (256ULL << 20)) throw UserError(name(), "text array is too large");
  std::vector<std::byte> bytes(n * header_.item_bytes);
  source_->read_at(header_.data_offset, bytes);
  std::vector<std::string> out(n);
  for (std::uint64_t i = 0; i < n; ++i) {
    for (std::uint64_t c = 0; c < header_.item_bytes; c += 4) {
      const auto code = load<std::uint32_t>(bytes.data() + i * header_.item_bytes + c);
      if (code != 0) append_utf8(code, out[i]);
    }
  }
  return out;
}

bool looks_like_npy(std::string_view head) { return head.starts_with(npy_magic); }
bool looks_like_zip(std::string_view head) { return head.starts_with("PK\x03\x04"); }

NpyArrays open_arrays(const std::string& path) {
  NpyArrays arrays;
  std::string head(8, '\0');
  const auto file = open_file_source(path);
  file->read_at(0, std::as_writable_bytes(std::span(head)).first(std::min<std::uint64_t>(head.size(), file->size_bytes())));
  if (!looks_like_zip(head)) {
    arrays.emplace(std::filesystem::path(path).stem().string(), NpyArray(open_file_source(path)));
    return arrays;
  }
  const ZipArchive archive(path);
  for (const ZipMember& member : archive.members()) {
    if (member.name.ends_with("/")) continue;
    const std::string name = member.name.ends_with(".npy") ? member.name.substr(0, member.name.size() - 4) : member.name;
    if (!arrays.emplace(name, NpyArray(archive.open(member))).second) throw UserError(path, "two members are named '" + name + "'");
  }
  return arrays;
}

}  // namespace moekv
