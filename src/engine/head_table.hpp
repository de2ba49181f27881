// Head table: a number for every layer and KV head (or head group) from a file: gates of DuoAttention, shares of HeadKV.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moekv {

/// Values [layers][columns] of an HDF5 dataset `name`, or of a text of one row a layer with numbers between commas, tabs or blanks (# starts a
/// remark). Throws UserError where the file cannot be read, has another shape, or holds a negative value or none above 0.
[[nodiscard]] std::vector<double> read_head_table(const std::string& path, std::string_view name, std::uint32_t layers, std::uint32_t columns);

}  // namespace moekv
