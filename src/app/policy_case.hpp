// Case: one JSON case of `moekv policy`, read field by field; every missing, wrong or unknown field is collected and refused at once.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "config/rule_keys.hpp"
#include "core/error.hpp"
#include "core/field.hpp"

namespace moekv {

using Json = nlohmann::ordered_json;

/// Rows of equal length.
template <class T>
struct Matrix {
  std::vector<T> values;  // [n_rows][n_columns]
  std::size_t n_rows = 0, n_columns = 0;
  [[nodiscard]] const T* row(std::size_t i) const { return &values[i * n_columns]; }
};

/// An object of a case: the case itself or a part of it such as "state". Reading a bad field notes the problem and gives a default, so that
/// all problems are found; `finish` throws them. Call it after the last read and before the decision.
class Case {
 public:
  /// `where` names the object in messages ("<stdin>#/3"). The JSON must outlive the case.
  Case(const Json& object, const std::string& where);

  /// The path of the object in messages.
  [[nodiscard]] const std::string& where() const { return part_->where; }
  /// Whether the field is given; asking makes its name known.
  [[nodiscard]] bool has(std::string_view name) { return find(name) != nullptr; }
  /// The field as it stands, or null.
  [[nodiscard]] const Json* find(std::string_view name);
  /// Notes a problem of a field (or of the object where `name` is empty).
  void complain(std::string_view name, const std::string& what, const std::string& suggestion = {});
  /// Whether a problem has been noted anywhere in the case.
  [[nodiscard]] bool failed() const { return !state_->problems.empty(); }

  /// A required field: bool, number, text or an enum that has names.
  template <class T>
  [[nodiscard]] T value(std::string_view name, Limits limits = {}) {
    return require(name) ? value_or<T>(name, T{}, limits) : T{};
  }
  template <class T>
  [[nodiscard]] T value_or(std::string_view name, T fallback, Limits limits = {}) {
    if (const Json* field = find(name)) scalar(*field, name, &fallback, value_type<T>(), "", limits);
    return fallback;
  }
  /// A list of numbers or texts; empty where absent.
  template <class T>
  [[nodiscard]] std::vector<T> list(std::string_view name, Limits limits = {}) {
    const Json* field = find(name);
    return field != nullptr ? elements<T>(*field, name, limits) : std::vector<T>{};
  }
  /// A list of lists; empty where absent.
  template <class T>
  [[nodiscard]] std::vector<std::vector<T>> rows(std::string_view name, Limits limits = {});
  /// Rows of equal length; empty where absent. A single row may stand without the outer list.
  template <class T>
  [[nodiscard]] Matrix<T> matrix(std::string_view name, Limits limits = {});
  /// A part of the case; an empty one where absent.
  [[nodiscard]] Case part(std::string_view name);
  /// Notes a problem where the field is absent.
  bool require(std::string_view name);

  /// The rule that field `selector` names, with the fields of part `parameters` as its parameters. `others` are names that the caller has
  /// dealt with; messages list them too.
  template <class Variant>
  [[nodiscard]] Variant rule(std::string_view selector, std::string_view parameters = "params", const std::vector<std::string>& others = {});
  /// Sets the parameters of a rule (a struct with a `params` tuple) from the fields of this object.
  template <class Rule>
  void set_parameters(Rule& rule) {
    set_parameters(&rule, parameters_of<Rule>());
  }

  /// Throws every problem, unknown fields included. Nothing happens where there is none.
  void finish();

 private:
  struct Part {
    const Json* object;
    std::string where;
    std::set<std::string, std::less<>> known;
  };
  struct State {
    std::deque<Part> parts;
    std::vector<Problem> problems;
    Json nothing = Json::object();
  };
  Case(std::shared_ptr<State> state, const Json& object, std::string where);

  void note(const std::string& path, const std::string& what, const std::string& suggestion);
  /// One JSON scalar through the reader of configuration values, so that both have the same limits and messages.
  void scalar(const Json& json, std::string_view name, void* to, const ValueType& type, std::string_view unit, Limits limits);
  void set_parameters(void* rule, const std::vector<RuleParameter>& parameters);
  template <class T>
  [[nodiscard]] std::vector<T> elements(const Json& json, std::string_view name, Limits limits);
  [[nodiscard]] YamlNode node_of(const Json& json, std::string_view name) const;

  std::shared_ptr<State> state_;
  Part* part_ = nullptr;
};

/// "a list", "a number", ... for messages.
[[nodiscard]] std::string describe(const Json& json);

template <class T>
std::vector<T> Case::elements(const Json& json, std::string_view name, Limits limits) {
  std::vector<T> out;
  if (!json.is_array()) {
    complain(name, fmt::format("expected a list, got {}", describe(json)));
    return out;
  }
  out.resize(json.size());
  for (std::size_t i = 0; i < out.size() && !failed(); ++i) {
    const std::string path = fmt::format("{}/{}", name, i);
    if constexpr (std::is_floating_point_v<T>) {  // the common case, without text between
      if (json[i].is_number()) {
        out[i] = json[i].get<T>();
        if (!(std::isfinite(out[i]) && out[i] >= limits.min && out[i] <= limits.max)) {
          complain(path, "is out of range", range_text<T>(limits).empty() ? "" : "allowed: " + range_text<T>(limits));
        }
        continue;
      }
    }
    scalar(json[i], path, &out[i], value_type<T>(), "", limits);
  }
  return out;
}

template <class T>
std::vector<std::vector<T>> Case::rows(std::string_view name, Limits limits) {
  std::vector<std::vector<T>> out;
  const Json* field = find(name);
  if (field == nullptr) return out;
  if (!field->is_array()) {
    complain(name, fmt::format("expected a list of lists, got {}", describe(*field)));
    return out;
  }
  for (std::size_t i = 0; i < field->size() && !failed(); ++i) out.push_back(elements<T>((*field)[i], fmt::format("{}/{}", name, i), limits));
  return out;
}

template <class T>
Matrix<T> Case::matrix(std::string_view name, Limits limits) {
  Matrix<T> out;
  const Json* field = find(name);
  if (field == nullptr) return out;
  const bool flat = field->is_array() && !field->empty() && !field->front().is_array();
  const auto lists = flat ? std::vector<std::vector<T>>{elements<T>(*field, name, limits)} : rows<T>(name, limits);
  out.n_rows = lists.size();
  out.n_columns = lists.empty() ? 0 : lists.front().size();
  for (std::size_t i = 0; i < lists.size(); ++i) {
    if (lists[i].size() != out.n_columns) {
      complain(fmt::format("{}/{}", name, i), fmt::format("has {} values, the first row has {}", lists[i].size(), out.n_columns),
               "rows are equally long");
      return {};
    }
    out.values.insert(out.values.end(), lists[i].begin(), lists[i].end());
  }
  return out;
}

template <class Variant>
Variant Case::rule(std::string_view selector, std::string_view parameters, const std::vector<std::string>& others) {
  Variant out;
  Case params = part(parameters);
  if (!require(selector)) return out;
  const std::string name = resolve_alias<Variant>(value<std::string>(selector));
  std::vector<std::string> names = rule_names<Variant>();
  names.insert(names.end(), others.begin(), others.end());
  const auto found = std::find(names.begin(), names.end(), name);
  const auto index = static_cast<std::size_t>(found - names.begin());
  if (found == names.end()) {
    if (!failed()) complain(selector, fmt::format("unknown value '{}'", name), suggest_name(name, {names.begin(), names.end()}));
    for (const auto& [key, field] : params.part_->object->items()) params.part_->known.insert(key);  // whose parameters is not known
    return out;
  }
  if (index >= std::variant_size_v<Variant>) return out;
  out = default_rules<Variant>()[index];
  params.set_parameters(rule_address(out), rule_parameters<Variant>()[index]);
  return out;
}

}  // namespace moekv
