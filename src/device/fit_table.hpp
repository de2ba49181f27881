// Makes the tables of maps (rules/codec/map.hpp) from rows: centres, channels to keep, bases, codebooks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rules/codec/format.hpp"

namespace moekv {

/// Rows that a table is made from: x [n_rows][d]; queries [n_queries][d] of the query heads that read them (none: all directions count alike).
struct TableSamples {
  const float* rows;
  std::uint32_t n_rows;
  const float* queries;
  std::uint32_t n_queries;
  std::uint32_t first_rotated = 0;  // RoPE turns channels from here to d (MLA: behind those of V), in halves
};

/// Writes table_bytes(f, d) bytes at `table`. Not for TableFit::loaded. The same samples give the same bytes.
void fit_table(const PlaneFormat& f, std::uint32_t d, const TableSamples& samples, std::byte* table);

}  // namespace moekv
