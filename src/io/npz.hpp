// NumPy arrays from .npy and .npz files, read slab by slab: arrays larger than memory pass through in pieces.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/zip.hpp"

namespace moekv {

enum class NpyKind : std::uint8_t { boolean, signed_int, unsigned_int, floating, unicode };

/// What the header of an array says. Element (i0, i1, ...) in C order unless `fortran_order`.
struct NpyHeader {
  NpyKind kind = NpyKind::floating;
  std::uint32_t item_bytes = 0;  // unicode: 4 bytes per character
  bool fortran_order = false;
  std::vector<std::uint64_t> shape;  // empty = scalar
  std::uint64_t data_offset = 0;
  [[nodiscard]] std::uint64_t n_items() const;
  [[nodiscard]] std::string shape_text() const;  // "(8327, 26, 6)"
};

/// One array. Little-endian bool, ints, f2/f4/f8 and unicode; others (big-endian, complex, object, structured) are UserError.
/// Limits: 8 dimensions, header of 64 KiB, data must be as long as shape and type say.
class NpyArray {
 public:
  explicit NpyArray(std::unique_ptr<ByteSource> source);
  [[nodiscard]] const NpyHeader& header() const { return header_; }
  [[nodiscard]] const std::vector<std::uint64_t>& shape() const { return header_.shape; }
  [[nodiscard]] const std::string& name() const { return source_->name(); }
  [[nodiscard]] bool is_integer() const;
  /// Indices [begin, end) of `axis`, returned with that axis first and the others in their order, C-contiguous.
  /// Memory is that of the slab. Integers that do not fit int64 and types of another kind are UserError.
  void read_ints(std::uint32_t axis, std::uint64_t begin, std::uint64_t end, std::vector<std::int64_t>& out);
  void read_floats(std::uint32_t axis, std::uint64_t begin, std::uint64_t end, std::vector<float>& out);  // from any numeric type
  /// All items of a unicode array as UTF-8.
  [[nodiscard]] std::vector<std::string> read_strings();

 private:
  template <class Convert>
  void read_slab(std::uint32_t axis, std::uint64_t begin, std::uint64_t end, const Convert& convert);

  std::unique_ptr<ByteSource> source_;
  NpyHeader header_;
  std::vector<std::byte> raw_;
};

/// Arrays by name: the members of an .npz without ".npy", or the one array of an .npy under the file's stem.
using NpyArrays = std::map<std::string, NpyArray>;

/// True when the bytes begin as .npy or as a zip file.
[[nodiscard]] bool looks_like_npy(std::string_view head);
[[nodiscard]] bool looks_like_zip(std::string_view head);
/// Opens every array of the file; members that are no arrays are UserError. Reads headers only.
[[nodiscard]] NpyArrays open_arrays(const std::string& path);

}  // namespace moekv
