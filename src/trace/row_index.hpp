// RowIndex: which row of a step-ordered trace holds a request's position; beside memory on disk where it is large.
#pragma once

#include <cstddef>
#include <cstdint>

#include "trace/native_file.hpp"

namespace moekv::native {

/// Built by one pass over /tokens/request and /tokens/position. Throws UserError where a request's positions do not run 0, 1, 2.. in the
/// order of the file: such a file would need an unbounded sort.
class RowIndex {
 public:
  explicit RowIndex(const NativeFile& trace);
  ~RowIndex();
  RowIndex(const RowIndex&) = delete;
  RowIndex& operator=(const RowIndex&) = delete;

  [[nodiscard]] std::uint64_t row(std::uint64_t token) const { return rows_[token]; }

 private:
  std::uint64_t* rows_ = nullptr;  // [n_tokens], request by request; a mapping of an unlinked file above the limit
  std::size_t n_bytes_ = 0;
};

/// Bytes of the index that stay in anonymous memory.
inline constexpr std::size_t row_index_memory_bytes = std::size_t{256} << 20;

}  // namespace moekv::native
