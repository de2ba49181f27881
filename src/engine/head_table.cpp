// The two forms of a head table, and the check of its shape and values.
#include "engine/head_table.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "core/error.hpp"
#include "io/hdf5.hpp"
#include "trace/text.hpp"

namespace moekv {
namespace {

constexpr std::string_view hdf5_mark = "\x89HDF\r\n\x1a\n";

bool is_hdf5(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw UserError(path, "cannot be read", "check eviction.allocator.path");
  std::string mark(hdf5_mark.size(), '\0');
  file.read(mark.data(), static_cast<std::streamsize>(mark.size()));
  return mark == hdf5_mark;
}

std::vector<double> read_dataset(const std::string& path, const std::string& name, std::uint32_t layers, std::uint32_t columns) {
  const h5::File file = h5::File::open(path, h5::Access::foreign);
  if (!file.has(name))
    throw UserError(path + ":/" + name, "is missing", fmt::format("store the numbers as dataset {} [{}, {}]", name, layers, columns));
  const h5::Dataset dataset = file.dataset(name);
  const h5::Dims dims = dataset.dims();
  if (dims != h5::Dims{layers, columns}) {
    throw UserError(path + ":/" + name,
                    fmt::format("has shape [{}], expected [{}, {}] (layers of the model, heads)", fmt::join(dims, ", "), layers, columns),
                    "check the file against the model and page.head_groups");
  }
  return dataset.read<double>();
}

/// Numbers of one line; stops at '#'.
std::vector<double> numbers_of(const std::string& path, std::uint32_t line_number, std::string_view line) {
  std::vector<double> out;
  line = line.substr(0, line.find('#'));
  constexpr std::string_view between = ",; \t\r";
  for (std::size_t begin = line.find_first_not_of(between); begin != std::string_view::npos; begin = line.find_first_not_of(between, begin)) {
    const std::size_t end = std::min(line.find_first_of(between, begin), line.size());
    const std::string_view word = line.substr(begin, end - begin);
    const auto number = parse_real(word);
    if (!number)
      throw UserError(fmt::format("{}:{}", path, line_number), fmt::format("'{}' is not a number", word), "give one row of numbers for each layer");
    out.push_back(*number);
    begin = end;
  }
  return out;
}

std::vector<double> read_text(const std::string& path, std::uint32_t layers, std::uint32_t columns) {
  std::ifstream file(path);
  std::vector<double> values;
  std::uint32_t rows = 0, line_number = 0;
  for (std::string line; std::getline(file, line);) {
    const std::vector<double> row = numbers_of(path, ++line_number, line);
    if (row.empty()) continue;
    rows += 1;
    if (row.size() != columns || rows > layers) {
      throw UserError(fmt::format("{}:{}", path, line_number),
                      fmt::format("row {} has {} numbers, expected {} rows of {}", rows, row.size(), layers, columns),
                      "check the file against the model and page.head_groups");
    }
    values.insert(values.end(), row.begin(), row.end());
  }
  if (rows != layers) {
    throw UserError(path, fmt::format("has {} rows, expected {} rows of {} (layers of the model, heads)", rows, layers, columns),
                    "check the file against the model and page.head_groups");
  }
  return values;
}

}  // namespace

std::vector<double> read_head_table(const std::string& path, std::string_view name, std::uint32_t layers, std::uint32_t columns) {
  std::vector<double> values = is_hdf5(path) ? read_dataset(path, std::string(name), layers, columns) : read_text(path, layers, columns);
  double most = 0;
  for (const double x : values) {
    if (!(x >= 0 && x <= 1e15)) throw UserError(path, fmt::format("{} is not among {} in 0..1e15", x, name), "check the file");
    most = std::max(most, x);
  }
  if (most == 0) throw UserError(path, fmt::format("no value of {} is above 0", name), "check the file");
  return values;
}

}  // namespace moekv
