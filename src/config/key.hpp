// Key: one row of the table of configuration keys, and the templates that make a row from a field of RunSpec or a parameter of a rule.
#pragma once

#include <fmt/format.h>

#include <concepts>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "config/document.hpp"
#include "config/names.hpp"
#include "config/scalar.hpp"
#include "engine/run_spec.hpp"

namespace moekv {

/// Collects the complaints of one key's reader; `what` continues the key's name ("expected ...").
class Complaints {
 public:
  Complaints(std::string path, std::vector<Problem>& problems) : path_(std::move(path)), problems_(problems) {}
  void operator()(const Place& at, const std::string& what, std::string suggestion = {}) {
    problems_.push_back(problem_at(at, fmt::format("{}: {}", path_, what), std::move(suggestion)));
  }

 private:
  std::string path_;
  std::vector<Problem>& problems_;
};

/// One configuration key. `read` sets the field or complains; `write` gives the field as YAML flow text. The default of a key is what
/// `write` says of a RunSpec that nobody touched.
struct Key {
  std::string path;  // "eviction.protect.sinks"
  std::string type;  // "whole number", "number", "choice", ...
  std::string unit;
  std::string doc;
  std::vector<std::string> values;  // of a choice
  std::string range;                // "8..256"
  std::string rule;                 // a parameter of this rule alone; `selector` is the key that chooses the rule
  std::string selector;
  std::string counts;   // key that a value such as "last:32" sets too
  bool written = true;  // false: a short form, absent from the resolved text
  bool decides = true;  // false: changes no decision, not part of the digest
  std::function<void(const YamlNode&, RunSpec&, Complaints&)> read;
  std::function<std::string(const RunSpec&)> write;
  std::function<bool(const RunSpec&)> active = [](const RunSpec&) { return true; };  // whether `rule` is the chosen one
};

struct Limits {
  double min = -1e300, max = 1e300;
};

/// Text as a YAML scalar, quoted where a YAML reader would take it for something else.
[[nodiscard]] std::string quote(const std::string& text);
/// The node as YAML flow text on one line; reading it back gives the same tree.
[[nodiscard]] std::string to_flow(const YamlNode& node);
/// "a, b, c".
[[nodiscard]] std::string join(const std::vector<std::string>& names);
/// Sets `index` to the position of the node's text in `names`, or complains with the nearest name.
[[nodiscard]] bool read_choice(const YamlNode& node, const std::vector<std::string>& names, std::size_t& index, Complaints& complain);
/// True where the node is a scalar; complains otherwise.
[[nodiscard]] bool expect_scalar(const YamlNode& node, std::string_view expected, Complaints& complain);

template <class E>
[[nodiscard]] std::vector<std::string> names_of() {
  std::vector<std::string> names;
  for (const std::string_view name : enum_names(E{})) names.emplace_back(name);
  return names;
}

template <class T>
[[nodiscard]] std::string type_name() {
  if constexpr (std::is_same_v<T, bool>)
    return "true or false";
  else if constexpr (std::is_enum_v<T>)
    return "choice";
  else if constexpr (std::is_integral_v<T>)
    return "whole number";
  else if constexpr (std::is_floating_point_v<T>)
    return "number";
  else
    return "text";
}

template <class T>
[[nodiscard]] std::string range_text(Limits limits) {
  if constexpr (!std::is_arithmetic_v<T> || std::is_same_v<T, bool>)
    return {};
  else {
    if (limits.min <= -1e300 && limits.max >= 1e300) return {};
    if (limits.max >= 1e300) return fmt::format(">= {}", limits.min);
    return fmt::format("{}..{}", limits.min, limits.max);
  }
}

/// Reads a number and checks its limits; limits of an integral type are also those of the type.
template <class T>
void read_number(const YamlNode& node, T& out, std::string_view unit, Limits limits, Complaints& complain) {
  const auto parsed = [&] {
    if constexpr (std::is_integral_v<T>)
      return parse_unsigned(node.text, unit);
    else
      return parse_number(node.text, unit);
  }();
  if (!parsed.ok()) return complain(node.at, parsed.error, range_text<T>(limits).empty() ? "" : "allowed: " + range_text<T>(limits));
  const bool inside = static_cast<double>(parsed.value) >= limits.min && static_cast<double>(parsed.value) <= limits.max && [&] {
    if constexpr (std::is_integral_v<T>) return std::in_range<T>(parsed.value);
    return true;
  }();
  if (!inside) {
    if constexpr (std::is_integral_v<T>) limits.max = std::min(limits.max, static_cast<double>(std::numeric_limits<T>::max()));
    return complain(node.at, fmt::format("{} is out of range", node.text), "allowed: " + range_text<T>(limits));
  }
  out = static_cast<T>(parsed.value);
}

template <class T>
void read_value(const YamlNode& node, T& out, std::string_view unit, Limits limits, Complaints& complain) {
  if (!expect_scalar(node, type_name<T>(), complain)) return;
  if constexpr (std::is_same_v<T, bool>) {
    const auto parsed = parse_bool(node.text);
    if (!parsed.ok()) return complain(node.at, parsed.error);
    out = parsed.value;
  } else if constexpr (std::is_enum_v<T>) {
    std::size_t index = 0;
    if (read_choice(node, names_of<T>(), index, complain)) out = static_cast<T>(index);
  } else if constexpr (std::is_arithmetic_v<T>) {
    read_number(node, out, unit, limits, complain);
  } else {
    out = node.text;
  }
}

template <class T>
[[nodiscard]] std::string write_value(const T& value) {
  if constexpr (std::is_same_v<T, bool>)
    return value ? "true" : "false";
  else if constexpr (std::is_enum_v<T>)
    return quote(std::string(enum_name(value)));
  else if constexpr (std::is_arithmetic_v<T>)
    return fmt::format("{}", value);
  else
    return quote(value);
}

/// What a row does with a value of one type. Rows know their values by address, so that a type costs compile time once and not once a key.
struct ValueType {
  std::string type;
  bool is_bool = false, is_number = false;
  std::vector<std::string> names;  // of a choice
  std::string (*range)(Limits);
  void (*read)(const YamlNode& node, void* to, std::string_view unit, Limits limits, Complaints& complain);
  std::string (*write)(const void* value);
};
template <class T>
[[nodiscard]] const ValueType& value_type() {
  static const ValueType type = [] {
    ValueType t;
    t.type = type_name<T>();
    t.is_bool = std::is_same_v<T, bool>;
    t.is_number = std::is_arithmetic_v<T>;
    if constexpr (std::is_enum_v<T>) t.names = names_of<T>();
    t.range = range_text<T>;
    t.read = [](const YamlNode& node, void* to, std::string_view unit, Limits limits, Complaints& complain) {
      read_value<T>(node, *static_cast<T*>(to), unit, limits, complain);
    };
    t.write = [](const void* value) { return write_value<T>(*static_cast<const T*>(value)); };
    return t;
  }();
  return type;
}

/// A row without `read` and `write`.
[[nodiscard]] Key typed_key(std::string_view path, std::string_view unit, std::string_view doc, const ValueType& type, Limits limits);
/// A row for the value of `type` that `field(spec)` points to.
[[nodiscard]] Key value_key(std::string_view path, std::string_view unit, std::string_view doc, const ValueType& type, Limits limits,
                            void* (*field)(RunSpec&));

/// A row for the field that `access(spec)` names; `access` has no state.
template <class Access>
[[nodiscard]] Key field_key(std::string_view path, std::string_view unit, std::string_view doc, Access, Limits limits = {}) {
  using T = std::remove_cvref_t<std::invoke_result_t<Access, RunSpec&>>;
  return value_key(path, unit, doc, value_type<T>(), limits, [](RunSpec& spec) -> void* { return &Access{}(spec); });
}

/// A row for a text field that takes one of `values`.
template <class Access>
[[nodiscard]] Key text_choice_key(std::string_view path, std::string_view doc, const std::vector<std::string>& values, Access access) {
  Key key = field_key(path, "", doc, access);
  key.type = "choice";
  key.values = values;
  key.read = [=](const YamlNode& node, RunSpec& spec, Complaints& complain) {
    std::size_t index = 0;
    if (expect_scalar(node, "a name", complain) && read_choice(node, values, index, complain)) access(spec) = values[index];
  };
  return key;
}

}  // namespace moekv
