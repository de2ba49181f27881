// Columns of a trace being written: datasets that grow by rows and reach HDF5 in whole chunks, so that each chunk is compressed once.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "io/hdf5.hpp"

namespace moekv::native {

/// Rows per chunk: the power of two nearest to 1 MiB, within 64..16384.
[[nodiscard]] std::uint64_t chunk_rows(std::uint64_t row_bytes);

/// All axes of a row in one chunk, or one index of the first of them (recorded q, k, v are read layer by layer).
enum class Planes : std::uint8_t { together, apart };

template <class T>
class Column {
 public:
  Column(h5::Group& parent, const std::string& name, h5::Dims row_shape, Planes planes = Planes::together)
      : Column(parent, name, row_shape, chunk_shape(row_shape, planes)) {}

  void add(T value) {
    pending_.push_back(value);
    if (pending_.size() == batch_) flush();
  }
  void flush() {
    dataset_.append(std::span<const T>(pending_));
    pending_.clear();
  }
  [[nodiscard]] h5::Dataset& dataset() { return dataset_; }

 private:
  Column(h5::Group& parent, const std::string& name, const h5::Dims& row_shape, const h5::Dims& chunk)
      : dataset_(parent.create_dataset(name, h5::type_of<T>(), with_rows(0, row_shape),
                                       {.chunk = chunk, .extendable = true, .deflate_level = 4, .shuffle = sizeof(T) > 1, .fletcher32 = true})),
        batch_(chunk[0] * product(row_shape)) {
    pending_.reserve(batch_);
  }
  static h5::Dims with_rows(std::uint64_t rows, h5::Dims shape) {
    shape.insert(shape.begin(), rows);
    return shape;
  }
  static std::uint64_t product(const h5::Dims& shape) {
    std::uint64_t n = 1;
    for (const auto d : shape) n *= d;
    return n;
  }
  static h5::Dims chunk_shape(h5::Dims shape, Planes planes) {
    if (planes == Planes::apart) shape[0] = 1;
    return with_rows(chunk_rows(product(shape) * sizeof(T)), shape);
  }

  h5::Dataset dataset_;
  std::uint64_t batch_ = 0;  // elements of a row of chunks
  std::vector<T> pending_;
};

/// Expert ids in one byte or two; the absent expert becomes the largest value of the type.
class IdColumn {
 public:
  IdColumn(h5::Group& parent, const std::string& name, const h5::Dims& row_shape, std::uint32_t n_experts);
  void add(std::uint16_t id);
  void flush();

 private:
  std::variant<std::monostate, Column<std::uint8_t>, Column<std::uint16_t>> column_;
};

enum class RealType : std::uint8_t { fp16, bf16 };

/// Values stored in 16 bits. `add` returns false for a value that the type cannot hold (not finite, or beyond its range).
class RealColumn {
 public:
  RealColumn(h5::Group& parent, const std::string& name, const h5::Dims& row_shape, RealType type = RealType::fp16, Planes planes = Planes::together);
  [[nodiscard]] bool add(float value);
  void flush();

 private:
  std::variant<std::monostate, Column<h5::Half>, Column<std::uint16_t>> column_;
};

}  // namespace moekv::native
