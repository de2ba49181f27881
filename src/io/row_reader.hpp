// RowReader: random access to the rows of one dataset of an untrusted file, through decoded blocks in a bounded cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

#include "io/block_cache.hpp"
#include "io/chunk_filters.hpp"
#include "io/hdf5.hpp"

namespace moekv {

/// Limits for files from elsewhere.
inline constexpr std::uint64_t most_chunk_bytes = std::uint64_t{1} << 26;  // of one chunk or one row, decoded
inline constexpr std::uint64_t most_inflation = 1100;                      // decoded / stored bytes of a dataset; deflate cannot exceed 1032

/// What a piece covers of its rows: everything, or one index of axis 1 (a plane). Read by planes, a dataset [T, L, ...] stored in chunks
/// of one plane decodes only what is asked for.
enum class RowPart : std::uint8_t { whole, plane };

/// Rows are slices of axis 0. Sizes, filters and stored bytes are checked as they are met; a UserError names dataset and row.
class RowReader {
 public:
  /// A run of rows that lie in one block; `data` is valid until the next call.
  struct Piece {
    const std::byte* data = nullptr;  // first row, first element of the plane
    std::uint64_t n_rows = 0;
    std::uint64_t stride_bytes = 0;  // from row to row
  };
  /// Sees each block once after decoding: rows [first_row, first_row + n_rows) as `row_bytes` each. Not called for RowPart::plane.
  using Check = std::function<void(const RowReader& reader, std::uint64_t first_row, std::uint64_t n_rows, const std::byte* rows)>;

  RowReader(h5::Dataset dataset, std::shared_ptr<BlockCache> cache, RowPart part = RowPart::whole, Check check = {});
  RowReader(RowReader&&) noexcept = default;

  [[nodiscard]] const h5::Dataset& dataset() const { return dataset_; }
  [[nodiscard]] const h5::Dims& dims() const { return dims_; }
  [[nodiscard]] h5::Type type() const { return type_; }
  [[nodiscard]] std::uint64_t n_rows() const { return dims_[0]; }
  /// Bytes of one complete row, and of one index of axis 1 in it.
  [[nodiscard]] std::uint64_t row_bytes() const { return row_bytes_; }
  [[nodiscard]] std::uint64_t plane_bytes() const { return plane_bytes_; }
  /// Rows of one block: reading in multiples of it decodes nothing twice.
  [[nodiscard]] std::uint64_t block_rows() const { return block_rows_; }

  /// The longest beginning of rows [begin, end) that one block holds, from index `plane` of axis 1 on: the rest of the row, or only that
  /// plane for RowPart::plane. begin < end <= n_rows().
  [[nodiscard]] Piece piece(std::uint64_t begin, std::uint64_t end, std::uint64_t plane = 0);

  /// Copies rows of a one-dimensional dataset whose type is T.
  template <class T>
  void read(std::uint64_t begin, std::uint64_t end, T* out) {
    while (begin < end) {
      const Piece p = piece(begin, end);
      std::memcpy(out, p.data, p.n_rows * sizeof(T));
      out += p.n_rows;
      begin += p.n_rows;
    }
  }

 private:
  void read_layout();
  void refuse_implausible_size() const;
  [[nodiscard]] BlockPtr decode(std::uint64_t block, std::uint64_t plane);
  /// Decodes every chunk of a block and puts its values in place.
  void gather(std::uint64_t block, std::uint64_t plane, std::byte* out);
  void decode_tile(const h5::Dims& offset, std::span<std::byte> out);
  void place_tile(const h5::Dims& offset, const std::byte* tile, std::uint64_t n_rows, std::byte* out) const;
  [[noreturn]] void refuse(const std::string& what, const std::string& suggestion) const;

  h5::Dataset dataset_;
  std::shared_ptr<BlockCache> cache_;
  Check check_;
  h5::Dims dims_, chunk_;  // chunk_ empty: contiguous
  std::vector<ChunkFilter> filters_;
  h5::Type type_ = h5::Type::other;
  std::uint32_t element_bytes_ = 0, owner_ = 0;
  std::uint64_t row_bytes_ = 0, plane_bytes_ = 0, block_rows_ = 1;
  bool split_planes_ = false;
  std::uint64_t last_index_ = ~std::uint64_t{0};
  BlockPtr last_;
  std::vector<std::byte> stored_, tile_;
};

}  // namespace moekv
