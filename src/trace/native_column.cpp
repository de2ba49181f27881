// Element types of the columns of a trace being written.
#include "trace/native_column.hpp"

#include <algorithm>
#include <cmath>

#include "rules/codec/element.hpp"
#include "trace/native_format.hpp"

namespace moekv::native {

std::uint64_t chunk_rows(std::uint64_t row_bytes) {
  const double rows = 1048576.0 / static_cast<double>(std::max<std::uint64_t>(1, row_bytes));
  const double power = std::exp2(std::round(std::log2(rows)));
  return static_cast<std::uint64_t>(std::clamp(power, 64.0, 16384.0));
}

IdColumn::IdColumn(h5::Group& parent, const std::string& name, const h5::Dims& row_shape, std::uint32_t n_experts) {
  if (ids_fit_byte(n_experts)) {
    column_.emplace<1>(parent, name, row_shape);
  } else {
    column_.emplace<2>(parent, name, row_shape);
  }
}

void IdColumn::add(std::uint16_t id) {
  if (auto* narrow = std::get_if<1>(&column_)) {
    narrow->add(static_cast<std::uint8_t>(id));
  } else {
    std::get<2>(column_).add(id);
  }
}

void IdColumn::flush() {
  if (auto* narrow = std::get_if<1>(&column_)) {
    narrow->flush();
  } else {
    std::get<2>(column_).flush();
  }
}

RealColumn::RealColumn(h5::Group& parent, const std::string& name, const h5::Dims& row_shape, RealType type, Planes planes) {
  if (type == RealType::fp16) {
    column_.emplace<1>(parent, name, row_shape, planes);
  } else {
    column_.emplace<2>(parent, name, row_shape, planes).dataset().set("element", "bf16");
  }
}

bool RealColumn::add(float value) {
  if (auto* half = std::get_if<1>(&column_)) {
    if (!(std::abs(value) <= fp16_max)) return false;
    half->add({fp16_from_float(value)});
    return true;
  }
  if (!std::isfinite(value)) return false;
  std::get<2>(column_).add(bf16_from_float(value));
  return true;
}

void RealColumn::flush() {
  if (auto* half = std::get_if<1>(&column_)) {
    half->flush();
  } else {
    std::get<2>(column_).flush();
  }
}

}  // namespace moekv::native
