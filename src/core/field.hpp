// Declares a struct's fields once (name, unit, definition): YAML keys, HDF5 names, help texts and tests are made from it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <tuple>
#include <type_traits>

namespace moekv {

/// A parameter of a rule or configuration struct. `min` and `max` bound arithmetic types (inclusive) and are ignored for others.
template <class Owner, class T>
struct Param {
  std::string_view name;
  T Owner::*member;
  std::string_view unit;
  std::string_view doc;
  double min = -1e300;
  double max = 1e300;
};
template <class Owner, class T>
Param(std::string_view, T Owner::*, std::string_view, std::string_view) -> Param<Owner, T>;
template <class Owner, class T>
Param(std::string_view, T Owner::*, std::string_view, std::string_view, double, double) -> Param<Owner, T>;

/// A parameter may be an enum: `constexpr auto enum_names(T)`, found by argument-dependent lookup, then lists its names in value order.
template <class T>
concept NamedEnum = std::is_enum_v<T> && requires { enum_names(T{}); };

/// What stands behind a number (METRICS 7.0).
enum class ClaimClass : std::uint8_t { counted, measured, modelled, derived };
/// How a field of one window is made from the rows of several ranks or windows.
enum class Combine : std::uint8_t { sum, max, min, key };
enum class Scope : std::uint8_t { global, rank, shard, expert, layer, request };

[[nodiscard]] constexpr std::string_view to_string(ClaimClass c) {
  constexpr std::string_view names[] = {"counted", "measured", "modelled", "derived"};
  return names[static_cast<int>(c)];
}
[[nodiscard]] constexpr std::string_view to_string(Scope s) {
  constexpr std::string_view names[] = {"global", "rank", "shard", "expert", "layer", "request"};
  return names[static_cast<int>(s)];
}

/// One metric: a field of one record (METRICS 7.0). `unit` is UDUNITS: "ns", "byte", "1".
template <class Owner, class T>
struct Metric {
  std::string_view name;
  T Owner::*member;
  std::string_view unit;
  std::string_view definition;
  Scope scope;
  ClaimClass claim;
  Combine combine;
};
template <class Owner, class T>
Metric(std::string_view, T Owner::*, std::string_view, std::string_view, Scope, ClaimClass, Combine) -> Metric<Owner, T>;

/// Calls f(field) for each element of a tuple of Param or Metric.
template <class Fields, class F>
constexpr void for_each_field(const Fields& fields, F&& f) {
  std::apply([&](const auto&... field) { (f(field), ...); }, fields);
}
/// The same for fields of one type: long records are arrays, for a tuple of a hundred costs every source that sees it seconds to compile.
template <class Field, std::size_t N, class F>
constexpr void for_each_field(const std::array<Field, N>& fields, F&& f) {
  for (const Field& field : fields) f(field);
}

}  // namespace moekv
